"""The conditions of rules in Lua.

Each class of ``filter_engine.conditions`` has a function that writes it in Lua, or a sentence that says why
it can't be compiled. A condition is one or more tests, expressions of Lua that look into ``request``
(``runtime/request.lua``), and the local tables that these need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from filter_engine import GroupResources, conditions
from filter_engine.conditions import Condition

from .syntax import indented, quote, table

# LuaJIT allows 65,536 constants in a function. Each table is one, and an element of resources has up to four.
_ELEMENTS_IN_A_FUNCTION = 50


class NotInLuaError(ValueError):
    """A condition that can't be compiled. Its text says why, and what to do."""


@dataclass(frozen=True)
class Translation:
    """A condition in Lua.

    Attributes:
        tests: expressions. All of them are true for a request that meets the condition.
        tables: statements before the tests, with the local variables that the tests use. No two conditions
            of a rule give a local variable the same name.
    """

    tests: tuple[str, ...]
    tables: tuple[str, ...] = ()


def translate(condition: Condition) -> Translation:
    """Write a condition in Lua. Raises NotInLuaError if that is not possible."""
    found = TRANSLATIONS[type(condition)]
    if isinstance(found, str):
        raise NotInLuaError(found)
    return found(condition)


def _users(condition: conditions.Users) -> Translation:
    return Translation(("users[request.user]",), (*table("local users = ", condition.names.words),))


def _user_groups(condition: conditions.UserGroups) -> Translation:
    return Translation(("in_one_of(user_groups)",), (*table("local user_groups = ", condition.groups.words),))


def _verbs(condition: conditions.Verbs) -> Translation:
    return Translation(("verbs[request.verb]",), (*table("local verbs = ", condition.verbs),))


def _recorded_levels(condition: conditions.RecordedLevels) -> Translation:
    return Translation(("levels[request.level]",), (*table("local levels = ", condition.levels),))


def _codes(condition: conditions.Codes) -> Translation:
    codes = [code for first, last in condition.ranges for code in range(first, last + 1)]
    return Translation(("codes[request.code]",), (*table("local codes = ", codes),))


def _namespaces(condition: conditions.Namespaces) -> Translation:
    return Translation(
        ("request.is_resource", "namespaces[request.namespace]"),
        (*table("local namespaces = ", condition.namespaces.words),),
    )


def _non_resource_urls(condition: conditions.NonResourceURLs) -> Translation:
    prefixes = [pattern.start for pattern in condition.paths.patterns]
    if "" in prefixes:
        return Translation(("not request.is_resource",))
    tables = table("local paths = ", condition.paths.words)
    if not prefixes:
        return Translation(("not request.is_resource", "paths[request.path]"), tuple(tables))
    tables.append(f"local prefixes = {{ {', '.join(map(quote, prefixes))} }}")
    test = "(paths[request.path] or starts_with(prefixes))"
    return Translation(("not request.is_resource", test), tuple(tables))


def _resources(condition: conditions.Resources) -> Translation:
    """Write the elements by API group. Elements of a group that name no objects are merged."""
    by_group: dict[str, list[GroupResources]] = {}
    for element in condition.elements:
        by_group.setdefault(element.group, []).append(element)
    added = [addition for group, own in by_group.items() for addition in _additions(group, own)]
    tables = ["local resources = {}"]
    if len(added) <= _ELEMENTS_IN_A_FUNCTION:
        tables += [line for addition in added for line in addition]
    else:
        for start in range(0, len(added), _ELEMENTS_IN_A_FUNCTION):
            tables.append("run(function()")
            for addition in added[start : start + _ELEMENTS_IN_A_FUNCTION]:
                tables += indented(addition)
            tables.append("end)")
    return Translation(("request.is_resource", "is_covered(resources)"), tuple(tables))


def _additions(group: str, elements: Iterable[GroupResources]) -> Iterator[list[str]]:
    """Statements that add the elements of an API group to a rule's resources."""
    unnamed: list[GroupResources] = []
    named: list[GroupResources] = []
    for element in elements:
        # If an element has no resources, kube-apiserver ignores its names.
        (named if element.resources and element.resource_names else unnamed).append(element)
    merged = dict.fromkeys(pattern for element in unnamed for pattern in element.resources)
    if any(not element.resources for element in unnamed) or "*" in merged:
        yield [f"resources[{quote(group)}] = EVERYTHING"]
        return
    if unnamed:
        yield [f"add(resources, {quote(group)}, {{", *indented(_element(merged, ())), "})"]
    for element in named:
        members = _element(element.resources, element.resource_names)
        yield [f"add(resources, {quote(group)}, {{", *indented(members), "})"]


def _element(patterns: Iterable[str], names: tuple[str, ...]) -> Iterator[str]:
    if names:
        yield from table("names = ", names, end=",")
    if "*" in patterns:
        return
    yield from table("exact = ", patterns, end=",")
    # */log is that subresource of anything; "*/" matches nothing. pods/* also matches pods alone.
    subresources = [pattern[2:] for pattern in patterns if pattern.startswith("*/") and pattern != "*/"]
    yield from table("subresources = ", subresources, end=",")
    yield from table(
        "resources = ", [pattern[:-2] for pattern in patterns if pattern.endswith("/*")], end=","
    )


# A test checks that no condition is missing. A sentence that refuses a condition also says what to do, such
# as "the script has no clock: take exec or forward for this policy".
TRANSLATIONS: Mapping[type[Any], Callable[[Any], Translation] | str] = {
    conditions.Users: _users,
    conditions.UserGroups: _user_groups,
    conditions.Verbs: _verbs,
    conditions.RecordedLevels: _recorded_levels,
    conditions.Codes: _codes,
    conditions.Namespaces: _namespaces,
    conditions.Resources: _resources,
    conditions.NonResourceURLs: _non_resource_urls,
}
