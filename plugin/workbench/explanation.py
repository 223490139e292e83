"""Explanations as text and as JSON data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from filter_engine import Level, Policy
from filter_engine.analysis.explain import Explained, Looked, RuleExplained
from filter_engine.fields import text

# A policy may have thousands of values for one condition.
_MAX_WANTED = 160


def describe(event: Mapping[str, Any]) -> str:
    """An event in a line: who did what, at which stage, and how it ended."""
    user = event.get("user") or {}
    reference, status = event.get("objectRef"), event.get("responseStatus")
    who = text(user.get("username")) or "nobody" if isinstance(user, Mapping) else "nobody"
    what = text(event.get("requestURI"))
    if isinstance(reference, Mapping):
        parts = [text(reference.get(name)) for name in ("resource", "subresource", "name")]
        what = "/".join(filter(None, parts))
        if namespace := text(reference.get("namespace")):
            what += f" in {namespace}"
    code = status.get("code") if isinstance(status, Mapping) else None
    ended = f", {code}" if isinstance(code, int) else ""
    stage, level = text(event.get("stage")), text(event.get("level"))
    return f"{who} {text(event.get('verb'))} {what} ({stage}{ended}, recorded at {level or 'no level'})"


def verdict(policy: Policy, explained: Explained, source: str) -> str:
    """What becomes of the event, and by which rule, in a line."""
    decision = explained.decision
    if decision.rule is None:
        by = "no rule matches"
        if decision.level is not Level.NONE:
            by += f", and defaultLevel is {decision.level}"
    else:
        by = f"rule {_called(policy, decision.rule)}{_at(source, policy.rule_line(decision.rule))}"
        by += f" has level {decision.level}"
    if decision.level is not Level.NONE and decision.stage_omitted:
        return f"dropped: {by}, and the stage is in omitStages"
    if decision.keep and not explained.is_in_sample:
        return f"dropped: {by}, and the event is not in its sample"
    return f"{'kept' if decision.keep else 'dropped'}: {by}"


def as_text(policy: Policy, explained: Explained, event: Mapping[str, Any], source: str) -> str:
    """An explanation of several lines.

    Args:
        policy: the policy.
        explained: the explanation.
        event: the event.
        source: what the policy is called.
    """
    lines = [describe(event), verdict(policy, explained, source), ""]
    for rule in explained.rules:
        lines += _rule(policy, rule, source)
    lines += _changes(explained, event)
    return "\n".join(lines)


def _rule(policy: Policy, rule: RuleExplained, source: str) -> Iterator[str]:
    called = f"rule {_called(policy, rule.rule)}{_at(source, rule.line)}"
    if rule.matched:
        yield f"{called} matches" + ("" if rule.looked else ", for it has no conditions")
        yield from (f"    {_looked(each)}" for each in rule.looked)
    elif rule.exception is None:
        yield f"{called} does not match"
        yield f"    {_looked(rule.looked[-1])}"
    else:
        yield f"{called} does not match, because of except[{rule.exception}]"
        yield from (f"    {_looked(each)}" for each in rule.exception_looked)


def _looked(looked: Looked) -> str:
    wanted = json.dumps(looked.wanted, ensure_ascii=False)
    if len(wanted) > _MAX_WANTED:
        wanted = f"{wanted[:_MAX_WANTED]} …"
    return f"{'✓' if looked.is_met else '✗'} {looked.name}: {wanted}; the event has {looked.saw}"


def _changes(explained: Explained, event: Mapping[str, Any]) -> Iterator[str]:
    changed = explained.changed
    if changed is None:
        return
    sample = explained.actions.sample
    if sample is not None:
        yield f"sample: the event is one of those that {sample.rate:g} keeps"
    if changed.event.get("level") != event.get("level"):
        yield f"reduced from {event.get('level')} to {changed.event.get('level')}"
    removed = [name for name in event if name not in changed.event]
    if removed:
        yield f"without {', '.join(removed)}"
    if changed.redacted:
        names = [name for name in changed.event if changed.event[name] is not event.get(name)]
        yield f"redacted in {', '.join(name for name in names if name != 'level')}"


def _called(policy: Policy, index: int) -> str:
    name = policy.rule_name(index)
    return name if name == str(index) else f"{index} ({name})"


def _at(source: str, line: int | None) -> str:
    return "" if line is None else f" at {source}:{line}"


def as_data(policy: Policy, explained: Explained, where: str) -> dict[str, Any]:
    """An explanation as JSON data."""
    decision = explained.decision
    return {
        "event": where,
        "kept": explained.changed is not None,
        "level": decision.level.value,
        "rule": decision.rule,
        "name": policy.rule_name(decision.rule),
        "line": None if decision.rule is None else policy.rule_line(decision.rule),
        "stageOmitted": decision.stage_omitted,
        "inSample": explained.is_in_sample,
        "rules": [_rule_data(rule) for rule in explained.rules],
        "becomes": None if explained.changed is None else dict(explained.changed.event),
    }


def _rule_data(rule: RuleExplained) -> dict[str, Any]:
    return {
        "rule": rule.rule,
        "name": rule.name,
        "line": rule.line,
        "matched": rule.matched,
        "conditions": [vars(each) for each in rule.looked],
        "exception": rule.exception,
        "exceptionConditions": [vars(each) for each in rule.exception_looked],
    }
