"""The conditions of a rule, each a class: the fields that it reads, the words that it tells apart, and
whether a request meets it.

These are the matching rules of kube-apiserver's ``pkg/audit/policy/checker.go``, compiled to sets. All
comparisons are exact. Only ``resources`` and ``nonResourceURLs`` have patterns. Each condition has the values
that it was made of as an attribute, for compilers to other languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from filter_engine import fields
from filter_engine.fields import Field
from filter_engine.model import GroupResources, Level, PolicyRule
from filter_engine.request import Request
from filter_engine.vocabulary import Words


class Condition(Protocol):
    """One restriction of a rule."""

    @property
    def reads(self) -> tuple[Field, ...]:
        """The fields of an event that decide whether the condition is met."""

    def is_met(self, request: Request) -> bool:
        """Whether a request meets the condition."""

    def add_words(self, words: Words) -> None:
        """Add all that the condition tells apart to a vocabulary."""


def conditions_of(rule: PolicyRule, *, compares_levels: bool) -> tuple[Condition, ...]:
    """The conditions of a rule, in the order in which they are evaluated. An empty list is not a condition.

    Args:
        rule: the rule.
        compares_levels: whether a rule that keeps events matches only those recorded at its own level,
            as ``k8s-audit-filter`` documents.
    """
    conditions: list[Condition] = []
    if rule.users:
        conditions.append(Users(rule.users))
    if rule.user_groups:
        conditions.append(UserGroups(rule.user_groups))
    if rule.verbs:
        conditions.append(Verbs(rule.verbs))
    if compares_levels and rule.level is not Level.NONE:
        conditions.append(RecordedLevel(rule.level))
    if rule.codes:
        conditions.append(Codes(rule.codes))
    if rule.namespaces:
        conditions.append(Namespaces(rule.namespaces))
    if rule.resources:
        conditions.append(Resources(rule.resources))
    if rule.non_resource_urls and not (rule.namespaces or rule.resources):
        conditions.append(NonResourceURLs(rule.non_resource_urls))
    return tuple(conditions)


class Users:
    """``users``: the user's name. A request without a user has no name, not even an empty one."""

    reads = (fields.USERNAME, fields.GROUPS)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._names = frozenset(names)

    def is_met(self, request: Request) -> bool:
        return request.user is not None and request.user in self._names

    def add_words(self, words: Words) -> None:
        words.add(fields.USERNAME, self._names)


class UserGroups:
    """``userGroups``: at least one of the user's groups."""

    reads = (fields.USERNAME, fields.GROUPS)

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups = tuple(groups)
        self._groups = frozenset(groups)

    def is_met(self, request: Request) -> bool:
        return request.user is not None and not self._groups.isdisjoint(request.groups)

    def add_words(self, words: Words) -> None:
        words.add(fields.GROUPS, self._groups)


class Verbs:
    """``verbs``: the verb, of requests for resources and of other requests."""

    reads = (fields.VERB,)

    def __init__(self, verbs: Sequence[str]) -> None:
        self.verbs = tuple(verbs)
        self._verbs = frozenset(verbs)

    def is_met(self, request: Request) -> bool:
        return request.verb in self._verbs

    def add_words(self, words: Words) -> None:
        words.add(fields.VERB, self._verbs)


class RecordedLevel:
    """The level at which an event was recorded, an extension of ``k8s-audit-filter``."""

    reads = (fields.LEVEL,)

    def __init__(self, level: Level) -> None:
        self.level = level.value

    def is_met(self, request: Request) -> bool:
        return request.level == self.level

    def add_words(self, words: Words) -> None:
        words.add(fields.LEVEL, (self.level,))


class Codes:
    """``codes``: the response's status code, an extension of ``k8s-audit-filter``."""

    reads = (fields.CODE,)

    def __init__(self, codes: Sequence[int]) -> None:
        self.codes = tuple(codes)
        self._codes = frozenset(codes)

    def is_met(self, request: Request) -> bool:
        return request.code in self._codes

    def add_words(self, words: Words) -> None:
        words.add(fields.CODE, self._codes)


class Namespaces:
    """``namespaces``; the empty name stands for cluster-scoped objects and requests across namespaces."""

    reads = (fields.NAMESPACE, fields.VERB, fields.REQUEST_URI, fields.API_GROUP, fields.RESOURCE)

    def __init__(self, namespaces: Sequence[str]) -> None:
        self.namespaces = tuple(namespaces)
        self._namespaces = frozenset(namespaces)

    def is_met(self, request: Request) -> bool:
        return request.resource_request and request.namespace in self._namespaces

    def add_words(self, words: Words) -> None:
        words.add(fields.NAMESPACE, self._namespaces)


class Resources:
    """``resources``: one of the elements has to match."""

    reads = (
        fields.API_GROUP,
        fields.RESOURCE,
        fields.SUBRESOURCE,
        fields.NAME,
        fields.VERB,
        fields.REQUEST_URI,
    )

    def __init__(self, elements: Sequence[GroupResources]) -> None:
        self.elements = tuple(elements)
        self._elements = [_Element(element) for element in elements]

    def is_met(self, request: Request) -> bool:
        return request.resource_request and any(element.matches(request) for element in self._elements)

    def add_words(self, words: Words) -> None:
        for element in self._elements:
            element.add_words(words)


class _Element:
    """An element of ``resources``. Only ``*``, ``*/subresource`` and ``resource/*`` are patterns."""

    __slots__ = ("_all", "_any_group", "_group", "_literals", "_names", "_resources", "_subresources")

    def __init__(self, element: GroupResources) -> None:
        patterns = element.resources
        self._group = element.group
        self._any_group = element.group == "*"
        self._all = not patterns
        self._names = frozenset(element.resource_names) or None
        self._literals = frozenset(patterns)
        self._subresources = frozenset(p[2:] for p in patterns if p.startswith("*/"))
        self._resources = frozenset(p[:-2] for p in patterns if p.endswith("/*"))

    def matches(self, request: Request) -> bool:
        if not self._any_group and request.api_group != self._group:
            return False
        if self._all:
            return True
        if self._names is not None and request.name not in self._names:
            return False
        resource, subresource = request.resource, request.subresource
        return (
            (f"{resource}/{subresource}" if subresource else resource) in self._literals
            or "*" in self._literals
            or (subresource != "" and subresource in self._subresources)
            or resource in self._resources
        )

    def add_words(self, words: Words) -> None:
        if not self._any_group:
            words.add(fields.API_GROUP, (self._group,))
        # Whether there is a subresource tells pods from pods/log.
        words.add(fields.SUBRESOURCE, ("", *self._subresources))
        words.add(fields.RESOURCE, self._resources)
        words.add(fields.NAME, () if self._all else self._names or ())
        for literal in self._literals:
            for resource, subresource in _splits(literal):
                words.add(fields.RESOURCE, (resource,))
                words.add(fields.SUBRESOURCE, (subresource,))


def _splits(literal: str) -> Iterator[tuple[str, str]]:
    """Each resource and subresource that a literal may stand for."""
    yield literal, ""
    at = literal.find("/")
    while at >= 0:
        yield literal[:at], literal[at + 1 :]
        at = literal.find("/", at + 1)


class NonResourceURLs:
    """``nonResourceURLs``: exact paths, prefixes that end in ``*``, and ``*`` for any path."""

    reads = (fields.REQUEST_URI,)

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self._any = "*" in urls
        self._literals = frozenset(urls)
        self._prefixes = tuple(url.rstrip("*") for url in urls if url.endswith("*"))

    def is_met(self, request: Request) -> bool:
        if request.resource_request:
            return False
        path = request.path
        return self._any or path in self._literals or path.startswith(self._prefixes)

    def add_words(self, words: Words) -> None:
        if not self._any:
            words.add(fields.REQUEST_URI, self._literals)
            words.add_prefixes(fields.REQUEST_URI, self._prefixes)
