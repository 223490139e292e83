"""A file of tests to start with: what a policy does today with the events of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from filter_engine import Policy
from filter_engine.analysis.explain import Explainer
from filter_engine.fields import text

# Of the events of one rule with the same verb and resource, the first is enough.
_FIELDS = ("level", "stage", "requestURI", "verb", "user", "userAgent", "sourceIPs", "objectRef")


def starting_tests(policy: Policy, name: str, events: Iterable[Mapping[str, Any]], *, most: int) -> str:
    """A file of tests as YAML.

    Args:
        policy: the policy.
        name: how the file names it.
        events: the events of a log.
        most: how many tests there may be.
    """
    explainer = Explainer(policy)
    tests: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        explained = explainer.explain(event)
        rule = policy.rule_name(explained.decision.rule)
        reference = event.get("objectRef") or {}
        resource, subresource = (text(reference.get(each)) for each in ("resource", "subresource"))
        what = "/".join(filter(None, (resource, subresource))) or "other URLs"
        verb = text(event.get("verb"))
        key = (rule, verb, what, explained.changed is not None)
        if key in tests or len(tests) >= most:
            continue
        sent = {field: event[field] for field in _FIELDS if field in event}
        if isinstance(event.get("responseStatus"), dict) and "code" in event["responseStatus"]:
            sent["responseStatus"] = {"code": event["responseStatus"]["code"]}
        tests[key] = {
            "name": f"{rule}: {verb} {what}",
            "event": sent,
            "keep": explained.changed is not None,
            "rule": rule,
        }
    body = yaml.safe_dump(
        {"policy": name, "tests": list(tests.values())}, sort_keys=False, default_flow_style=None, width=100
    )
    return f"# What {name!r} does with the events of a log. Change what should be otherwise.\n{body}"
