"""Sets of requests that the rules of one or two policies can tell apart.

Every field has finitely many classes (:mod:`.domains`), so a rule is a union of *lines*, each a set of classes for
each field, minus the lines of its exceptions. Requests for resources and other requests have different
fields, and stand in two halves. A user's groups are a set: a line says of which groups a request has at least one.
What is never seen (:mod:`.world`) is a union of lines too. :mod:`.search` finds requests in these sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from filter_engine import conditions as of_rules
from filter_engine.analysis import world
from filter_engine.analysis.domains import Domain, TextDomain, addresses_domain, codes_domain, texts_domain
from filter_engine.analysis.user_domains import Users, users_and_groups
from filter_engine.conditions import Condition, PatternElement, conditions_of
from filter_engine.evaluator import LevelMatch
from filter_engine.model import GroupResources
from filter_engine.own_namespace import OwnNamespace
from filter_engine.patterns import Texts
from filter_engine.policy import Policy

GROUPS = "userGroups"
STAGES = ("ResponseComplete", "ResponseStarted", "RequestReceived", "Panic")
LEVELS = ("RequestResponse", "Request", "Metadata")
_NAMESPACES = ("default", "team-a", "kube-system")


class Line(NamedTuple):
    """A set of requests.

    Attributes:
        masks: for each field, the set of its classes.
        groups: of these groups, a user has at least one; 0 for any user.
    """

    masks: tuple[int, ...]
    groups: int = 0


@dataclass
class RuleLines:
    """The lines of a rule, as bits: those that it matches, and those of its exceptions."""

    mains: int = 0
    exceptions: int = 0
    groups: int = 0


@dataclass
class Half:
    """Requests for resources, or all others.

    Attributes:
        is_resource: which of both.
        domains: the fields.
        at: the number of a field by its name.
        lines: the lines of all rules, those of the first policy first, and of all facts.
        rules: by policy, its rules.
        facts: the lines of what is never seen, as bits.
        columns: by field, by class: the lines that have the class, as bits.
        with_groups: the lines with a condition on groups, as bits.
    """

    is_resource: bool
    domains: tuple[Domain, ...]
    at: Mapping[str, int]
    lines: list[Line] = field(default_factory=list)
    rules: list[list[RuleLines]] = field(default_factory=list)
    facts: int = 0
    columns: list[list[int]] = field(default_factory=list)
    with_groups: int = 0

    def line(self, sets: Mapping[str, int]) -> Line | None:
        """A line of sets by the names of fields. None if it is empty, or about fields of the other half."""
        masks = [domain.all for domain in self.domains]
        for name, mask in sets.items():
            if name == GROUPS:
                continue
            if name not in self.at or not mask:
                return None
            masks[self.at[name]] &= mask
        groups = sets.get(GROUPS)
        if groups == 0 or not all(masks):
            return None
        return Line(tuple(masks), groups or 0)

    def add(self, sets: Sequence[Mapping[str, int]]) -> int:
        """Add lines. Returns them as bits."""
        found = 0
        for line in dict.fromkeys(self.line(each) for each in sets):
            if line is not None:
                found |= 1 << len(self.lines)
                self.lines.append(line)
        return found

    def index(self) -> None:
        """Fill ``columns`` once all lines are there."""
        self.columns = []
        for number, domain in enumerate(self.domains):
            everywhere, column = 0, [0] * len(domain.values)
            for bit, line in enumerate(self.lines):
                mask = line.masks[number]
                if mask == domain.all:
                    everywhere |= 1 << bit
                    continue
                while mask:
                    low = mask & -mask
                    column[low.bit_length() - 1] |= 1 << bit
                    mask ^= low
            self.columns.append([each | everywhere for each in column])
        self.with_groups = sum(1 << bit for bit, line in enumerate(self.lines) if line.groups)


class Space:
    """All requests, as the rules of some policies can tell them apart.

    Args:
        policies: the policies, each with the ``level_match`` of its evaluator.

    Raises:
        TooManyClassesError: the patterns divide a field into more classes than can be looked at.

    Attributes:
        policies: the policies.
        users: the classes of users and groups.
        halves: requests for resources, and other requests.
        owners: with ``ownNamespace``, by the classes of user and namespace and by their relation: a user's name
            and a namespace that are so related.
    """

    def __init__(self, policies: Sequence[tuple[Policy, LevelMatch]]) -> None:
        from filter_engine.analysis.facts import add_facts, owners_of  # noqa: PLC0415 - they need this module

        self.policies = [policy for policy, _ in policies]
        compiled = [
            [
                conditions_of(rule, compares_levels=match == "exact", has_patterns=policy.has_patterns)
                for rule in policy.rules
            ]
            for policy, match in policies
        ]
        used = _Used()
        for rules in compiled:
            for rule in rules:
                used.add(rule)
        self.users = _users(used)
        self.halves = tuple(_half(used, self.users, is_resource) for is_resource in (True, False))
        self.owners = owners_of(self.halves[0], self.users) if used.owns else {}
        for half in self.halves:
            for rules in compiled:
                half.rules.append([self._rule(half, rule) for rule in rules])
            add_facts(half, self.users, self.owners)
            half.index()

    def _rule(self, half: Half, rule: Sequence[Condition]) -> RuleLines:
        found = RuleLines()
        own = [condition for condition in rule if not isinstance(condition, of_rules.Except)]
        found.mains = half.add(self._lines(half, own))
        if not found.mains:
            return found
        found.groups = half.lines[-1].groups
        for condition in rule:
            if isinstance(condition, of_rules.Except):
                for each in condition.sets:
                    found.exceptions |= half.add(self._lines(half, each))
        return found

    def _lines(self, half: Half, conditions: Sequence[Condition]) -> list[Mapping[str, int]]:
        """The lines of conditions that all have to be met."""
        choices = [list(self._choices(half, condition)) for condition in conditions]
        found: list[Mapping[str, int]] = []
        for chosen in product(*choices):
            sets: dict[str, int] = {}
            for choice in chosen:
                for name, mask in choice.items():
                    sets[name] = sets.get(name, mask) & mask
            found.append(sets)
        return found

    def _choices(self, half: Half, condition: Condition) -> Iterator[dict[str, int]]:
        """A condition as sets of classes: a request meets one of them."""
        domain = {name: half.domains[number] for name, number in half.at.items()}
        if isinstance(condition, of_rules.UserGroups):
            yield {GROUPS: self.users.groups.matching(condition.groups)}
        elif isinstance(condition, of_rules.Verbs):
            yield {"verbs": domain["verbs"].among(condition.verbs)}
        elif isinstance(condition, of_rules.Stages):
            yield {"stages": domain["stages"].among(condition.stages)}
        elif isinstance(condition, of_rules.RecordedLevels):
            yield {"levels": domain["levels"].among(condition.levels)}
        elif isinstance(condition, of_rules.Codes):
            yield {"responseCodes": domain["responseCodes"].where(lambda code: _has_code(condition, code))}
        elif isinstance(condition, of_rules.SourceIPs):
            yield {"sourceIPs": domain["sourceIPs"].where(condition.networks.have_all)}
        elif isinstance(condition, OwnNamespace):
            if half.is_resource:
                met = ("same", "prefix") if condition.relation == "prefix" else ("same",)
                yield {"ownNamespace": domain["ownNamespace"].among(met)}
        elif isinstance(condition, of_rules.Resources):
            if half.is_resource:
                for element in condition.elements:
                    yield from _element(half, element)
        elif isinstance(condition, of_rules.PatternResources):
            if half.is_resource:
                for pattern_element in condition.elements:
                    yield from _pattern_element(half, pattern_element)
        else:
            name, texts = _texts_of(condition)
            if name in domain:
                found = domain[name]
                yield {name: found.matching(texts) if isinstance(found, TextDomain) else 0}


def _has_code(condition: of_rules.Codes, code: int | None) -> bool:
    return code is not None and any(first <= code <= last for first, last in condition.ranges)


def _texts_of(condition: Condition) -> tuple[str, Texts]:
    """The field and the texts of a condition that compares one field with texts."""
    if isinstance(condition, of_rules.Users):
        return "users", condition.names
    if isinstance(condition, of_rules.Namespaces):
        return "namespaces", condition.namespaces
    if isinstance(condition, of_rules.NonResourceURLs):
        return "nonResourceURLs", condition.paths
    if isinstance(condition, of_rules.UserAgents):
        return "userAgents", condition.names
    if isinstance(condition, of_rules.ImpersonatedUsers):
        return "impersonatedUsers", condition.names
    if isinstance(condition, of_rules.Annotation):
        return f"annotations[{condition.key}]", condition.values
    raise TypeError(f"no set of requests is known for {type(condition).__name__}")


def _element(half: Half, element: GroupResources) -> Iterator[dict[str, int]]:
    """An element of ``resources`` of a Policy: only ``*``, ``*/subresource`` and ``resource/*`` are patterns."""
    groups = Texts((element.group,))
    sets = {} if element.group == "*" else {"apiGroups": _matching(half, "apiGroups", groups)}
    if element.resources and element.resource_names:
        sets["resourceNames"] = _matching(half, "resourceNames", Texts(element.resource_names))
    if not element.resources or "*" in element.resources:
        yield sets
        return
    by_subresource: dict[str, list[str]] = {}
    families, everywhere = [], []
    for pattern in element.resources:
        resource, _, subresource = pattern.partition("/")
        if subresource == "*":
            families.append(resource)
        elif resource == "*":
            everywhere.append(subresource)
        else:
            by_subresource.setdefault(subresource, []).append(resource)
    if families:
        yield sets | {"resources": _matching(half, "resources", Texts(families))}
    if everywhere:
        yield sets | {"subresources": _matching(half, "subresources", Texts(filter(None, everywhere)))}
    for subresource, resources in by_subresource.items():
        yield sets | {
            "resources": _matching(half, "resources", Texts(resources)),
            "subresources": _matching(half, "subresources", Texts((subresource,))),
        }


def _pattern_element(half: Half, element: PatternElement) -> Iterator[dict[str, int]]:
    sets = {"apiGroups": _matching(half, "apiGroups", element.group)}
    if element.names is not None:
        sets["resourceNames"] = _matching(half, "resourceNames", element.names)
    if element.covers_all:
        yield sets
        return
    nothing = _matching(half, "subresources", Texts(("",)))
    subresources = half.domains[half.at["subresources"]].all & ~nothing
    if element.families.words or element.families.patterns:
        yield sets | {"resources": _matching(half, "resources", element.families)}
    if element.resources.words or element.resources.patterns:
        yield sets | {"resources": _matching(half, "resources", element.resources), "subresources": nothing}
    for resource, subresource in element.pairs:
        yield sets | {
            "resources": _matching(half, "resources", resource),
            "subresources": _matching(half, "subresources", subresource) & subresources,
        }


def _matching(half: Half, name: str, texts: Texts) -> int:
    domain = half.domains[half.at[name]]
    return domain.matching(texts) if isinstance(domain, TextDomain) else 0


@dataclass
class _Used:
    """What conditions compare fields with."""

    texts: dict[str, list[Texts]] = field(default_factory=dict)
    groups: list[Texts] = field(default_factory=list)
    verbs: dict[str, None] = field(default_factory=dict)
    codes: list[of_rules.Codes] = field(default_factory=list)
    addresses: list[of_rules.SourceIPs] = field(default_factory=list)
    owns: bool = False

    def of(self, name: str) -> list[Texts]:
        return self.texts.get(name, [])

    def add(self, conditions: Collection[Condition]) -> None:
        for condition in conditions:
            if isinstance(condition, of_rules.Except):
                for each in condition.sets:
                    self.add(each)
            elif isinstance(condition, of_rules.UserGroups):
                self.groups.append(condition.groups)
            elif isinstance(condition, of_rules.Verbs):
                self.verbs.update(dict.fromkeys(condition.verbs))
            elif isinstance(condition, of_rules.Codes):
                self.codes.append(condition)
            elif isinstance(condition, of_rules.SourceIPs):
                self.addresses.append(condition)
            elif isinstance(condition, OwnNamespace):
                self.owns = True
            elif isinstance(condition, of_rules.Resources):
                for element in condition.elements:
                    self._add_element(element)
            elif isinstance(condition, of_rules.PatternResources):
                for pattern_element in condition.elements:
                    self._add_pattern_element(pattern_element)
            elif not isinstance(condition, (of_rules.Stages, of_rules.RecordedLevels)):
                name, texts = _texts_of(condition)
                self._add(name, texts)

    def _add(self, name: str, texts: Texts) -> None:
        self.texts.setdefault(name, []).append(texts)

    def _add_element(self, element: GroupResources) -> None:
        if element.group != "*":
            self._add("apiGroups", Texts((element.group,)))
        for pattern in element.resources:
            resource, _, subresource = pattern.partition("/")
            self._add("resources", Texts((resource,)))
            self._add("subresources", Texts((subresource,)))
        if element.resources and element.resource_names:
            self._add("resourceNames", Texts(element.resource_names))

    def _add_pattern_element(self, element: PatternElement) -> None:
        self._add("apiGroups", element.group)
        self._add("resources", element.resources)
        self._add("resources", element.families)
        for resource, subresource in element.pairs:
            self._add("resources", resource)
            self._add("subresources", subresource)
        if element.names is not None:
            self._add("resourceNames", element.names)


def _users(used: _Used) -> Users:
    namespaces = used.of("namespaces") if used.owns else []
    words = {word for texts in namespaces for word in texts.words if word}
    return users_and_groups(used.of("users"), used.groups, namespaces, sorted(words))


def _half(used: _Used, users: Users, is_resource: bool) -> Half:
    """A half without lines."""
    stages, levels = Domain("stages"), Domain("levels")
    for stage in STAGES:
        stages.add(stage, stage, odd=stage in STAGES[2:])
    for level in LEVELS:
        levels.add(level, level)
    of_annotations = sorted(name for name in used.texts if name.startswith("annotations["))
    # A refusal has the code 403.
    decides = f"annotations[{world.DECISION_ANNOTATION}]" in of_annotations
    codes = codes_domain(used.codes, (*world.CODES_OF_NOBODY, 500, *((403,) if decides else ())))
    absent: dict[str | None, str] = {None: "none"}
    domains: list[Domain] = [users.users, _verbs(used, is_resource)]
    if is_resource:
        domains += _resource_domains(used, users)
    else:
        domains.append(_paths(used))
    domains.append(
        texts_domain(
            "impersonatedUsers", used.of("impersonatedUsers"), words=absent, forbidden="*",
            other="any other user", preferred=("bob", "alice"),
        )
    )  # fmt: skip
    domains.append(addresses_domain(used.addresses))
    domains.append(
        texts_domain(
            "userAgents", used.of("userAgents"), words=absent, forbidden="",
            other="any other user agent", preferred=_AGENTS,
        )
    )  # fmt: skip
    for name in of_annotations:
        words = dict(absent)
        if name == f"annotations[{world.DECISION_ANNOTATION}]":
            words |= {"allow": "allow", "forbid": "forbid"}
        domains.append(
            texts_domain(
                name,
                used.of(name),
                words=words,
                forbidden="",
                other="any other value",
                preferred=("value",),
                words_first=True,
            )
        )
    domains += [levels, stages, codes]
    return Half(is_resource, tuple(domains), {domain.name: index for index, domain in enumerate(domains)})


_AGENTS = ("kubectl/v1.34.0 (linux/amd64) kubernetes/0000000", "Go-http-client/2.0", "curl/8.5.0")


def _verbs(used: _Used, is_resource: bool) -> Domain:
    verbs = Domain("verbs")
    if is_resource:
        for verb in world.RESOURCE_VERBS:
            verbs.add(verb, verb or "none", odd=verb in ("", "proxy"))
        return verbs
    # A client may send any method. It is recorded in lower case.
    known = dict.fromkeys(world.METHODS)
    more = [verb for verb in used.verbs if world.is_method(verb) and verb not in known]
    for verb in (*known, *more):
        verbs.add(verb, verb, odd=verb not in ("get", "post", "put", "delete", "head"))
    verbs.add(
        next(each for each in ("propfind", "mkcol", "xyz", "yzx") if each not in more), "any other", odd=True
    )
    return verbs


def _resource_domains(used: _Used, users: Users) -> list[Domain]:
    resource_names, namespaces = used.of("resourceNames"), used.of("namespaces")
    if resource_names:
        # The name of a namespace is its namespace, too.
        resource_names = namespaces = [*namespaces, *resource_names]
    of_accounts: dict[str | None, str] = {each: each for each in users.namespaces if each and used.owns}
    domains: list[Domain] = [
        texts_domain(
            "apiGroups", used.of("apiGroups"), words={"": "core"},
            other="any other API group", preferred=("example.com", "apps", "rbac.authorization.k8s.io"),
        ),
        texts_domain("resources", used.of("resources"), other="any other resource", preferred=("widgets",)),
        texts_domain(
            "subresources", used.of("subresources"),
            words={"": "none", **{each: each for each in world.LONG_SUBRESOURCES}},
            other="any other subresource", preferred=("status", "scale"),
        ),
        texts_domain(
            "namespaces", namespaces, words={"": "no namespace", **of_accounts},
            other="any other namespace", preferred=_NAMESPACES,
        ),
        texts_domain(
            "resourceNames", resource_names, words={"": "no name", **(of_accounts if resource_names else {})},
            other="any other name", preferred=("web", "db", "api"), words_first=True,
        ),
    ]  # fmt: skip
    if used.owns:
        owns = Domain("ownNamespace")
        for relation in ("other", "same", "prefix"):
            owns.add(relation, relation)
        domains.append(owns)
    return domains


def _paths(used: _Used) -> Domain:
    return texts_domain(
        "nonResourceURLs", used.of("nonResourceURLs"), patterns=(world.LONG_PATHS,), forbidden="*",
        other="any other path", preferred=("/readyz", "/metrics", "/version", "/healthz", "/openapi/v3"),
        tracker=world.PathTracker(), allows=world.is_other_path,
    )  # fmt: skip
