"""The parts that exec and forward have in common: records, policy, metrics and chores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from filter_engine import Policy, PolicyError, PolicyEvaluator
from filter_engine.redaction.redactors import with_key

from ..records.event_filter import EventFilter
from ..records.limits import Limits
from ..records.record_filter import RecordFilter
from ..service.diagnostics import INTERVAL, Diagnostics
from ..service.housekeeping import Chore, Housekeeper
from ..service.policy_watch import SETTLE, PolicyWatch, refusal
from ..service.running import Running
from .settings import LogSettings, MetricsSettings, PolicySettings, RecordSettings

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def configure_log(diagnostics: Diagnostics, settings: LogSettings) -> None:
    """Send messages where the user wants them."""
    diagnostics.configure(path=settings.file, level=settings.level, as_json=settings.format == "json")


def make_records(settings: RecordSettings, limits: Limits, diagnostics: Diagnostics) -> RecordFilter:
    """Make the part that decides on records. It has no policy yet."""
    # Up to Python 3.11, this limit also holds for the depth of the JSON and MessagePack that is decoded.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), limits.depth + 500))
    return RecordFilter(
        format=settings.format,
        event_path=settings.event_path,
        reduce=settings.reduce,
        split=settings.split,
        dry_run=settings.dry_run,
        limits=limits,
        on_error=lambda error: diagnostics.rarely("error", "error", f"a record went on undecided: {error!r}"),
    )


def watch_policy(
    settings: PolicySettings,
    records: RecordFilter,
    publish: Callable[[EventFilter], None],
    diagnostics: Diagnostics,
) -> PolicyWatch[EventFilter]:
    """Make the watch of the policy that the user named. The policy is not loaded yet."""

    def prepare(policy: Policy) -> EventFilter:
        policy = with_key(policy, settings.name)
        return records.prepare(PolicyEvaluator(policy, level_match=settings.level_match))

    return PolicyWatch(
        settings,
        prepare=prepare,
        publish=publish,
        diagnostics=diagnostics,
        settle=min(SETTLE, settings.reload_interval or SETTLE),
    )


def load_policy(
    policy: PolicyWatch[Any], diagnostics: Diagnostics, is_told_to_end: Callable[[], bool], *, wait: bool
) -> None:
    """Load the policy for the first time.

    Args:
        policy: the policy.
        diagnostics: where errors are written if ``wait`` is set.
        is_told_to_end: tells whether to stop waiting for a pipe that nobody writes.
        wait: if the policy can't be used, write its errors instead of raising them.

    Raises:
        OSError: the policy can't be read.
        PolicyError: the policy can't be used.
    """
    try:
        policy.load(is_told_to_end)
    except (OSError, PolicyError) as error:
        if not wait:
            raise
        lines = refusal(error) if isinstance(error, PolicyError) else [f"{error.filename}: {error.strerror}"]
        lines[-1] += "; nothing is read until there is a policy that can be used"
        diagnostics.error(*lines)


class Exporter(Protocol):
    """Exports metrics: over HTTP or into a file."""

    interval: float

    def export(self, asked: bool) -> None:
        """Call this every ``interval`` seconds."""

    def close(self) -> None:
        """Stop exporting."""


def make_exporters(
    make_collector: Callable[[dict[str, str]], Collector],
    settings: MetricsSettings,
    running: Running,
    diagnostics: Diagnostics,
) -> list[Exporter]:
    """The exporters that the user has asked for.

    Args:
        make_collector: makes the metrics, with labels to add to every sample.
        settings: where metrics go.
        running: the filter, for health checks.
        diagnostics: where failures are reported.
    """
    exporters: list[Exporter] = []
    if settings.listen:
        from ..service.metrics_server import MetricsServer  # noqa: PLC0415 - slow to import

        exporters += [
            MetricsServer(make_collector({}), listen, running, diagnostics) for listen in settings.listen
        ]
    if settings.textfile is not None:
        from ..service.metrics_textfile import MetricsTextfile  # noqa: PLC0415 - slow to import

        exporters.append(MetricsTextfile(make_collector, settings.textfile, diagnostics))
    return exporters


def start_housekeeper(
    policy: PolicyWatch[Any],
    reload_interval: float,
    exporters: Sequence[Exporter],
    diagnostics: Diagnostics,
    *more: Chore,
) -> Housekeeper:
    """Start the thread that does all chores, at intervals and when SIGHUP asks for them."""
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
