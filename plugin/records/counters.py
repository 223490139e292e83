"""What a filter counts: records of a stream, and events by what was decided on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from filter_engine import Decision, Level, Policy

# Why an event was dropped.
DropReason = Literal["level_none", "stage_omitted", "no_rule_matched"]


class Tally:
    """Events of one kind of decision.

    Attributes:
        rule: the name of the rule that decided; see :meth:`filter_engine.Policy.rule_name`.
        drop_reason: None for events that were kept.
        level: the decision's level.
        events: how many there were.
        reduced: how many of them were reduced to the level.
    """

    __slots__ = ("drop_reason", "events", "level", "reduced", "rule")

    def __init__(self, rule: str, drop_reason: DropReason | None, level: Level) -> None:
        self.rule = rule
        self.drop_reason = drop_reason
        self.level = level
        self.events = self.reduced = 0


class Tallies:
    """All tallies of a filter. They outlive a policy: a later one's rules of the same names count on.

    Another thread may read while one counts.
    """

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, DropReason | None, Level], Tally] = {}

    def all(self) -> list[Tally]:
        """The tallies there are, in the order in which they came up."""
        return list(self._by_kind.values())

    def of(self, decision: Decision, policy: Policy) -> Tally:
        """The tally of decisions like this one."""
        kind = (policy.rule_name(decision.rule), _drop_reason(decision), decision.level)
        tally = self._by_kind.get(kind)
        if tally is None:
            tally = self._by_kind[kind] = Tally(*kind)
        return tally

    def expect(self, policy: Policy) -> None:
        """Make the tallies that each rule of a policy may come to need, so that they are seen at 0."""
        for index, rule in enumerate(policy.rules):
            self.of(Decision(rule.level, index, False, False), policy)
            if rule.omit_stages or policy.omit_stages:
                self.of(Decision(rule.level, index, True, False), policy)
        self.of(Decision(Level.NONE, None, False, False), policy)


def _drop_reason(decision: Decision) -> DropReason | None:
    if decision.keep:
        return None
    if decision.level is not Level.NONE:
        return "stage_omitted"
    return "no_rule_matched" if decision.rule is None else "level_none"


@dataclass
class Totals:
    """Records of a stream: ``records`` = ``kept`` + ``dropped`` + those that went on undecided.

    Group markers are not records. ``rewritten`` counts kept records of
    which not all bytes are those that came.
    """

    records: int = 0
    kept: int = 0
    dropped: int = 0
    rewritten: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def undecided(self) -> int:
        """How many records passed without a decision."""
        return self.records - self.kept - self.dropped
