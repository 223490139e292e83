"""Which rules of a policy can decide, and which events no rule decides: exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.analysis.half_search import Earlier, Found, Rule
from filter_engine.analysis.outcomes import outcomes
from filter_engine.analysis.pieces import Budget
from filter_engine.analysis.request_fields import STAGES
from filter_engine.analysis.request_sets import MAX_PIECES, RequestSet, in_words
from filter_engine.analysis.request_space import Space
from filter_engine.analysis.search import Searcher, deciding
from filter_engine.analysis.witnesses import Witnesses
from filter_engine.evaluator import LevelMatch
from filter_engine.model import Level
from filter_engine.policy import Policy


@dataclass(frozen=True)
class RuleReach:
    """Whether a rule can decide on an event.

    Attributes:
        rule: its index.
        stages: the stages of events on which it decides.
        witness: an event on which it decides, complete and replayed; None if there is none.
        because: of a rule that never decides: ``impossible`` if no believable event meets its conditions,
            ``covered`` if earlier rules match them all. None otherwise.
        covered_by: earlier rules that together match all that the rule would match. None of them can be left
            out.
        changes_outcome: whether some event that the rule would match has another outcome with ``covered_by``:
            another level, or another stage omitted.
    """

    rule: int
    stages: tuple[str, ...]
    witness: Mapping[str, Any] | None
    because: Literal["impossible", "covered"] | None = None
    covered_by: tuple[int, ...] = ()
    changes_outcome: bool = False


@dataclass(frozen=True)
class Reachability:
    """Which rules of a policy can decide.

    Attributes:
        rules: one for each rule.
        unmatched: events that match no rule, as sets that do not overlap, each with at least one believable
            event. Empty if the rules match everything.
        is_complete: whether ``unmatched`` has all of them.
        unmatched_witness: one of them, complete and replayed; None if the rules match everything.
    """

    rules: tuple[RuleReach, ...]
    unmatched: tuple[RequestSet, ...]
    is_complete: bool
    unmatched_witness: Mapping[str, Any] | None

    @property
    def unreachable(self) -> tuple[RuleReach, ...]:
        """The rules that never decide."""
        return tuple(rule for rule in self.rules if rule.witness is None)


def reachability(policy: Policy, *, level_match: LevelMatch = "kubernetes") -> Reachability:
    """Find the rules that can decide, and what no rule decides.

    Args:
        policy: the policy.
        level_match: that of the :class:`~filter_engine.PolicyEvaluator` that uses the policy.

    Raises:
        TooManyClassesError: the policy's patterns divide a field into more classes than can be looked at.
    """
    return _Reachability(policy, level_match).find()


class _Reachability:
    def __init__(self, policy: Policy, level_match: LevelMatch) -> None:
        self._policy = policy
        self._space = Space([(policy, level_match)])
        self._searcher = Searcher(self._space)
        self._witnesses = Witnesses(self._space, [(policy, level_match)])

    def find(self) -> Reachability:
        rules = tuple(map(self._rule, range(len(self._policy.rules))))
        found = self._searcher.decided_by([(0, None)])
        if found is None:
            return Reachability(rules, (), True, None)
        _, unmatched = deciding(self._space, [(0, None)])
        budget = Budget(MAX_PIECES)
        pieces = self._searcher.sets([], unmatched, {}, budget)
        sets, is_complete = in_words(pieces, budget, self._space.users)
        return Reachability(rules, sets, is_complete, self._witnesses.replayed(found, [(0, None)]))

    def _rule(self, rule: int) -> RuleReach:
        found = self._searcher.decided_by([(0, rule)])
        if found is not None:
            return RuleReach(rule, self._stages(rule, found), self._witnesses.replayed(found, [(0, rule)]))
        this = [Rule(0, rule)]
        if self._searcher.find(this) is None:
            return RuleReach(rule, (), None, "impossible")
        covering = self._cover(rule)
        outcome = outcomes(self._policy, rule)
        changes = any(
            self._searcher.find([*this, Rule(0, each)], [Earlier(0, each)], within)
            for each in covering
            for within in self._other_stages(outcomes(self._policy, each), outcome)
        )
        return RuleReach(rule, (), None, "covered", covering, changes)

    def _stages(self, rule: int, found: Found) -> tuple[str, ...]:
        decided = [(0, rule)]
        return tuple(
            stage
            for number, stage in enumerate(STAGES)
            if self._searcher.at_stage(found, number, decided) is not None
        )

    def _cover(self, rule: int) -> tuple[int, ...]:
        """Earlier rules that together match all that a rule matches, without those that are not needed."""
        left = self._searcher.meeting(Rule(0, rule))
        for candidate in reversed(tuple(left)):
            others = [each for each in left if each != candidate]
            if self._searcher.find([Rule(0, rule)], [Rule(0, each) for each in others]) is None:
                left = others
        return tuple(left)

    def _other_stages(self, one: Sequence[Level], other: Sequence[Level]) -> Iterator[dict[str, int]]:
        """The stages at which two outcomes differ, as a set to search in; nothing if there are none."""
        if mask := sum(1 << number for number in range(len(STAGES)) if one[number] != other[number]):
            yield {"stages": mask}
