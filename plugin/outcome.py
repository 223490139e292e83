"""What is decided on events, and how often: what the summary and the metrics tell."""

from __future__ import annotations

from typing import Literal

from filter_engine import Decision, Level, Policy
from plugin.envelope import DROP, KEEP

# Why an event was dropped.
DropReason = Literal["level_none", "stage_omitted", "no_rule_matched"]


class Tally:
    """Events of one kind of decision.

    Attributes:
        rule: the name of the rule that decided; see :meth:`filter_engine.Policy.rule_name`.
        drop_reason: None for events that were kept.
        level: the decision's level.
        events: how many there were.
        reduced: how many of them were lowered to the level.
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


class Outcome:
    """A decision, and what it means for an event.

    Attributes:
        fate: KEEP or DROP.
        at_once: the fate where it is all there is to an event; None where the event's bytes have to
            be looked at, because it may have to be lowered.
        tally: counts the events.
    """

    __slots__ = ("at_once", "decision", "fate", "tally")

    def __init__(self, decision: Decision, tally: Tally, *, may_reduce: bool) -> None:
        self.decision = decision
        self.tally = tally
        self.fate = KEEP if decision.keep else DROP
        self.at_once = None if may_reduce else self.fate
