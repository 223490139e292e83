"""The fields of a request, and the classes of their values that some conditions can tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from filter_engine import conditions as of_rules
from filter_engine.analysis import world
from filter_engine.analysis.condition_sets import GROUPS, annotation_field, texts_of
from filter_engine.analysis.domains import (
    Domain,
    TextField,
    addresses_domain,
    codes_domain,
    texts_domain,
)
from filter_engine.analysis.user_domains import Users, users_and_groups
from filter_engine.conditions import Condition
from filter_engine.own_namespace import OwnNamespace
from filter_engine.patterns import Texts

# Those that a witness should have come first.
STAGES = ("ResponseComplete", "ResponseStarted", "RequestReceived", "Panic")
LEVELS = ("RequestResponse", "Request", "Metadata")
_NAMESPACES = ("default", "team-a", "kube-system")
_AGENTS = ("kubectl/v1.34.0 (linux/amd64) kubernetes/0000000", "Go-http-client/2.0", "curl/8.5.0")
_PATHS = ("/readyz", "/metrics", "/version", "/healthz", "/openapi/v3")
_NEW_METHODS = ("propfind", "mkcol", "xyz", "yzx")
_DECISION = annotation_field(world.DECISION_ANNOTATION)


class Used:
    """What conditions compare fields with.

    Args:
        rules: the conditions of each rule.

    Attributes:
        texts: texts by the name of their field.
    """

    def __init__(self, rules: Iterable[Sequence[Condition]]) -> None:
        self.texts: dict[str, list[Texts]] = {}
        self._conditions: dict[type[Any], list[Any]] = {}
        for rule in rules:
            self._add(rule)

    def of(self, name: str) -> list[Texts]:
        """What a field is compared with."""
        return self.texts.get(name, [])

    def conditions(self, kind: type[Any]) -> list[Any]:
        """All conditions of a class."""
        return self._conditions.get(kind, [])

    def _add(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            if isinstance(condition, of_rules.Except):
                for each in condition.sets:
                    self._add(each)
                continue
            self._conditions.setdefault(type(condition), []).append(condition)
            for name, texts in texts_of(condition):
                if texts.words or texts.patterns:
                    self.texts.setdefault(name, []).append(texts)


def users_of(used: Used) -> Users:
    """The classes of users and groups."""
    namespaces = used.of("namespaces") if used.conditions(OwnNamespace) else []
    words = {word for texts in namespaces for word in texts.words if word}
    return users_and_groups(used.of("users"), used.of(GROUPS), namespaces, sorted(words))


def fields_of(used: Used, users: Users, *, is_resource: bool) -> tuple[Domain, ...]:
    """The fields of requests, in the order in which a search goes through them.

    Args:
        used: what conditions compare fields with.
        users: the classes of users.
        is_resource: whether the requests are for resources.

    Raises:
        TooManyClassesError: the patterns divide a field into more classes than can be looked at.
    """
    fields: list[Domain] = [users.users]
    if is_resource:
        fields += [_resource_verbs(), *_resource_fields(used, users)]
    else:
        fields += [_methods(used), _paths(used)]
    impersonated = TextField(
        "impersonatedUsers",
        "any other user",
        ("bob", "alice"),
        {None: "none"},
        forbidden="*",
        words_first=True,
    )
    agents = TextField("userAgents", "any other user agent", _AGENTS, {None: "none"}, forbidden="")
    annotations = sorted(name for name in used.texts if name.startswith("annotations["))
    fields += [
        texts_domain(impersonated, used.of(impersonated.name)),
        addresses_domain(used.conditions(of_rules.SourceIPs)),
        texts_domain(agents, used.of(agents.name)),
        *(texts_domain(_annotation(name), used.of(name)) for name in annotations),
        _named("levels", LEVELS),
        _named("stages", STAGES, odd=STAGES[2:]),
    ]
    own_codes = [*world.CODES_OF_NOBODY, 500]
    if _DECISION in annotations:
        own_codes.append(403)
    fields.append(codes_domain(used.conditions(of_rules.Codes), own_codes))
    return tuple(fields)


def _named(name: str, values: Iterable[str], odd: Sequence[str] = ()) -> Domain:
    domain = Domain(name)
    for value in values:
        domain.add(value, value or "none", odd=value in odd)
    return domain


def _annotation(name: str) -> TextField:
    words: dict[str | None, str] = {None: "none"}
    if name == _DECISION:
        words |= {"allow": "allow", "forbid": "forbid"}
    return TextField(name, "any other value", ("value",), words, forbidden="", words_first=True)


def _resource_verbs() -> Domain:
    return _named("verbs", world.RESOURCE_VERBS, odd=("", "proxy"))


def _methods(used: Used) -> Domain:
    """A client may send any method. It is recorded in lower case."""
    verbs = dict.fromkeys(world.METHODS)
    for condition in used.conditions(of_rules.Verbs):
        verbs.update(dict.fromkeys(filter(world.is_method, condition.verbs)))
    usual = ("get", "post", "put", "delete", "head")
    domain = _named("verbs", verbs, odd=[verb for verb in verbs if verb not in usual])
    domain.several |= 1 << len(domain.values)
    domain.add(next(each for each in _NEW_METHODS if each not in verbs), "any other method", odd=True)
    return domain


def _paths(used: Used) -> Domain:
    paths = TextField(
        "nonResourceURLs",
        "any other path",
        _PATHS,
        forbidden="*",
        patterns=(world.LONG_PATHS,),
        tracker=world.PathTracker(),
        allows=world.is_other_path,
        fills_stars=False,
    )
    return texts_domain(paths, used.of(paths.name))


def _resource_fields(used: Used, users: Users) -> list[Domain]:
    names, namespaces = used.of("resourceNames"), used.of("namespaces")
    owns = bool(used.conditions(OwnNamespace))
    of_accounts: dict[str | None, str] = {each: each for each in users.namespaces if each and owns}
    of_names: dict[str | None, str] = {"": "no name"}
    if names:
        # A namespace is named as its namespace is, and so the same classes are needed of both.
        names = namespaces = [*namespaces, *names]
        of_names |= of_accounts
    long: dict[str | None, str] = {each: each for each in world.LONG_SUBRESOURCES}
    fields = [
        (
            TextField("apiGroups", "any other API group", ("example.com", "apps"), {"": "core"}),
            used.of("apiGroups"),
        ),
        (TextField("resources", "any other resource", ("widgets",)), used.of("resources")),
        (
            TextField("subresources", "any other subresource", ("status", "scale"), {"": "none", **long}),
            used.of("subresources"),
        ),
        (
            TextField("namespaces", "any other namespace", _NAMESPACES, {"": "no namespace", **of_accounts}),
            namespaces,
        ),
        (
            TextField("resourceNames", "any other name", ("web", "db", "api"), of_names, words_first=True),
            names,
        ),
    ]
    domains: list[Domain] = [texts_domain(field, texts) for field, texts in fields]
    if owns:
        domains.append(_named("ownNamespace", ("other", "same", "prefix")))
    return domains
