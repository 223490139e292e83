"""What the command line said: one object for each group of options that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..records.event_path import Step
from ..records.limits import Limits
from ..records.record_filter import Format
from ..service.diagnostics import Severity
from ..service.listen import Listen
from ..service.policy_source import PolicySource


@dataclass(frozen=True)
class PolicySettings(PolicySource):
    """The policy of a running filter.

    Attributes:
        reload_interval: seconds between two looks whether its content has changed; 0: there are none.
        wait: if the policy can't be used at the start, wait for one that can.
    """

    reload_interval: float = 5.0
    wait: bool = False


@dataclass(frozen=True)
class RecordSettings:
    """How records are read, and what is done to them.

    Attributes:
        event_path: the way to the event in a record; None: look where it usually is.
        reduce: reduce kept events to the level of their rule.
        format: of the stream of records.
    """

    event_path: tuple[Step, ...] | None
    reduce: bool
    format: Format = "msgpack"


@dataclass(frozen=True)
class LogSettings:
    """Where messages go.

    Attributes:
        file: a file to append to; None: stderr.
        level: the lowest severity that is written.
        format: of a message.
    """

    file: str | None
    level: Severity
    format: Literal["text", "json"]


@dataclass(frozen=True)
class MetricsSettings:
    """Where metrics go.

    Attributes:
        listen: where to serve them over HTTP.
        textfile: a directory to write them into; None: none.
    """

    listen: Sequence[Listen]
    textfile: str | None


@dataclass(frozen=True)
class FilterSettings:
    """What every command that filters has.

    Attributes:
        shutdown_grace: seconds of the grace period.
    """

    policy: PolicySettings
    records: RecordSettings
    limits: Limits
    log: LogSettings
    metrics: MetricsSettings
    shutdown_grace: float
