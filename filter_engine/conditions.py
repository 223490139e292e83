"""The conditions of a rule, each a class: the fields that it reads, the words that it tells apart, and
whether a request meets it.

The first ones are the matching rules of kube-apiserver's ``pkg/audit/policy/checker.go``, compiled to sets.
In an ``audit.k8s.io`` Policy all comparisons are exact, and only ``resources`` and ``nonResourceURLs`` have
patterns. In a FilterPolicy most of their values are patterns too, and there are more conditions. Each
condition has the values that it was made of as attributes, for compilers to other languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from filter_engine import fields
from filter_engine.fields import Field, annotation
from filter_engine.model import Conditions, GroupResources, Level, PolicyRule
from filter_engine.own_namespace import OwnNamespace
from filter_engine.patterns import Pattern, Texts
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


def conditions_of(
    rule: PolicyRule, *, compares_levels: bool = False, has_patterns: bool = False
) -> tuple[Condition, ...]:
    """The conditions of a rule, in the order in which they are evaluated. An empty list is not a condition.

    Args:
        rule: the rule.
        compares_levels: whether a rule that keeps events matches only those recorded at its own level,
            as ``k8s-audit-filter`` documents.
        has_patterns: whether ``*`` stands for any run of characters, as in a FilterPolicy.
    """
    conditions = [*_conditions(rule, has_patterns)]
    if compares_levels and rule.level is not Level.NONE:
        conditions.append(RecordedLevels((rule.level.value,)))
    if rule.exceptions:
        conditions.append(Except([tuple(_conditions(each, has_patterns)) for each in rule.exceptions]))
    return tuple(conditions)


def _conditions(rule: Conditions, has_patterns: bool) -> Iterator[Condition]:
    def texts(values: Sequence[str]) -> Texts:
        return Texts(values, patterns=has_patterns)

    if rule.users:
        yield Users(texts(rule.users))
    if rule.user_groups:
        yield UserGroups(texts(rule.user_groups))
    if rule.verbs:
        yield Verbs(rule.verbs)
    if rule.codes:
        yield Codes([(code, code) for code in rule.codes])
    if rule.namespaces:
        yield Namespaces(texts(rule.namespaces))
    if rule.resources:
        yield PatternResources(rule.resources) if has_patterns else Resources(rule.resources)
    if rule.non_resource_urls and not (rule.namespaces or rule.resources):
        urls = rule.non_resource_urls
        yield NonResourceURLs(texts(urls) if has_patterns else _paths(urls))
    yield from _more_conditions(rule)


def _more_conditions(rule: Conditions) -> Iterator[Condition]:
    """The conditions of a FilterPolicy that Kubernetes does not have."""

    def texts(values: Sequence[str]) -> Texts:
        return Texts(values, patterns=True)

    if rule.stages:
        yield Stages(rule.stages)
    if rule.levels:
        yield RecordedLevels(rule.levels)
    if rule.response_codes:
        yield Codes(rule.response_codes)
    if rule.impersonated_users:
        yield ImpersonatedUsers(texts(rule.impersonated_users))
    if rule.user_agents:
        yield UserAgents(texts(rule.user_agents))
    if rule.source_ips:
        yield SourceIPs(rule.source_ips)
    for key, values in rule.annotations:
        yield Annotation(key, texts(values))
    if rule.own_namespace:
        yield OwnNamespace(rule.own_namespace)


def _paths(urls: Sequence[str]) -> Texts:
    """``nonResourceURLs`` as kube-apiserver reads them: exact paths, and prefixes that end in ``*``."""
    literals = [url for url in urls if url != "*"]
    prefixes = [url.rstrip("*") for url in urls if url.endswith("*")]
    return Texts(literals).with_patterns(Pattern(prefix) for prefix in prefixes)


class Users:
    """``users``: the user's name. A request without a user has no name, not even an empty one."""

    reads = (fields.USERNAME, fields.GROUPS)

    def __init__(self, names: Texts) -> None:
        self.names = names
        self._matches = names.matches

    def is_met(self, request: Request) -> bool:
        return request.user is not None and self._matches(request.user)

    def add_words(self, words: Words) -> None:
        _add(words, fields.USERNAME, self.names)


class UserGroups:
    """``userGroups``: at least one of the user's groups."""

    reads = (fields.USERNAME, fields.GROUPS)

    def __init__(self, groups: Texts) -> None:
        self.groups = groups

    def is_met(self, request: Request) -> bool:
        return request.user is not None and self.groups.match_any(request.groups)

    def add_words(self, words: Words) -> None:
        _add(words, fields.GROUPS, self.groups)


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


class Stages:
    """``stages``: the stage at which the event was recorded."""

    reads = (fields.STAGE,)

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)

    def is_met(self, request: Request) -> bool:
        return request.stage in self.stages

    def add_words(self, words: Words) -> None:
        words.add(fields.STAGE, self.stages)


class RecordedLevels:
    """``levels``: the level at which an event was recorded."""

    reads = (fields.LEVEL,)

    def __init__(self, levels: Sequence[str]) -> None:
        self.levels = tuple(levels)

    def is_met(self, request: Request) -> bool:
        return request.level in self.levels

    def add_words(self, words: Words) -> None:
        words.add(fields.LEVEL, self.levels)


class Codes:
    """``responseCodes`` and ``codes``: ranges of the response's status code."""

    reads = (fields.CODE,)

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.ranges = tuple(ranges)
        self._codes = frozenset(code for first, last in ranges for code in range(first, last + 1))

    def is_met(self, request: Request) -> bool:
        return request.code in self._codes

    def add_words(self, words: Words) -> None:
        words.add(fields.CODE, self._codes)


class Namespaces:
    """``namespaces``; the empty name stands for cluster-scoped objects and requests across namespaces."""

    reads = (fields.NAMESPACE, fields.VERB, fields.REQUEST_URI, fields.API_GROUP, fields.RESOURCE)

    def __init__(self, namespaces: Texts) -> None:
        self.namespaces = namespaces
        self._matches = namespaces.matches

    def is_met(self, request: Request) -> bool:
        return request.resource_request and self._matches(request.namespace)

    def add_words(self, words: Words) -> None:
        _add(words, fields.NAMESPACE, self.namespaces)


_OF_RESOURCES = (
    fields.API_GROUP,
    fields.RESOURCE,
    fields.SUBRESOURCE,
    fields.NAME,
    fields.VERB,
    fields.REQUEST_URI,
)


class Resources:
    """``resources``: one of the elements has to match."""

    reads = _OF_RESOURCES

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


class PatternResources:
    """``resources`` of a FilterPolicy: one of the elements has to match."""

    reads = _OF_RESOURCES

    def __init__(self, elements: Sequence[GroupResources]) -> None:
        self.elements = tuple(PatternElement(element) for element in elements)

    def is_met(self, request: Request) -> bool:
        return request.resource_request and any(element.matches(request) for element in self.elements)

    def add_words(self, words: Words) -> None:
        for element in self.elements:
            element.add_words(words)


class PatternElement:
    """An element of ``resources`` whose group, resources and names are patterns.

    Kubernetes' forms keep their meaning: ``*`` is every resource and subresource, ``*/log`` that subresource
    of any resource, ``pods/*`` a resource and all its subresources, and ``pods`` the resource alone.

    Attributes:
        group: the API group.
        covers_all: whether all resources and subresources of the group are meant.
        names: names of objects; None for any, and for requests that name none.
        resources: resources that are meant without their subresources.
        families: resources that are meant with all their subresources.
        pairs: resources and their subresources.
    """

    def __init__(self, element: GroupResources) -> None:
        self.group = Texts((element.group,), patterns=True)
        self.covers_all = not element.resources or "*" in element.resources
        self.names = None
        if element.resource_names and element.resources:
            self.names = Texts(element.resource_names, patterns=True)
        split = [pattern.partition("/") for pattern in element.resources]
        self.resources = Texts([first for first, slash, _ in split if not slash], patterns=True)
        self.families = Texts([first for first, slash, last in split if slash and last == "*"], patterns=True)
        self.pairs = tuple(
            (Texts((first,), patterns=True), Texts((last,), patterns=True))
            for first, slash, last in split
            if slash and last != "*"
        )

    def matches(self, request: Request) -> bool:
        if not self.group.matches(request.api_group):
            return False
        if self.names is not None and not self.names.matches(request.name):
            return False
        if self.covers_all or self.families.matches(request.resource):
            return True
        if not request.subresource:
            return self.resources.matches(request.resource)
        return any(
            last.matches(request.subresource) and first.matches(request.resource)
            for first, last in self.pairs
        )

    def add_words(self, words: Words) -> None:
        _add(words, fields.API_GROUP, self.group)
        if self.names is not None:
            _add(words, fields.NAME, self.names)
        if self.covers_all:
            return
        # Whether there is a subresource tells pods from pods/log.
        words.add(fields.SUBRESOURCE, ("",))
        _add(words, fields.RESOURCE, self.resources)
        _add(words, fields.RESOURCE, self.families)
        for first, last in self.pairs:
            _add(words, fields.RESOURCE, first)
            _add(words, fields.SUBRESOURCE, last)


class NonResourceURLs:
    """``nonResourceURLs``: the decoded path of a request that is not for a resource."""

    reads = (fields.REQUEST_URI,)

    def __init__(self, paths: Texts) -> None:
        self.paths = paths
        self._matches = paths.matches

    def is_met(self, request: Request) -> bool:
        return not request.resource_request and self._matches(request.path)

    def add_words(self, words: Words) -> None:
        _add(words, fields.REQUEST_URI, self.paths)


class ImpersonatedUsers:
    """``impersonatedUsers``: the name of the user that the request was made as."""

    reads = (fields.IMPERSONATED_USER,)

    def __init__(self, names: Texts) -> None:
        self.names = names

    def is_met(self, request: Request) -> bool:
        name = request.more.get(fields.IMPERSONATED_USER)
        return name is not None and self.names.matches(name)

    def add_words(self, words: Words) -> None:
        _add_present(words, fields.IMPERSONATED_USER, self.names)


class UserAgents:
    """``userAgents``: what the client calls itself."""

    reads = (fields.USER_AGENT,)

    def __init__(self, names: Texts) -> None:
        self.names = names

    def is_met(self, request: Request) -> bool:
        name = request.more.get(fields.USER_AGENT)
        return name is not None and self.names.matches(name)

    def add_words(self, words: Words) -> None:
        _add_present(words, fields.USER_AGENT, self.names)


class SourceIPs:
    """``sourceIPs``: every recorded address has to be in one of the networks.

    All addresses but the last one come from headers that the client may write.
    """

    reads = (fields.SOURCE_IPS,)

    def __init__(self, networks: Sequence[str]) -> None:
        from filter_engine.networks import Networks  # noqa: PLC0415 - importing ipaddress takes some time

        self.networks = Networks(networks)

    def is_met(self, request: Request) -> bool:
        return self.networks.have_all(request.more.get(fields.SOURCE_IPS, ()))

    def add_words(self, words: Words) -> None:
        words.add_test(fields.SOURCE_IPS, self.networks.have_all)


class Annotation:
    """An element of ``annotations``: the value of the annotation with this key."""

    def __init__(self, key: str, values: Texts) -> None:
        self.key = key
        self.values = values
        self.field = annotation(key)
        self.reads = (self.field,)

    def is_met(self, request: Request) -> bool:
        value = request.more.get(self.field)
        return value is not None and self.values.matches(value)

    def add_words(self, words: Words) -> None:
        _add_present(words, self.field, self.values)


def _add(words: Words, field: Field, texts: Texts) -> None:
    words.add(field, texts.words)
    words.add_patterns(field, texts.patterns)


def _add_present(words: Words, field: Field, texts: Texts) -> None:
    """Add the texts of a field that has to be there to meet the condition."""
    words.add(field, ("",))
    _add(words, field, texts)


class Except:
    """``except``: none of these sets of conditions is met as a whole."""

    def __init__(self, sets: Sequence[tuple[Condition, ...]]) -> None:
        self.sets = tuple(sets)
        self.reads = tuple(
            dict.fromkeys(field for each in sets for condition in each for field in condition.reads)
        )

    def is_met(self, request: Request) -> bool:
        return not any(all(condition.is_met(request) for condition in each) for each in self.sets)

    def add_words(self, words: Words) -> None:
        for each in self.sets:
            for condition in each:
                condition.add_words(words)
