"""Settings from the command line: one object for each group of options that commands share."""

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
        reload_interval: seconds between two checks whether the policy's content has changed; with 0 there
            are no checks.
        wait: whether to wait for another policy if the first one can't be used.
    """

    reload_interval: float = 5.0
    wait: bool = False


@dataclass(frozen=True)
class RecordSettings:
    """How records are read, and what is done to them.

    Attributes:
        event_path: the path to the event in a record; with None, the event is looked for.
        reduce: reduce kept events to the level of their rule.
        split: let a record with a list of events go on as one record for each event that is left.
        dry_run: decide and count, but let all records go on as they are.
        format: the format of the stream of records.
    """

    event_path: tuple[Step, ...] | None
    reduce: bool
    split: bool
    dry_run: bool
    format: Format = "msgpack"


@dataclass(frozen=True)
class LogSettings:
    """Where messages go.

    Attributes:
        file: a file to append to; None for stderr.
        level: the lowest severity that is written.
        format: the format of messages.
    """

    file: str | None
    level: Severity
    format: Literal["text", "json"]


@dataclass(frozen=True)
class MetricsSettings:
    """Where metrics go.

    Attributes:
        listen: the addresses on which they are served over HTTP.
        textfile: the directory of the textfile; None if there is no textfile.
    """

    listen: Sequence[Listen]
    textfile: str | None


@dataclass(frozen=True)
class FilterSettings:
    """The settings of every command that filters.

    Attributes:
        shutdown_grace: seconds of the grace period.
    """

    policy: PolicySettings
    records: RecordSettings
    limits: Limits
    log: LogSettings
    metrics: MetricsSettings
    shutdown_grace: float
