"""What a new policy no longer records, records at another level, or newly records, decided without a log.

Every answer is exact: a difference comes with an audit event that was replayed on both policies, and where
none is reported, there is none that the facts of :mod:`filter_engine.analysis.world` allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.analysis.half_search import bits
from filter_engine.analysis.outcomes import level_at, numbers_of_rules
from filter_engine.analysis.pieces import Budget
from filter_engine.analysis.request_fields import STAGES
from filter_engine.analysis.request_sets import MAX_PIECES, RequestSet, in_words
from filter_engine.analysis.request_space import Space
from filter_engine.analysis.search import Searcher, deciding
from filter_engine.analysis.witnesses import Witnesses
from filter_engine.evaluator import LevelMatch
from filter_engine.model import Level
from filter_engine.policy import Policy

# What becomes of the recording of some events: it ends, its level falls or rises, or it begins.
Change = Literal["lost", "lower", "higher", "gained"]


@dataclass(frozen=True)
class Difference:
    """Events on which a rule of the old policy and a rule of the new one decide, with other outcomes.

    Attributes:
        change: what the new policy does to them.
        old_rule: index of the old policy's rule; None for events that match no rule.
        new_rule: index of the new policy's rule; None for events that match no rule.
        old_level: the level at which the old policy records them; ``Level.NONE`` if it drops them, also for
            their stage.
        new_level: the same of the new policy.
        sets: the events, as sets that do not overlap, each with at least one believable event.
        is_complete: whether ``sets`` has all of them. If not, there are more than
            :data:`~.request_sets.MAX_SETS`, and the last ones are left out.
        witness: one of the events, complete, replayed on both policies.
    """

    change: Change
    old_rule: int | None
    new_rule: int | None
    old_level: Level
    new_level: Level
    sets: tuple[RequestSet, ...]
    is_complete: bool
    witness: Mapping[str, Any]


@dataclass(frozen=True)
class ActionChange:
    """Events that both policies keep, and treat differently after that.

    Attributes:
        field: what differs: ``sample``, ``redact``, ``redaction``, ``reduce`` or ``omitManagedFields``.
        old: the old value, as JSON data; None for none.
        new: the new value.
        old_rule: index of the old policy's rule; None for events that match no rule.
        new_rule: index of the new policy's rule.
        witness: one of the events, complete, replayed on both policies.
    """

    field: str
    old: Any
    new: Any
    old_rule: int | None
    new_rule: int | None
    witness: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """How two policies differ.

    Attributes:
        differences: in the order of ``Change``, then of the rules. Empty if both record the same events at
            the same levels.
        action_changes: other differences, in the order of the rules.
    """

    differences: tuple[Difference, ...]
    action_changes: tuple[ActionChange, ...]

    @property
    def is_equivalent(self) -> bool:
        """Whether no believable event shows a difference."""
        return not (self.differences or self.action_changes)

    def of(self, change: Change) -> tuple[Difference, ...]:
        """The differences of one kind."""
        return tuple(each for each in self.differences if each.change == change)


def compare(
    old: Policy,
    new: Policy,
    *,
    old_level_match: LevelMatch = "kubernetes",
    new_level_match: LevelMatch = "kubernetes",
) -> Comparison:
    """Compare what two policies record. They may be of different kinds.

    Args:
        old: a policy.
        new: another one.
        old_level_match: that of the :class:`~filter_engine.PolicyEvaluator` that uses the old policy.
        new_level_match: the same of the new one.

    Raises:
        TooManyClassesError: the patterns of the policies divide a field into more classes than can be looked
            at.
    """
    return _Pair(old, new, old_level_match, new_level_match).compare()


# The order in which differences are told.
_CHANGES: tuple[Change, ...] = ("lost", "lower", "higher", "gained")


class _Pair:
    """Two policies, numbered 0 (old) and 1 (new)."""

    def __init__(
        self, old: Policy, new: Policy, old_level_match: LevelMatch, new_level_match: LevelMatch
    ) -> None:
        policies = [(old, old_level_match), (new, new_level_match)]
        self._old, self._new = old, new
        self._space = Space(policies)
        self._searcher = Searcher(self._space)
        self._witnesses = Witnesses(self._space, policies)

    def compare(self) -> Comparison:
        differences: list[Difference] = []
        changes: list[ActionChange] = []
        for old_rule, new_rule in self._meeting():
            by_outcome: dict[tuple[Level, Level], int] = {}
            for number, stage in enumerate(STAGES):
                levels = level_at(self._old, old_rule, stage), level_at(self._new, new_rule, stage)
                by_outcome[levels] = by_outcome.get(levels, 0) | 1 << number
            kept = 0
            for (old_level, new_level), stages in by_outcome.items():
                if Level.NONE not in (old_level, new_level):
                    kept |= stages
                if old_level is not new_level:
                    differences += self._difference(old_rule, new_rule, old_level, new_level, stages)
            if kept:
                changes += self._action_changes(old_rule, new_rule, kept)
        differences.sort(
            key=lambda each: (
                _CHANGES.index(each.change),
                _last(each.old_rule),
                _last(each.new_rule),
            )
        )
        return Comparison(tuple(differences), tuple(changes))

    def _difference(
        self, old_rule: int | None, new_rule: int | None, old_level: Level, new_level: Level, stages: int
    ) -> Iterator[Difference]:
        decided = [(0, old_rule), (1, new_rule)]
        within = {"stages": stages}
        found = self._searcher.decided_by(decided, within)
        if found is None:
            return
        matched, unmatched = deciding(self._space, decided)
        budget = Budget(MAX_PIECES)
        pieces = self._searcher.sets(matched, unmatched, within, budget)
        sets, is_complete = in_words(pieces, budget, self._space.users)
        change: Change = "lower" if new_level < old_level else "higher"
        if new_level is Level.NONE:
            change = "lost"
        elif old_level is Level.NONE:
            change = "gained"
        witness = self._witnesses.replayed(found, decided)
        yield Difference(change, old_rule, new_rule, old_level, new_level, sets, is_complete, witness)

    def _action_changes(
        self, old_rule: int | None, new_rule: int | None, stages: int
    ) -> Iterator[ActionChange]:
        old, new = _actions(self._old, old_rule), _actions(self._new, new_rule)
        if old == new:
            return
        decided = [(0, old_rule), (1, new_rule)]
        found = self._searcher.decided_by(decided, {"stages": stages})
        if found is None:
            return
        witness = self._witnesses.replayed(found, decided)
        for name, value in old.items():
            if value != new[name]:
                yield ActionChange(name, value, new[name], old_rule, new_rule, witness)

    def _meeting(self) -> Iterator[tuple[int | None, int | None]]:
        """Pairs of rules of the two policies that may decide on the same event; None for no rule.

        A pair is left out where a rule that is the same in both policies decides earlier.
        """
        old = [_region(self._space, 0, rule) for rule in range(len(self._old.rules))]
        new = [_region(self._space, 1, rule) for rule in range(len(self._new.rules))]
        first_old, first_new = _first(old), _first(new)
        never = float("inf")
        for old_rule in numbers_of_rules(self._old):
            at = never if old_rule is None else old_rule
            latest = never if old_rule is None else first_new.get(old[old_rule], never)
            for new_rule in sorted(self._searcher.partners(0, old_rule, 1), key=_last):
                if _last(new_rule) > latest:
                    break
                if new_rule is None or first_old.get(new[new_rule], never) >= at:
                    yield old_rule, new_rule


def _first(regions: Sequence[Any]) -> dict[Any, int]:
    """The first rule of each region."""
    found: dict[Any, int] = {}
    for rule, region in enumerate(regions):
        found.setdefault(region, rule)
    return found


def _last(rule: int | None) -> float:
    return float("inf") if rule is None else rule


def _actions(policy: Policy, rule: int | None) -> dict[str, Any]:
    """What is done with the events that a rule keeps, as JSON data."""
    of_rule = None if rule is None else policy.rules[rule]
    redact = sorted({*policy.redact, *(of_rule.redact if of_rule else ())})
    omits = of_rule.omit_managed_fields if of_rule else None
    return {
        "sample": of_rule.sample.to_dict() if of_rule and of_rule.sample else None,
        "redact": redact,
        "redaction": policy.redaction.to_dict() if redact else None,
        "reduce": policy.reduce,
        "omitManagedFields": policy.omit_managed_fields if omits is None else omits,
    }


def _region(space: Space, policy: int, rule: int) -> Any:
    """What a rule matches, comparable."""
    return tuple(
        (
            frozenset(half.lines[number] for number in bits(half.rules[policy][rule].mains)),
            frozenset(half.lines[number] for number in bits(half.rules[policy][rule].exceptions)),
        )
        for half in space.halves
    )
