"""Which rules of a policy can decide, and which events no rule decides: exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.analysis.request_space import RequestSet
from filter_engine.evaluator import LevelMatch
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
class Coverage:
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


def coverage(policy: Policy, *, level_match: LevelMatch = "kubernetes") -> Coverage:
    """Find the rules that can decide, and what no rule decides.

    Args:
        policy: the policy.
        level_match: that of the :class:`~filter_engine.PolicyEvaluator` that uses the policy.

    Raises:
        TooManyClassesError: the policy's patterns divide a field into more classes than can be looked at.
    """
    raise NotImplementedError
