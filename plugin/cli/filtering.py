"""What the commands that filter put together alike: records, policy, metrics and chores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click

from filter_engine import PolicyError, PolicyEvaluator
from filter_engine.evaluator import LevelMatch

from .. import policies
from ..records.event_filter import EventFilter
from ..records.event_path import Step
from ..records.limits import Limits
from ..records.record_filter import Format, RecordFilter
from ..service.diagnostics import INTERVAL, Diagnostics
from ..service.housekeeping import Chore, Housekeeper
from ..service.listen import Listen
from ..service.policy_watch import SETTLE, PolicyWatch, refusal
from ..service.running import Running

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def make_records(
    format_: Format,
    event_path: tuple[Step, ...] | None,
    limits: Limits,
    diagnostics: Diagnostics,
    *,
    reduce: bool,
) -> RecordFilter:
    """The part that decides, without a policy yet."""
    # Up to Python 3.11, this is also the depth to which JSON and MessagePack are decoded.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), limits.depth + 500))
    return RecordFilter(
        format=format_,
        event_path=event_path,
        reduce=reduce,
        limits=limits,
        on_error=lambda error: diagnostics.rarely("error", "error", f"a record went on undecided: {error!r}"),
    )


def watch_policy(
    name: str,
    records: RecordFilter,
    publish: Callable[[EventFilter], None],
    diagnostics: Diagnostics,
    *,
    lenient: bool,
    level_match: LevelMatch,
    reload_interval: float,
) -> PolicyWatch[EventFilter]:
    """The policy that the user named, not loaded yet."""
    try:
        return PolicyWatch(
            name,
            strict=not lenient,
            codes=level_match == "exact",
            prepare=lambda policy: records.prepare(PolicyEvaluator(policy, level_match=level_match)),
            publish=publish,
            diagnostics=diagnostics,
            settle=min(SETTLE, reload_interval or SETTLE),
        )
    except KeyError:
        known = ", ".join(policies.PREFIX + known for known in policies.names())
        raise click.BadParameter(
            f"{name!r} is not built in; there is {known}", param_hint="--policy"
        ) from None


def load_policy(policy: PolicyWatch[Any], diagnostics: Diagnostics, *, wait: bool) -> None:
    """Load it for the first time.

    Args:
        policy: the policy.
        diagnostics: where to complain.
        wait: if it can't be used, complain instead of raising.

    Raises:
        OSError: it can't be read.
        PolicyError: it can't be used.
    """
    try:
        policy.load()
    except (OSError, PolicyError) as error:
        if not wait:
            raise
        fault = refusal(error) if isinstance(error, PolicyError) else f"{error.filename}: {error.strerror}"
        diagnostics.error(f"{fault}; nothing is read until there is a policy that can be used")


class Exporter(Protocol):
    """A way for metrics to get out."""

    interval: float

    def export(self, asked: bool) -> None:
        """Call this every ``interval`` seconds."""

    def close(self) -> None:
        """Export no more."""


def make_exporters(
    make_collector: Callable[[dict[str, str]], Collector],
    listen: Listen | None,
    textfile: str | None,
    running: Running,
    diagnostics: Diagnostics,
) -> list[Exporter]:
    """The exporters that the user has asked for.

    Args:
        make_collector: makes the metrics, with labels to be added to every sample.
        listen: serve them there.
        textfile: write them into this directory.
        running: the filter, for its health.
        diagnostics: where to complain.
    """
    exporters: list[Exporter] = []
    if listen is not None:
        from ..service.metrics_server import MetricsServer  # noqa: PLC0415 - slow to import

        exporters.append(MetricsServer(make_collector({}), listen, running, diagnostics))
    if textfile is not None:
        from ..service.metrics_textfile import MetricsTextfile  # noqa: PLC0415 - slow to import

        exporters.append(MetricsTextfile(make_collector, textfile, diagnostics))
    return exporters


def start_housekeeper(
    policy: PolicyWatch[Any],
    reload_interval: float,
    exporters: Sequence[Exporter],
    diagnostics: Diagnostics,
    *more: Chore,
) -> Housekeeper:
    """Do what has to be done at intervals, and when SIGHUP asks for it."""
    housekeeper = Housekeeper(
        [
            Chore(lambda asked: diagnostics.reopen() if asked else diagnostics.flush(), INTERVAL),
            Chore(policy.check, reload_interval or None),
            *(Chore(exporter.export, exporter.interval, at_start=True) for exporter in exporters),
            *more,
        ],
        diagnostics,
    )
    housekeeper.start()
    return housekeeper
