"""The conditions of rules as sets of classes, by field.

To add a condition: a line in ``TEXTS`` if it compares a field with texts, one in ``_SETS`` in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from filter_engine import conditions as of_rules
from filter_engine.analysis.domains import Domain, TextDomain
from filter_engine.conditions import Condition, PatternElement
from filter_engine.model import GroupResources
from filter_engine.own_namespace import OwnNamespace
from filter_engine.patterns import Texts

GROUPS = "userGroups"
# The fields of a request, by name.
Fields = Mapping[str, Domain]
# Sets of classes, by the name of a field. A field that is missing may be anything.
Sets = dict[str, int]


def texts_of(condition: Condition) -> Iterator[tuple[str, Texts]]:
    """The fields that a condition compares with texts, and the texts."""
    if (texts := TEXTS.get(type(condition))) is not None:
        yield from texts(condition)


def sets_of(fields: Fields, condition: Condition) -> Iterator[Sets]:
    """A condition as sets of classes: it is met by what is in one of them.

    Args:
        fields: the fields of requests for resources, or of other requests, and ``userGroups``.
        condition: a condition, but not :class:`~filter_engine.conditions.Except`.
    """
    yield from _SETS[type(condition)](fields, condition)


def annotation_field(key: str) -> str:
    """The name of the field of an annotation."""
    return f"annotations[{key}]"


def _texts_of_element(condition: of_rules.Resources) -> Iterator[tuple[str, Texts]]:
    for element in condition.elements:
        if element.group != "*":
            yield "apiGroups", Texts((element.group,))
        for text in element.resources:
            resource, _, subresource = text.partition("/")
            yield "resources", Texts((resource,))
            yield "subresources", Texts((subresource,))
        if element.resources:
            yield "resourceNames", Texts(element.resource_names)


def _texts_of_pattern_element(condition: of_rules.PatternResources) -> Iterator[tuple[str, Texts]]:
    for element in condition.elements:
        yield "apiGroups", element.group
        yield "resources", element.resources
        yield "resources", element.families
        for resource, subresource in element.pairs:
            yield "resources", resource
            yield "subresources", subresource
        if element.names is not None:
            yield "resourceNames", element.names


TEXTS: Mapping[type[Any], Callable[[Any], Iterator[tuple[str, Texts]]]] = {
    of_rules.Users: lambda condition: iter([("users", condition.names)]),
    of_rules.UserGroups: lambda condition: iter([(GROUPS, condition.groups)]),
    of_rules.Namespaces: lambda condition: iter([("namespaces", condition.namespaces)]),
    of_rules.NonResourceURLs: lambda condition: iter([("nonResourceURLs", condition.paths)]),
    of_rules.UserAgents: lambda condition: iter([("userAgents", condition.names)]),
    of_rules.ImpersonatedUsers: lambda condition: iter([("impersonatedUsers", condition.names)]),
    of_rules.Annotation: lambda condition: iter([(annotation_field(condition.key), condition.values)]),
    of_rules.Resources: _texts_of_element,
    of_rules.PatternResources: _texts_of_pattern_element,
}


def _text(fields: Fields, condition: Condition) -> Iterator[Sets]:
    for name, texts in texts_of(condition):
        if name in fields:
            yield {name: _matching(fields, name, texts)}


def _matching(fields: Fields, name: str, texts: Texts) -> int:
    domain = fields[name]
    assert isinstance(domain, TextDomain)
    return domain.matching(texts)


def _codes(fields: Fields, condition: of_rules.Codes) -> Iterator[Sets]:
    def is_met(code: int | None) -> bool:
        return code is not None and any(first <= code <= last for first, last in condition.ranges)

    yield {"responseCodes": fields["responseCodes"].where(is_met)}


def _own_namespace(fields: Fields, condition: OwnNamespace) -> Iterator[Sets]:
    if "ownNamespace" in fields:
        met = ("same", "prefix") if condition.relation == "prefix" else ("same",)
        yield {"ownNamespace": fields["ownNamespace"].among(met)}


def _resources(fields: Fields, condition: of_rules.Resources) -> Iterator[Sets]:
    if "resources" in fields:
        for element in condition.elements:
            yield from _element(fields, element)


def _element(fields: Fields, element: GroupResources) -> Iterator[Sets]:
    """An element of a Policy's ``resources``. Only ``*``, ``*/subresource``, ``resource/*`` are patterns."""
    sets = (
        {} if element.group == "*" else {"apiGroups": _matching(fields, "apiGroups", Texts((element.group,)))}
    )
    if element.resources and element.resource_names:
        sets["resourceNames"] = _matching(fields, "resourceNames", Texts(element.resource_names))
    if not element.resources or "*" in element.resources:
        yield sets
        return
    by_subresource: dict[str, list[str]] = {}
    families, everywhere = [], []
    for text in element.resources:
        resource, _, subresource = text.partition("/")
        if subresource == "*":
            families.append(resource)
        elif resource == "*":
            everywhere.append(subresource)
        else:
            by_subresource.setdefault(subresource, []).append(resource)
    if families:
        yield sets | {"resources": _matching(fields, "resources", Texts(families))}
    if everywhere:
        yield sets | {"subresources": _matching(fields, "subresources", Texts(filter(None, everywhere)))}
    for subresource, resources in by_subresource.items():
        yield sets | {
            "resources": _matching(fields, "resources", Texts(resources)),
            "subresources": _matching(fields, "subresources", Texts((subresource,))),
        }


def _pattern_resources(fields: Fields, condition: of_rules.PatternResources) -> Iterator[Sets]:
    if "resources" in fields:
        for element in condition.elements:
            yield from _pattern_element(fields, element)


def _pattern_element(fields: Fields, element: PatternElement) -> Iterator[Sets]:
    sets = {"apiGroups": _matching(fields, "apiGroups", element.group)}
    if element.names is not None:
        sets["resourceNames"] = _matching(fields, "resourceNames", element.names)
    if element.covers_all:
        yield sets
        return
    itself = _matching(fields, "subresources", Texts(("",)))
    yield sets | {"resources": _matching(fields, "resources", element.families)}
    yield sets | {"resources": _matching(fields, "resources", element.resources), "subresources": itself}
    for resource, subresource in element.pairs:
        yield sets | {
            "resources": _matching(fields, "resources", resource),
            "subresources": _matching(fields, "subresources", subresource) & ~itself,
        }


_SETS: Mapping[type[Any], Callable[[Fields, Any], Iterator[Sets]]] = {
    **dict.fromkeys(TEXTS, _text),
    of_rules.Resources: _resources,
    of_rules.PatternResources: _pattern_resources,
    of_rules.Verbs: lambda fields, condition: iter([{"verbs": fields["verbs"].among(condition.verbs)}]),
    of_rules.Stages: lambda fields, condition: iter([{"stages": fields["stages"].among(condition.stages)}]),
    of_rules.RecordedLevels: lambda fields, condition: iter(
        [{"levels": fields["levels"].among(condition.levels)}]
    ),
    of_rules.Codes: _codes,
    of_rules.SourceIPs: lambda fields, condition: iter(
        [{"sourceIPs": fields["sourceIPs"].where(condition.networks.have_all)}]
    ),
    OwnNamespace: _own_namespace,
}
# The conditions that are known here. A test checks that none is missing.
KNOWN = frozenset(_SETS)
