"""Whether a policy keeps anything, and what becomes of events that no rule matches."""

from __future__ import annotations

from collections.abc import Iterator

from filter_engine.analysis.finding import Finding
from filter_engine.evaluator import LevelMatch
from filter_engine.model import STAGES, Level, PolicyRule
from filter_engine.policy import Policy

REST = "add a last rule '- level: Metadata' to keep the rest"


def find_unkept(policy: Policy, level_match: LevelMatch) -> Iterator[Finding]:
    """``nothing-kept``: no event can be kept. ``no-catch-all``: some events match no rule."""
    rules = policy.rules
    if policy.default_level is not Level.NONE:
        rules += (
            PolicyRule(policy.default_level),
        )  # what defaultLevel does to the events that no rule matches
    catch_all = _catch_all(rules, level_match)
    reached = rules[: len(rules) if catch_all is None else catch_all + 1]
    omitted = frozenset(policy.omit_stages)
    if not any(_can_keep(rule, omitted) for rule in reached):
        yield _nothing_kept(policy, reached, catch_all)
    elif catch_all is None:
        last = len(policy.rules) - 1
        yield Finding(
            "no-catch-all",
            f"an event that no rule matches is dropped, and the last rule, {_named(policy, last)}, does not"
            f" match everything; {REST}, or '- level: None' to say that it is to be dropped",
            None,
            policy.rule_line(last),
        )


def _nothing_kept(policy: Policy, reached: tuple[PolicyRule, ...], catch_all: int | None) -> Finding:
    if not reached:
        return Finding("nothing-kept", f"nothing is kept: there are no rules; {REST}")
    last = len(reached) - 1
    if all(rule.level is Level.NONE for rule in reached):
        if len(reached) == 1:
            why = f"the rule {_named(policy, 0)} has level None"
        else:
            why = f"each rule up to {_named(policy, last)} has level None"
    else:
        why = "each rule has level None or omits all stages"
    if catch_all is None:
        message = f"nothing is kept: {why}, and events that no rule matches are dropped too; {REST}"
    else:
        message = f"nothing is kept: {why}, and {_named(policy, catch_all)} matches every event"
        if len(reached) < len(policy.rules):
            message += ", so that no rule below it is ever asked; move it to the end or give it conditions"
        else:
            message += "; give it another level, such as Metadata, to keep the rest"
    return Finding("nothing-kept", message, None, policy.rule_line(last))


def _named(policy: Policy, index: int) -> str:
    name = policy.rule_name(index)
    return f"rules[{index}]" + (f" ({name})" if name != str(index) else "")


def _can_keep(rule: PolicyRule, omitted: frozenset[str]) -> bool:
    return rule.level is not Level.NONE and not omitted.union(rule.omit_stages).issuperset(STAGES)


def _catch_all(rules: tuple[PolicyRule, ...], level_match: LevelMatch) -> int | None:
    """Index of the rule at which every event has matched some rule; None if some events match no rule."""
    # Pairs of a recorded level and whether the request is for a resource, for events that match no rule yet.
    levels: list[Level | None] = [None]
    if level_match == "exact":
        levels = [level for level in Level if level is not Level.NONE]
    missing = {(level, is_resource) for level in levels for is_resource in (True, False)}
    for index, rule in enumerate(rules):
        matched = _halves(rule)
        if level_match == "exact" and rule.level is not Level.NONE:
            missing -= {(rule.level, half) for half in matched}
        else:
            missing -= {(level, half) for level in levels for half in matched}
        if not missing:
            return index
    return None


def _halves(rule: PolicyRule) -> set[bool]:
    """Which kinds of requests the rule matches without exception: for a resource (True), others (False)."""
    of_kubernetes = (rule.users, rule.user_groups, rule.verbs, rule.codes)
    of_filter_policies = (
        *(rule.response_codes, rule.stages, rule.levels, rule.user_agents, rule.source_ips),
        *(rule.impersonated_users, rule.annotations, rule.exceptions),
    )
    if any(of_kubernetes) or any(of_filter_policies):
        return set()
    if rule.namespaces or rule.resources:
        every = any(
            element.group == "*"
            and (not element.resources or ("*" in element.resources and not element.resource_names))
            for element in rule.resources
        )
        return {True} if every and not rule.namespaces else set()
    if rule.non_resource_urls:
        every = not {"*", "/*"}.isdisjoint(rule.non_resource_urls)
        return {False} if every else set()
    return {True, False}
