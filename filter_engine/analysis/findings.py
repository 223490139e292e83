"""What a policy that loads may not mean: checks, and the findings that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from filter_engine.analysis.finding import Finding
from filter_engine.analysis.reachability import find_unkept
from filter_engine.analysis.unmatched import find_unmatched
from filter_engine.evaluator import LevelMatch
from filter_engine.policy import Policy

_CHECKS: tuple[Callable[[Policy, LevelMatch], Iterator[Finding]], ...] = (find_unkept, find_unmatched)


def find(policy: Policy, *, level_match: LevelMatch = "kubernetes") -> list[Finding]:
    """What may not be meant, in the order of the rules; findings about the whole policy come first.

    Args:
        policy: the policy. It is only looked at, and no event is needed.
        level_match: as of the :class:`~filter_engine.PolicyEvaluator` that will use it.
    """
    findings = [finding for check in _CHECKS for finding in check(policy, level_match)]
    return sorted(findings, key=lambda finding: -1 if finding.rule is None else finding.rule)
