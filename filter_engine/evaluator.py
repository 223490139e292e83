"""Which rule decides on an event, and what it decides.

This module has only the order of evaluation, which is that of kube-apiserver's
``pkg/audit/policy/checker.go``. :mod:`filter_engine.conditions` says what each condition means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.conditions import conditions_of
from filter_engine.fields import FIELDS, STAGE
from filter_engine.model import Level
from filter_engine.policy import Policy
from filter_engine.request import Request
from filter_engine.vocabulary import Vocabulary

LevelMatch = Literal["kubernetes", "exact"]


@dataclass(frozen=True)
class Decision:
    """What a policy says about an event.

    Attributes:
        level: the level of the rule that matched; if no rule matched, ``Level.NONE`` or what a FilterPolicy
            says in ``defaultLevel``.
        rule: index of that rule, counted from 0; None if no rule matched.
        stage_omitted: whether the rule or the policy omits the event's stage.
        omit_managed_fields: whether ``managedFields`` are to be removed from the recorded bodies.
    """

    level: Level
    rule: int | None
    stage_omitted: bool
    omit_managed_fields: bool

    @property
    def keep(self) -> bool:
        """Whether kube-apiserver would have written the event."""
        return self.level is not Level.NONE and not self.stage_omitted


class PolicyEvaluator:
    """A policy, compiled once, that decides on events.

    Args:
        policy: the policy.
        level_match: ``kubernetes`` does not compare levels, as kube-apiserver. ``exact`` is the
            meaning that ``k8s-audit-filter`` documents: a rule of level Metadata, Request or
            RequestResponse matches only events recorded at exactly that level; a rule of level
            None matches events recorded at any level. A FilterPolicy has the condition ``levels`` instead.

    Raises:
        ValueError: ``level_match`` is something else, or ``exact`` for a FilterPolicy.

    Attributes:
        policy: the policy.
        level_match: the argument.
        vocabulary: what the rules can tell apart.
        reads: the fields of an event that can make a difference to its decision.
    """

    def __init__(self, policy: Policy, *, level_match: LevelMatch = "kubernetes") -> None:
        if level_match not in ("kubernetes", "exact"):
            raise ValueError(f"level_match: expected 'kubernetes' or 'exact', found {level_match!r}")
        if level_match == "exact" and policy.kind == "FilterPolicy":
            raise ValueError("level_match: 'exact' is for a Policy; a FilterPolicy has the condition levels")
        self.policy = policy
        self.level_match = level_match
        self.vocabulary = Vocabulary()
        self._rules = []
        omitted = frozenset(policy.omit_stages)
        reads = {STAGE} if policy.omit_stages else set()
        for index, rule in enumerate(policy.rules):
            conditions = conditions_of(
                rule, compares_levels=level_match == "exact", has_patterns=policy.has_patterns
            )
            omit_managed_fields = rule.omit_managed_fields
            if omit_managed_fields is None:
                omit_managed_fields = policy.omit_managed_fields
            result = _Result(index, rule.level, omitted.union(rule.omit_stages), omit_managed_fields)
            self._rules.append((tuple(condition.is_met for condition in conditions), result))
            for condition in conditions:
                condition.add_words(self.vocabulary)
                reads.update(condition.reads)
            if rule.omit_stages:
                reads.add(STAGE)
                self.vocabulary.add(STAGE, rule.omit_stages)
        # What a rule without conditions would decide at the end.
        self._unmatched = _Result(None, policy.default_level, omitted, policy.omit_managed_fields)
        self.vocabulary.add(STAGE, policy.omit_stages)
        self.reads = frozenset(reads)
        self._more = tuple(self.reads.difference(FIELDS))

    def evaluate(self, event: Mapping[str, Any]) -> Decision:
        """Decide on a decoded event. Never raises an error for a mapping, however broken."""
        return self.decide(Request.of_event(event, self._more))

    def decide(self, request: Request) -> Decision:
        """Decide on a request."""
        for conditions, result in self._rules:
            for is_met in conditions:
                if not is_met(request):
                    break
            else:
                return result.at(request.stage)
        return self._unmatched.at(request.stage)


class _Result:
    """A rule's decisions: one for stages that it omits, one for the others."""

    __slots__ = ("_emitted", "_omit_stages", "_omitted")

    def __init__(
        self, rule: int | None, level: Level, omit_stages: frozenset[str], omit_managed_fields: bool
    ) -> None:
        self._omit_stages = omit_stages
        self._emitted = Decision(level, rule, False, omit_managed_fields)
        self._omitted = Decision(level, rule, True, omit_managed_fields)

    def at(self, stage: str) -> Decision:
        return self._omitted if stage in self._omit_stages else self._emitted
