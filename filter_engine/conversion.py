"""Rewrites policies as FilterPolicies with the same verdicts, and writes these as YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from filter_engine.evaluator import LevelMatch
from filter_engine.loading.filter_policy_validation import GROUP, is_resource
from filter_engine.loading.rule_names import PREFIX
from filter_engine.model import Conditions, GroupResources, Level, PolicyRule
from filter_engine.patterns import escaped
from filter_engine.policy import Policy

# What no request meets.
_NEVER: dict[str, Any] = {"namespaces": ("",), "exceptions": (Conditions(namespaces=("",)),)}


def to_filter_policy(policy: Policy, *, level_match: LevelMatch = "kubernetes") -> Policy:
    """A policy as a FilterPolicy.

    Names in which ``*`` or a backslash stands for itself are escaped. A condition that no request can meet,
    such as an API group with a star in its name, is left out of a list; a rule that has nothing else matches
    nothing, and keeps its place.

    Args:
        policy: the policy. A FilterPolicy is returned as it is.
        level_match: with ``exact``, the policy is read as ``k8s-audit-filter`` documents it: a rule that
            keeps events matches only those recorded at its level, and may have response codes.
    """
    if policy.kind == "FilterPolicy":
        return policy
    metadata = dict(policy.metadata)
    if isinstance(metadata.get("annotations"), dict):
        annotations = metadata["annotations"].items()
        metadata["annotations"] = {key: text for key, text in annotations if not key.startswith(PREFIX)}
        if not metadata["annotations"]:
            del metadata["annotations"]
    rules = tuple(_rule(rule, compares_levels=level_match == "exact") for rule in policy.rules)
    return replace(policy, kind="FilterPolicy", rules=rules, metadata=metadata, warnings=())


def _rule(rule: PolicyRule, *, compares_levels: bool) -> PolicyRule:
    verbs = tuple(verb for verb in rule.verbs if "*" not in verb)
    resources = tuple(filter(None, map(_element, rule.resources)))
    conditions: dict[str, Any] = {
        "verbs": verbs,
        "resources": resources,
        "users": tuple(map(escaped, rule.users)),
        "user_groups": tuple(map(escaped, rule.user_groups)),
        "namespaces": tuple(map(escaped, rule.namespaces)),
        "non_resource_urls": tuple(map(_url, rule.non_resource_urls)),
        "response_codes": tuple((code, code) for code in rule.codes),
    }
    if compares_levels and rule.level is not Level.NONE:
        conditions["levels"] = (rule.level.value,)
    if (rule.verbs and not verbs) or (rule.resources and not resources):
        conditions = _NEVER
    return PolicyRule(
        level=rule.level,
        omit_stages=rule.omit_stages,
        omit_managed_fields=rule.omit_managed_fields,
        **conditions,
    )


def _element(element: GroupResources) -> GroupResources | None:
    """An element of ``resources``; None if it matches nothing."""
    if element.group != "*" and ("*" in element.group or not GROUP.fullmatch(element.group)):
        return None  # no API group has such a name
    resources = tuple(filter(None, map(_resource, element.resources)))
    if element.resources and not resources:
        return None
    return GroupResources(element.group, resources, tuple(map(escaped, element.resource_names)))


def _resource(text: str) -> str:
    """A resource, in Kubernetes' forms ``*``, ``*/log``, ``pods/*``, ``pods/log`` and ``pods``; or empty."""
    if text == "*":
        return text
    if text == "*/*" or not is_resource(text):
        return ""  # no resource has such a name
    resource, slash, subresource = text.partition("/")
    if not slash:
        return escaped(text)
    return "/".join(each if each == "*" else escaped(each) for each in (resource, subresource))


def _url(url: str) -> str:
    return f"{escaped(url.rstrip('*'))}*" if url.endswith("*") else escaped(url)


def to_yaml(policy: Policy, *, source: str) -> str:
    """A policy as YAML that can be read, with a comment that says from which line each rule comes.

    Args:
        policy: the policy, of either kind.
        source: the name of the file that it was made of.
    """
    document = policy.to_dict()
    rules = document.pop("rules")
    if not document["metadata"]:
        del document["metadata"]
    head = _dump({**document, "rules": []}).removesuffix(" []\n")
    # A name may hold a line break.
    return "".join((f"# Made from {source!r}.\n", head, "\n" if rules else " []\n", *_rules(policy, rules)))


def _rules(policy: Policy, rules: list[dict[str, Any]]) -> Iterator[str]:
    for index, rule in enumerate(rules):
        line = policy.rule_line(index)
        if line is not None:
            yield f"# line {line}\n"
        for each in (rule, *rule.get("except", ())):
            if "resources" in each:
                # The core group is an empty text, which is easily overlooked if it is left out.
                each["resources"] = [{"group": "", **element} for element in each["resources"]]
        yield _dump([rule])


def _dump(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
