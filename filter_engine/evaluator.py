"""Which rule decides on an event, and what it decides.

The matching rules of kube-apiserver's ``pkg/audit/policy/checker.go``, compiled to sets. Nothing
else in the project knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from filter_engine.attributes import Attributes, request_path, request_user, text
from filter_engine.model import GroupResources, Level, PolicyRule
from filter_engine.policy import Policy

LevelMatch = Literal["kubernetes", "exact"]


@dataclass(frozen=True)
class Decision:
    """What a policy says about an event.

    Attributes:
        level: the level of the rule that matched; None where none did.
        rule: index of that rule, counted from 0; None where none matched.
        stage_omitted: the event's stage is one that the rule or the policy omits.
        omit_managed_fields: ``managedFields`` are to be left out of the recorded bodies.
    """

    level: Level
    rule: int | None
    stage_omitted: bool
    omit_managed_fields: bool

    @property
    def keep(self) -> bool:
        """Whether kube-apiserver would have written the event."""
        return self.level is not Level.NONE and not self.stage_omitted


class PolicyEvaluator:
    """A policy, compiled once, that decides on events.

    Args:
        policy: the policy.
        level_match: ``kubernetes`` compares no levels, as kube-apiserver. ``exact`` is the meaning
            that ``k8s-audit-filter`` documents: a rule of level Metadata, Request or
            RequestResponse matches only events recorded at exactly that level; a rule of level
            None matches at any.

    Attributes:
        event_fields: the fields of an event that can make a difference to its decision, such as
            ``objectRef.name``. ``user``, ``requestURI`` and whether there is an ``objectRef`` always can.
    """

    def __init__(self, policy: Policy, *, level_match: LevelMatch = "kubernetes") -> None:
        if level_match not in ("kubernetes", "exact"):
            raise ValueError(f"level_match: expected 'kubernetes' or 'exact', found {level_match!r}")
        self.policy = policy
        self.level_match = level_match
        self._rules = [_CompiledRule(index, rule, policy) for index, rule in enumerate(policy.rules)]
        self._unmatched = _Result(None, Level.NONE, policy.omit_stages, policy.omit_managed_fields)
        self.event_fields = self._fields_read()
        self._users_named = frozenset(user for rule in policy.rules for user in rule.users)
        self._groups_named = frozenset(group for rule in policy.rules for group in rule.user_groups)

    def evaluate(self, event: Mapping[str, Any]) -> Decision:
        """Decide on an event as decoded from JSON or msgpack. Never raises for a mapping, however broken."""
        status = event.get("responseStatus")
        code = status.get("code") if isinstance(status, Mapping) else None
        return self.decide(
            Attributes.of_event(event),
            stage=text(event.get("stage")),
            level=text(event.get("level")),
            code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        )

    def decide(
        self, attributes: Attributes, *, stage: str, level: str = "", code: int | None = None
    ) -> Decision:
        """Decide on the attributes of a request.

        Args:
            attributes: what the API server knew of the request.
            stage: the stage at which the event was recorded.
            level: the level at which it was recorded; looked at only by ``level_match="exact"``.
            code: the response's status code; looked at only by rules with ``codes``.
        """
        recorded_at = level if self.level_match == "exact" else None
        for rule in self._rules:
            if rule.matches(attributes, recorded_at, code):
                return rule.result.at(stage)
        return self._unmatched.at(stage)

    def user_class(self, user: Any) -> tuple[bool, str | None, frozenset[str]]:
        """What rules can tell of a recorded ``user``: equal for two users whom no rule tells apart."""
        name, groups = request_user(user)
        named = name if name in self._users_named else None
        return name is None, named, self._groups_named.intersection(groups)

    def path_class(self, uri: str) -> tuple[int, ...]:
        """What rules can tell of a request URI: equal for two that match the same rules' URLs."""
        path = request_path(uri)
        return tuple(index for index, rule in enumerate(self._rules) if rule.matches_path(path))

    def _fields_read(self) -> frozenset[str]:
        rules = self.policy.rules
        elements = [element for rule in rules for element in rule.resources]
        read = {
            "verb": any(rule.verbs for rule in rules),
            "stage": self.policy.omit_stages or any(rule.omit_stages for rule in rules),
            "objectRef.namespace": any(rule.namespaces for rule in rules),
            "objectRef.apiGroup": elements,
            "objectRef.resource": elements,
            "objectRef.subresource": elements,
            "objectRef.name": any(element.resource_names for element in elements),
            "level": self.level_match == "exact",
            "responseStatus.code": any(rule.codes for rule in rules),
        }
        return frozenset(name for name, is_read in read.items() if is_read)


class _Result:
    """A rule's outcome: one Decision for stages that it omits, one for the others."""

    __slots__ = ("_emitted", "_omit_stages", "_omitted")

    def __init__(
        self, rule: int | None, level: Level, omit_stages: tuple[str, ...], omit_managed_fields: bool
    ) -> None:
        self._omit_stages = frozenset(omit_stages)
        self._emitted = Decision(level, rule, False, omit_managed_fields)
        self._omitted = Decision(level, rule, True, omit_managed_fields)

    def at(self, stage: str) -> Decision:
        return self._omitted if stage in self._omit_stages else self._emitted


class _CompiledRule:
    """One rule. An absent condition is None: an empty list in a policy puts no condition."""

    __slots__ = (
        "_codes",
        "_groups",
        "_level",
        "_namespaces",
        "_paths",
        "_resources",
        "_users",
        "_verbs",
        "result",
    )

    def __init__(self, index: int, rule: PolicyRule, policy: Policy) -> None:
        self._users = frozenset(rule.users) or None
        self._groups = frozenset(rule.user_groups) or None
        self._verbs = frozenset(rule.verbs) or None
        self._namespaces = frozenset(rule.namespaces) or None
        self._resources = [_ResourceMatcher(element) for element in rule.resources]
        self._paths = _PathMatcher(rule.non_resource_urls) if rule.non_resource_urls else None
        self._codes = frozenset(rule.codes) or None
        self._level = rule.level
        self.result = _Result(
            index,
            rule.level,
            policy.omit_stages + rule.omit_stages,
            policy.omit_managed_fields if rule.omit_managed_fields is None else rule.omit_managed_fields,
        )

    def matches(self, request: Attributes, recorded_at: str | None, code: int | None) -> bool:
        # A request without a user matches no rule that asks for one, not even for the name "".
        if self._users is not None and (request.user is None or request.user not in self._users):
            return False
        if self._groups is not None and (request.user is None or self._groups.isdisjoint(request.groups)):
            return False
        if self._verbs is not None and request.verb not in self._verbs:
            return False
        if recorded_at is not None and self._level is not Level.NONE and recorded_at != self._level.value:
            return False
        if self._codes is not None and code not in self._codes:
            return False
        if self._namespaces is not None or self._resources:
            return self._matches_resource(request)
        return self._paths is None or (not request.resource_request and self.matches_path(request.path))

    def matches_path(self, path: str) -> bool:
        return self._paths is not None and self._paths.matches(path)

    def _matches_resource(self, request: Attributes) -> bool:
        if not request.resource_request:
            return False
        # The namespace is "" for cluster-scoped objects and for requests across all namespaces.
        if self._namespaces is not None and request.namespace not in self._namespaces:
            return False
        return not self._resources or any(element.matches(request) for element in self._resources)


class _ResourceMatcher:
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

    def matches(self, request: Attributes) -> bool:
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


class _PathMatcher:
    """``nonResourceURLs``: exact paths, prefixes that end in ``*``, and ``*`` for any path."""

    __slots__ = ("_any", "_literals", "_prefixes")

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._any = "*" in urls
        self._literals = frozenset(urls)
        self._prefixes = tuple(url.rstrip("*") for url in urls if url.endswith("*"))

    def matches(self, path: str) -> bool:
        return self._any or path in self._literals or path.startswith(self._prefixes)
