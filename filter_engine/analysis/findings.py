"""Checks for what a policy says and its author may not mean, and the findings of these checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from filter_engine.analysis.finding import Finding
from filter_engine.analysis.unkept import find_unkept
from filter_engine.analysis.unmatched import find_unmatched
from filter_engine.evaluator import LevelMatch
from filter_engine.policy import Policy

_CHECKS: tuple[Callable[[Policy, LevelMatch], Iterator[Finding]], ...] = (find_unkept, find_unmatched)


def find(policy: Policy, *, level_match: LevelMatch = "kubernetes") -> list[Finding]:
    """Find what the policy's author may not mean.

    Args:
        policy: the policy.
        level_match: that of the :class:`~filter_engine.PolicyEvaluator` that will use the policy.

    Returns:
        Findings in the order of the rules; those about the whole policy come first.
    """
    findings = [finding for check in _CHECKS for finding in check(policy, level_match)]
    return sorted(findings, key=lambda finding: -1 if finding.rule is None else finding.rule)
