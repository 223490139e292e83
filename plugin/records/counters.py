"""All that a filter counts. The summary and the metrics show these counters."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from filter_engine import Decision, Level, Policy

# Why an event was dropped.
DropReason = Literal["level_none", "stage_omitted", "no_rule_matched", "not_in_sample"]
# Why a record went on without a decision; docs/exec.md explains each.
Undecided = Literal[
    "not_an_event",
    "not_a_record",
    "undecodable",
    "too_large",
    "too_deep",
    "too_many_items",
    "no_policy",
    "internal_error",
]


class Tally:
    """Events of one kind of decision.

    Attributes:
        rule: the name of the rule that decided; see :meth:`filter_engine.Policy.rule_name`.
        drop_reason: why the events were dropped; None for events that were kept.
        level: the decision's level.
        events: how many events there were.
        reduced: how many of these events were reduced to the level.
        redacted: in how many of them something was redacted.
    """

    __slots__ = ("drop_reason", "events", "level", "redacted", "reduced", "rule")

    def __init__(self, rule: str, drop_reason: DropReason | None, level: Level) -> None:
        self.rule = rule
        self.drop_reason = drop_reason
        self.level = level
        self.events = self.reduced = self.redacted = 0


class Counters:
    """Counts what went through a filter. Another thread may read the counters while one counts.

    ``records`` = ``kept`` + ``dropped`` + ``undecided_records``. Group markers are not records.

    Attributes:
        records: records that came in whole.
        kept: records that go on because the policy keeps them, or a part of them.
        dropped: records that the policy drops.
        rewritten: kept records that go on with new bytes.
        split: kept records that go on as one record for each event that is left of their list.
        added: how many more records went on than came in, because records were split.
        not_split: records with a list of events that had to stay whole.
        bytes_in: bytes read.
        bytes_out: bytes that go on.
        undecided: how many records went on without a decision, by reason.
        undecided_items: elements of lists of events that stayed undecided while other elements of the
            same list were decided.
        not_reduced: events that should have been reduced but can't be written anew; they go on as
            they are.
        not_redacted: events that lost parts, or all but a few fields, because these could not be redacted.
        dropped_markers: group markers that were dropped because every record of their group was.
        faults: exceptions in the filter itself that were caught, so that no record was lost.
        dry_run_bytes_out: in a dry run, how many bytes would have gone on; otherwise None.
    """

    def __init__(self) -> None:
        self.records = self.kept = self.dropped = self.rewritten = 0
        self.split = self.added = self.not_split = 0
        self.bytes_in = self.bytes_out = 0
        self.undecided: Counter[str] = Counter()
        self.undecided_items = self.not_reduced = self.not_redacted = 0
        self.dropped_markers = self.faults = 0
        self.dry_run_bytes_out: int | None = None
        # Tallies outlive a policy: rules of a later policy with the same names go on counting.
        self._tallies: dict[tuple[str, DropReason | None, Level], Tally] = {}

    @property
    def undecided_records(self) -> int:
        """How many records went on without a decision."""
        return self.records - self.kept - self.dropped

    @property
    def records_out(self) -> int:
        """How many records went on."""
        return (
            self.records if self.dry_run_bytes_out is not None else self.records - self.dropped + self.added
        )

    def tallies(self) -> list[Tally]:
        """The tallies of all kinds of decisions, in the order in which they were made."""
        return list(self._tallies.values())

    def tally(self, decision: Decision, policy: Policy) -> Tally:
        """The tally of events with decisions like this one."""
        return self._tally(policy.rule_name(decision.rule), _drop_reason(decision), decision.level)

    def left_out(self, decision: Decision, policy: Policy) -> Tally:
        """The tally of events that are not in the sample of the rule that would keep them."""
        return self._tally(policy.rule_name(decision.rule), "not_in_sample", decision.level)

    def _tally(self, *kind: Any) -> Tally:
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = Tally(*kind)
        return tally

    def expect(self, policy: Policy) -> None:
        """Make the tallies that each rule of a policy may need, so that the metrics show them at 0."""
        for index, rule in enumerate(policy.rules):
            self.tally(Decision(rule.level, index, False, False), policy)
            if rule.omit_stages or policy.omit_stages:
                self.tally(Decision(rule.level, index, True, False), policy)
            if rule.sample is not None:
                self.left_out(Decision(rule.level, index, False, False), policy)
        self.tally(Decision(policy.default_level, None, False, False), policy)


def _drop_reason(decision: Decision) -> DropReason | None:
    if decision.keep:
        return None
    if decision.level is not Level.NONE:
        return "stage_omitted"
    return "no_rule_matched" if decision.rule is None else "level_none"
