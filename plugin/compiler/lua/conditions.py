"""The conditions of rules in Lua.

Each class of ``filter_engine.conditions`` has a function that writes it in Lua, or a sentence that says why
it can't be compiled. A condition is one or more tests, expressions of Lua that look into ``request``
(``runtime/request.lua``), and the local tables that these need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

from filter_engine import GroupResources, conditions, fields
from filter_engine.conditions import Condition
from filter_engine.fields import Field
from filter_engine.own_namespace import OwnNamespace
from filter_engine.patterns import Texts, escaped

from .syntax import WIDTH, indented, quote, table

# LuaJIT allows 65,536 constants in a function. Each table is one, and a statement has up to five.
_STATEMENTS_IN_A_FUNCTION = 50
# As many prefixes are as soon tried in turn as looked up.
_FEW_PREFIXES = 8


class NotInLuaError(ValueError):
    """A condition that can't be compiled. Its text says why, and what to do."""


@dataclass(frozen=True)
class Translation:
    """A condition in Lua.

    Attributes:
        tests: expressions. All of them are true for a request that meets the condition.
        tables: statements before the tests, with the local variables that the tests use. No two conditions
            of a rule give a local variable the same name.
        shared: statements before these, which several conditions of a rule may have alike.
        parts: the files of ``runtime/`` that the tests and statements need.
    """

    tests: tuple[str, ...]
    tables: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()


_PATTERNS = frozenset(("patterns",))
_NETWORKS = frozenset(("networks",))
_CONDITIONS = _PATTERNS | {"conditions"}


def translate(condition: Condition) -> Translation:
    """Write a condition in Lua. Raises NotInLuaError if that is not possible."""
    found = TRANSLATIONS[type(condition)]
    if isinstance(found, str):
        raise NotInLuaError(found)
    return found(condition)


def statements(own: Sequence[Translation]) -> list[str]:
    """The statements of all conditions of a rule."""
    shared = dict.fromkeys(line for condition in own for line in condition.shared)
    return [*shared, *(line for condition in own for line in condition.tables)]


def conjunction(own: Sequence[Translation]) -> list[str]:
    """A statement that returns whether all conditions of a rule are met."""
    # Several conditions may have the same test.
    tests = list(dict.fromkeys(test for condition in own for test in condition.tests))
    if not tests:
        return ["return true"]
    # One test per line, unless they fit on one: an error in the log names the line of Lua.
    joined = f"return {' and '.join(tests)}"
    if len(joined) <= WIDTH:
        return [joined]
    return [f"return {tests[0]}", *(f"  and {test}" for test in tests[1:])]


def _texts(name: str, field: str, texts: Texts) -> Translation:
    """A comparison of a field of ``request`` with texts and patterns, in a local variable of this name.

    Fields that not all policies read are called by their paths there.
    """
    value = f"request.{field}" if field.isidentifier() else f"request[{quote(field)}]"
    if not texts.patterns:
        return Translation((f"{name}[{value}]",), (*table(f"local {name} = ", texts.words),))
    tables = _set(f"local {name} = ", field, _values(texts))
    return Translation((f"matches({name}, {value})",), (*tables,), parts=_PATTERNS)


def _values(texts: Texts) -> list[str]:
    """Texts and patterns, all written as patterns."""
    return [*map(escaped, texts.words), *map(str, texts.patterns)]


def _set(start: str, field: str, values: Iterable[str], *, end: str = "") -> list[str]:
    """A set of patterns that a field of ``request`` is compared with."""
    return table(f"{start}patterns({quote(field)}, ", values, end=f"){end}")


def _more(compared: Translation, *tests: str) -> Translation:
    """A comparison, behind more tests."""
    return replace(compared, tests=(*tests, *compared.tests))


def _in_functions(name: str, added: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A local table of this name, and statements that fill it."""
    if len(added) <= _STATEMENTS_IN_A_FUNCTION:
        return f"local {name} = {{}}", *(line for addition in added for line in addition)
    lines = [f"local {name} = {{}}"]
    for start in range(0, len(added), _STATEMENTS_IN_A_FUNCTION):
        lines.append("run(function()")
        for addition in added[start : start + _STATEMENTS_IN_A_FUNCTION]:
            lines += indented(addition)
        lines.append("end)")
    return tuple(lines)


def _users(condition: conditions.Users) -> Translation:
    compared = _texts("users", "user", condition.names)
    # A request without a user is nil there, and in no table.
    return _more(compared, "request.user") if condition.names.patterns else compared


def _user_groups(condition: conditions.UserGroups) -> Translation:
    groups = condition.groups
    if not groups.patterns:
        return Translation(("in_one_of(user_groups)",), (*table("local user_groups = ", groups.words),))
    tables = _set("local user_groups = ", "groups", _values(groups))
    return Translation(("one_matches(user_groups, request.groups)",), (*tables,), parts=_PATTERNS)


def _verbs(condition: conditions.Verbs) -> Translation:
    return Translation(("verbs[request.verb]",), (*table("local verbs = ", condition.verbs),))


def _stages(condition: conditions.Stages) -> Translation:
    return Translation(("stages[request.stage]",), (*table("local stages = ", condition.stages),))


def _recorded_levels(condition: conditions.RecordedLevels) -> Translation:
    return Translation(("levels[request.level]",), (*table("local levels = ", condition.levels),))


def _codes(condition: conditions.Codes) -> Translation:
    ranges = condition.ranges
    if all(first == last for first, last in ranges):
        codes = table("local codes = ", [first for first, _ in ranges])
        return Translation(("codes[request.code]",), (*codes,))
    numbers = ", ".join(f"{first}, {last}" for first, last in dict.fromkeys(ranges))
    return Translation(
        ("is_between(codes, request.code)",), (f"local codes = {{ {numbers} }}",), parts=_CONDITIONS
    )


def _namespaces(condition: conditions.Namespaces) -> Translation:
    return _more(_texts("namespaces", "namespace", condition.namespaces), "request.is_resource")


def _non_resource_urls(condition: conditions.NonResourceURLs) -> Translation:
    is_path = "not request.is_resource"
    patterns = condition.paths.patterns
    prefixes = [pattern.start for pattern in patterns if not (pattern.middles or pattern.end)]
    if "" in prefixes:
        return Translation((is_path,))
    if not prefixes or len(prefixes) < len(patterns) or len(prefixes) > _FEW_PREFIXES:
        return _more(_texts("paths", "path", condition.paths), is_path)
    tables = table("local paths = ", condition.paths.words)
    tables.append(f"local prefixes = {{ {', '.join(map(quote, prefixes))} }}")
    return Translation((is_path, "(paths[request.path] or starts_with(prefixes))"), tuple(tables))


def _resources(condition: conditions.Resources) -> Translation:
    """Write the elements by API group. Elements of a group that name no objects are merged."""
    by_group: dict[str, list[GroupResources]] = {}
    for element in condition.elements:
        by_group.setdefault(element.group, []).append(element)
    added = [addition for group, own in by_group.items() for addition in _additions(group, own)]
    return Translation(("request.is_resource", "is_covered(resources)"), _in_functions("resources", added))


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


def _pattern_resources(condition: conditions.PatternResources) -> Translation:
    added = [
        addition
        for number, element in enumerate(condition.elements, 1)
        for addition in _pattern_element(f"resources[{number}]", element)
    ]
    return Translation(
        ("request.is_resource", "one_covers(resources)"),
        _in_functions("resources", added),
        parts=_CONDITIONS,
    )


def _pattern_element(name: str, element: conditions.PatternElement) -> Iterator[list[str]]:
    """Statements that make an element of a rule's resources."""
    members = _set("group = ", "api_group", _values(element.group), end=",")
    if element.names is not None:
        members += _set("names = ", "name", _values(element.names), end=",")
    if not element.covers_all:
        members += _set("resources = ", "resource", _values(element.resources), end=",")
        if families := _values(element.families):
            members += _set("families = ", "resource", families, end=",")
    yield [f"{name} = {{", *indented(members), "}"]
    if element.covers_all:
        return
    by_subresource: dict[str, list[str]] = {}
    for resource, subresource in element.pairs:
        by_subresource.setdefault(_values(subresource)[0], []).extend(_values(resource))
    for pattern, resources in by_subresource.items():
        pairs = [
            *_set("subresources = ", "subresource", [pattern], end=","),
            *_set("resources = ", "resource", resources, end=","),
        ]
        yield [f"add_pairs({name}, {{", *indented(pairs), "})"]


def _impersonated_users(condition: conditions.ImpersonatedUsers) -> Translation:
    return _present("impersonated_users", fields.IMPERSONATED_USER, condition.names)


def _user_agents(condition: conditions.UserAgents) -> Translation:
    return _present("user_agents", fields.USER_AGENT, condition.names)


def _present(name: str, field: Field, texts: Texts) -> Translation:
    """A comparison of a field that has to be there."""
    return _more(_texts(name, field.path, texts), f'request[{quote(field.path)}] ~= ""')


def _source_ips(condition: conditions.SourceIPs) -> Translation:
    networks = [
        _network(first, length)
        for length, firsts in condition.networks.prefixes.items()
        for first in sorted(firsts)
    ]
    tables = table("local source_ips = networks(", networks, end=")")
    test = f"are_inside(source_ips, request.{fields.SOURCE_IPS.path})"
    return Translation((test,), (*tables,), parts=_NETWORKS)


def _network(first: int, length: int) -> str:
    """A network as text, given as IPv6; see :class:`filter_engine.networks.Networks`."""
    mapped = IPv6Address(first).ipv4_mapped
    if mapped is not None and length >= 96:
        return str(IPv4Network((int(mapped), length - 96)))
    return str(IPv6Network((first, length)))


def _annotation(condition: conditions.Annotation) -> Translation:
    field = condition.field.path
    members = [f"field = {quote(field)},", *_set("values = ", field, _values(condition.values), end=",")]
    return Translation(
        ("are_annotated(annotations)",),
        ("annotations[#annotations + 1] = {", *indented(members), "}"),
        shared=("local annotations = {}",),
        parts=_CONDITIONS,
    )


def _own_namespace(condition: OwnNamespace) -> Translation:
    by_prefix = "true" if condition.relation == "prefix" else "false"
    return Translation((f"is_in_own_namespace({by_prefix})",), parts=_CONDITIONS)


def _except(condition: conditions.Except) -> Translation:
    """Write each exception as a function with tables of its own."""
    sets = [[translate(each) for each in own] for own in condition.sets]
    added = [
        [
            "run(function()",
            *indented(statements(own)),
            "  exceptions[#exceptions + 1] = function()",
            *indented(conjunction(own), 2),
            "  end",
            "end)",
        ]
        for own in sets
    ]
    parts = frozenset(part for own in sets for condition in own for part in condition.parts)
    return Translation(
        ("not is_excepted(exceptions)",), _in_functions("exceptions", added), parts=parts | _CONDITIONS
    )


# A test checks that no condition is missing. A sentence that refuses a condition also says what to do, such
# as "the script has no clock: take exec or forward for this policy".
TRANSLATIONS: Mapping[type[Any], Callable[[Any], Translation] | str] = {
    conditions.Users: _users,
    conditions.UserGroups: _user_groups,
    conditions.Verbs: _verbs,
    conditions.Stages: _stages,
    conditions.RecordedLevels: _recorded_levels,
    conditions.Codes: _codes,
    conditions.Namespaces: _namespaces,
    conditions.Resources: _resources,
    conditions.PatternResources: _pattern_resources,
    conditions.NonResourceURLs: _non_resource_urls,
    conditions.ImpersonatedUsers: _impersonated_users,
    conditions.UserAgents: _user_agents,
    conditions.SourceIPs: _source_ips,
    conditions.Annotation: _annotation,
    OwnNamespace: _own_namespace,
    conditions.Except: _except,
}
