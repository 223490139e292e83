"""What a new policy no longer records, records at another level, or newly records, decided without a log.

Every answer is exact: a difference comes with an audit event that was replayed on both policies, and where none
is reported, there is none that the facts of :mod:`filter_engine.analysis.world` allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.analysis.request_sets import RequestSet
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
        differences: in the order of ``Change``, then of the rules. Empty if both record the same events at the
            same levels.
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
        TooManyClassesError: the patterns of the policies divide a field into more classes than can be looked at.
    """
    raise NotImplementedError
