"""The filter's counters as Prometheus metrics. docs/metrics.md says what each metric means.

Nothing is counted for the metrics alone: they are read from the filter's own counters at each scrape, so that
they cost a record nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..records.counters import Counters, Undecided
from .diagnostics import Diagnostics
from .policy_watch import PolicyWatch
from .running import Running

PREFIX = "kube_audit_filter_"
# The reason for elements of lists that stayed undecided, beside the reasons for whole records.
LIST_ITEM = "list_item"


# One value, or one for each combination of labels.
Values = float | Mapping[Any, float]


class AuditCollector(Collector):
    """Reads the counters of one filter. Any thread may call it while records are decided on.

    Args:
        counters: the filter's counters.
        policy: the state of the policy.
        diagnostics: counts messages.
        activity: the running filter.
        labels: labels to add to every sample, such as the number of this child of an agent.
    """

    def __init__(
        self,
        counters: Counters,
        policy: PolicyWatch[Any],
        diagnostics: Diagnostics,
        activity: Running,
        labels: Mapping[str, str],
    ) -> None:
        # Read it now: an upgrade may replace the files of a running filter.
        self._version = version("kube-audit-filter")
        self._counters = counters
        self._policy = policy
        self._diagnostics = diagnostics
        self._activity = activity
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now."""
        yield self._gauge("build_info", "1, with the version.", {(self._version,): 1}, "version")
        yield from self._stream_metrics()
        yield from self._event_metrics()
        yield from self._policy_metrics()
        said = {(level,): count for level, count in self._diagnostics.messages.copy().items()}
        yield self._counter("log_messages", "Messages, written or not.", said, "level")
        unwritten = self._diagnostics.unwritten
        yield self._counter("log_messages_unwritten", "Messages that could not be written.", unwritten)

    def _stream_metrics(self) -> Iterable[Metric]:
        counters = self._counters
        yield self._counter("records_in", "Records that came in whole.", counters.records)
        yield self._counter("records_out", "Records that went on.", counters.records_out)
        yield self._counter("records_split", "Records that went on as several.", counters.split)
        not_split = counters.not_split
        yield self._counter("records_not_split", "Records with a list that had to stay whole.", not_split)
        yield self._counter("bytes_in", "Bytes read.", counters.bytes_in)
        yield self._counter("bytes_out", "Bytes of what went on.", counters.bytes_out)
        is_dry = int(counters.dry_run_bytes_out is not None)
        yield self._gauge("dry_run", "1 if nothing is dropped or changed, only counted.", is_dry)
        would = counters.dry_run_bytes_out or 0
        yield self._counter("dry_run_bytes_out", "Bytes of what would have gone on but for a dry run.", would)
        last = self._activity.last_read
        yield self._gauge("last_read_timestamp_seconds", "When input last came; 0 before the first.", last)
        blocked = self._activity.blocked_for
        yield self._gauge("output_blocked_seconds", "How long output has been waiting to be taken.", blocked)

    def _event_metrics(self) -> Iterable[Metric]:
        kept = 0
        dropped: Counter[tuple[str, ...]] = Counter()
        matched: Counter[tuple[str, ...]] = Counter()
        reduced: Counter[tuple[str, ...]] = Counter()
        redacted: Counter[tuple[str, ...]] = Counter()
        for tally in self._counters.tallies():
            events = tally.events
            matched[tally.rule,] += events
            if tally.drop_reason is None:
                kept += events
                reduced[tally.level.value,] += tally.reduced
                redacted[tally.rule,] += tally.redacted
            else:
                dropped[tally.rule, tally.drop_reason] += events
        passed = {(reason,): self._counters.undecided[reason] for reason in get_args(Undecided)}
        passed[LIST_ITEM,] = self._counters.undecided_items
        received = kept + sum(dropped.values()) + sum(passed.values())
        unreadable = passed["undecodable",] + passed["too_deep",]
        yield self._counter("events_received", "Events, and records that went on undecided.", received)
        yield self._counter("events_kept", "Events that the policy keeps.", kept)
        yield self._counter("events_dropped", "Events that the policy drops.", dropped, "rule", "reason")
        yield self._counter("events_matched", "Events that a rule decided on.", matched, "rule")
        yield self._counter("events_reduced", "Kept events that were reduced to a level.", reduced, "level")
        not_reduced = self._counters.not_reduced
        yield self._counter("events_not_reduced", "Kept events that could not be reduced.", not_reduced)
        text = "Kept events in which something was redacted."
        yield self._counter("events_redacted", text, redacted, "rule")
        not_redacted = self._counters.not_redacted
        text = "Kept events that lost what could not be redacted."
        yield self._counter("events_not_redacted", text, not_redacted)
        yield self._counter("undecided", "Records that went on without a decision.", passed, "reason")
        faults = self._counters.faults
        yield self._counter("internal_errors", "Faults of the filter itself that cost no record.", faults)
        yield self._counter("decode_errors", "Records that could not be decoded.", unreadable)

    def _policy_metrics(self) -> Iterable[Metric]:
        policy = self._policy
        in_use = {} if policy.digest is None else {(policy.digest,): 1}
        reloads = {(result,): count for result, count in policy.reloads.copy().items()}
        yield self._gauge("policy_info", "1, with the digest of the policy in use.", in_use, "sha256")
        yield self._counter("policy_reloads", "Times that the policy was read again.", reloads, "result")
        yield self._gauge(
            "policy_last_reload_successful",
            "Whether the policy, when it was last read, could be used.",
            int(policy.is_current),
        )
        yield self._gauge(
            "policy_last_reload_timestamp_seconds", "When the policy in use was read.", policy.loaded_at
        )

    def _counter(self, name: str, text: str, values: Values, *labels: str) -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=[*labels, *self._labels])
        return self._filled(family, values)

    def _gauge(self, name: str, text: str, values: Values, *labels: str) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=[*labels, *self._labels])
        return self._filled(family, values)

    def _filled(self, family: CounterMetricFamily | GaugeMetricFamily, values: Values) -> Metric:
        if not isinstance(values, Mapping):
            values = {(): values}
        for labels, value in values.items():
            family.add_metric([*labels, *self._labels.values()], value)
        return family
