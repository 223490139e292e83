"""Values in conditions that no request can have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from filter_engine.analysis.finding import Finding
from filter_engine.errors import shortened
from filter_engine.evaluator import LevelMatch
from filter_engine.literals import is_pattern, no_wildcards
from filter_engine.model import GroupResources, PolicyRule
from filter_engine.policy import Policy

_VERSION = re.compile(r"v[0-9]+((alpha|beta)[0-9]+)?")
_TEMPLATE = "{{"


def find_unmatched(policy: Policy, level_match: LevelMatch) -> Iterator[Finding]:
    """Values that match nothing: at most one finding of each kind for each field of a rule.

    ``literal-wildcard``: a pattern in a field without wildcards. ``upper-case``: a verb or resource that is
    not in lower case. ``version-as-group``: a version in place of an API group.
    ``pattern-matches-nothing``: a resource with a ``*`` that is not one of the supported patterns.
    ``unrendered-template``: text that Helm should have replaced. The first and the fourth are not for a
    FilterPolicy, in which ``*`` stands for any text.
    """
    for index, rule in enumerate(policy.rules):
        for id_, message in _in_rule(rule):
            if policy.has_patterns and id_ in ("literal-wildcard", "pattern-matches-nothing"):
                continue
            yield Finding(id_, f"rules[{index}].{message}", index, policy.rule_line(index))


def _in_rule(rule: PolicyRule) -> Iterator[tuple[str, str]]:
    fields = {
        "users": rule.users,
        "userGroups": rule.user_groups,
        "verbs": rule.verbs,
        "namespaces": rule.namespaces,
    }
    for field, values in fields.items():
        yield from _literal(field, field, values)
    yield from _lower_case("verbs", rule.verbs)
    yield from _templates("nonResourceURLs", rule.non_resource_urls)
    for i, element in enumerate(rule.resources):
        yield from _in_element(f"resources[{i}]", element)


def _in_element(path: str, element: GroupResources) -> Iterator[tuple[str, str]]:
    if _VERSION.fullmatch(element.group):
        yield (
            "version-as-group",
            f'{path}.group: "{element.group}" is a version, and no API group has such a name:'
            ' the core group, with pods and secrets, is ""',
        )
    strange = next((value for value in element.resources if is_pattern(value) and not _is_known(value)), None)
    if strange is not None:
        yield (
            "pattern-matches-nothing",
            f'{path}.resources: "{_short(strange)}" matches nothing: the only patterns are "*" (everything),'
            ' "*/log" (that subresource of anything) and "pods/*" (pods and all their subresources)',
        )
    yield from _lower_case(f"{path}.resources", element.resources)
    yield from _templates(f"{path}.resources", element.resources)
    yield from _literal("resourceNames", f"{path}.resourceNames", element.resource_names)


def _is_known(pattern: str) -> bool:
    """Whether a pattern is one of the three forms that the evaluator knows, and can match a resource."""
    if pattern == "*":
        return True
    before, slash, after = pattern.partition("/")
    return bool(slash and before and after) and (
        (before == "*" and "*" not in after) or (after == "*" and "*" not in before)
    )


def _literal(field: str, path: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    pattern = next(filter(is_pattern, values), None)
    if pattern is not None:
        yield "literal-wildcard", f"{path}: {no_wildcards(field, pattern)}"
    yield from _templates(path, values)


def _lower_case(path: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    value = next((value for value in values if value != value.lower()), None)
    if value is not None:
        yield (
            "upper-case",
            f'{path}: "{_short(value)}" matches nothing, because verbs and resources are in lower case'
            f' and letters are compared as they are: write "{_short(value.lower())}"',
        )


def _templates(path: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    value = next((value for value in values if _TEMPLATE in value), None)
    if value is not None:
        yield (
            "unrendered-template",
            f'{path}: "{_short(value)}" is a template that was not rendered: run helm template first',
        )


def _short(value: str) -> str:
    return shortened(value, 80)
