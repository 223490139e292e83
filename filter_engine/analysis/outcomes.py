"""What a policy does with the events on which a rule decides, without looking at them."""

from __future__ import annotations

from filter_engine.analysis.request_fields import STAGES
from filter_engine.model import Level
from filter_engine.policy import Policy


def level_of(policy: Policy, rule: int | None) -> Level:
    """The level of a rule, or of events that match no rule (None)."""
    return policy.default_level if rule is None else policy.rules[rule].level


def level_at(policy: Policy, rule: int | None, stage: str) -> Level:
    """The level at which a rule records events of a stage; None if it drops them, also for their stage."""
    omitted = policy.omit_stages if rule is None else (*policy.omit_stages, *policy.rules[rule].omit_stages)
    return Level.NONE if stage in omitted else level_of(policy, rule)


def outcomes(policy: Policy, rule: int | None) -> tuple[Level, ...]:
    """The levels at which a rule records events, for each stage."""
    return tuple(level_at(policy, rule, stage) for stage in STAGES)


def numbers_of_rules(policy: Policy) -> list[int | None]:
    """The indexes of a policy's rules, and None for what no rule matches."""
    return [*range(len(policy.rules)), None]
