"""Why a policy keeps or drops an event: rule by rule, and condition by condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filter_engine import conditions, fields
from filter_engine.actions import Actions, Changed, PolicyActions
from filter_engine.conditions import Condition, conditions_of
from filter_engine.evaluator import Decision, LevelMatch, PolicyEvaluator
from filter_engine.model import Conditions, Level, PolicyRule
from filter_engine.own_namespace import OwnNamespace
from filter_engine.policy import Policy
from filter_engine.request import Request

# What a request has in place of a value that it does not have.
NOTHING = "nothing"
_NOT_FOR_A_RESOURCE = "a request that is not for a resource"


@dataclass(frozen=True)
class Looked:
    """A condition, and what it saw.

    Attributes:
        name: the field of the rule, ``users``.
        wanted: the field's value, as JSON data.
        saw: what the event has there, in words.
        is_met: whether the condition is met.
        paths: the fields of the event that it reads, such as ``objectRef.name``.
    """

    name: str
    wanted: Any
    saw: str
    is_met: bool
    paths: tuple[str, ...]


@dataclass(frozen=True)
class RuleExplained:
    """What a rule did with an event.

    Attributes:
        rule: its index.
        name: its name; its index as text if it has none.
        line: the line on which it begins; None if it is not known.
        looked: its conditions up to the first one that is not met.
        exception: of a rule whose conditions are met, the index of the exception that matched; or None.
        exception_looked: the conditions of that exception.
    """

    rule: int
    name: str
    line: int | None
    looked: tuple[Looked, ...]
    exception: int | None = None
    exception_looked: tuple[Looked, ...] = ()

    @property
    def matched(self) -> bool:
        """Whether the rule matched the event."""
        return self.exception is None and all(each.is_met for each in self.looked)


@dataclass(frozen=True)
class Explained:
    """Why a policy does with an event what it does.

    Attributes:
        decision: what the policy says.
        rules: its rules up to the one that matched; all of them if none did.
        actions: what is done with events of this decision.
        is_in_sample: whether the event is in the sample of its rule; True if there is no sample.
        changed: the event that goes on, and what was done to it; None if it is dropped.
    """

    decision: Decision
    rules: tuple[RuleExplained, ...]
    actions: Actions
    is_in_sample: bool
    changed: Changed | None


class Explainer:
    """Explains what a policy does.

    Args:
        policy: the policy.
        level_match: that of the :class:`~filter_engine.PolicyEvaluator` that uses the policy.
        reduce: whether kept events are reduced if the policy says nothing of it.

    Raises:
        PolicyError: the key for the policy's hashes can't be read.
    """

    def __init__(
        self, policy: Policy, *, level_match: LevelMatch = "kubernetes", reduce: bool = False
    ) -> None:
        self._policy = policy
        self._evaluator = PolicyEvaluator(policy, level_match=level_match)
        self._actions = PolicyActions(policy, reduce=reduce)
        self._compares_levels = level_match == "exact"

    def explain(self, event: Mapping[str, Any]) -> Explained:
        """Explain what becomes of an event. Never raises an error for a mapping, however broken."""
        decision = self._evaluator.evaluate(event)
        request = Request.of_event(event, self._evaluator.reads)
        last = len(self._policy.rules) - 1 if decision.rule is None else decision.rule
        rules = tuple(self._rule(index, request) for index in range(last + 1))
        actions = self._actions.of(decision)
        in_sample = actions.keeps(fields.text(event.get("auditID")))
        changed = actions.change(event) if decision.keep and in_sample else None
        return Explained(decision, rules, actions, in_sample, changed)

    def _rule(self, index: int, request: Request) -> RuleExplained:
        rule = self._policy.rules[index]
        name, line = self._policy.rule_name(index), self._policy.rule_line(index)
        own = conditions_of(
            rule, compares_levels=self._compares_levels, has_patterns=self._policy.has_patterns
        )
        looked = _look(own, rule, request)
        if not all(each.is_met for each in looked):
            return RuleExplained(index, name, line, looked)
        for number, exception in enumerate(rule.exceptions):
            sets = conditions_of(_as_rule(exception), has_patterns=self._policy.has_patterns)
            excepted = _look(sets, exception, request)
            if all(each.is_met for each in excepted):
                return RuleExplained(index, name, line, looked, number, excepted)
        return RuleExplained(index, name, line, looked)


def _as_rule(exception: Conditions) -> PolicyRule:
    return PolicyRule(level=Level.NONE, **vars(exception))


def _look(own: Sequence[Condition], rule: Conditions, request: Request) -> tuple[Looked, ...]:
    """The conditions of a rule up to the first one that is not met, without its exceptions."""
    wanted = rule.conditions_to_dict()
    looked = []
    for condition in own:
        if isinstance(condition, conditions.Except):
            continue
        name, saw = SEEN[type(condition)]
        if name == "responseCodes" and name not in wanted:
            name = "codes"  # the field of k8s-audit-filter
        value = wanted.get(name)
        if isinstance(condition, conditions.Annotation):
            value = {condition.field.name: value and value[condition.field.name]}
        if name == "levels" and value is None:  # k8s-audit-filter's meaning of a rule's level
            value = list(condition.levels) if isinstance(condition, conditions.RecordedLevels) else None
        paths = tuple(field.path for field in condition.reads)
        looked.append(Looked(name, value, saw(condition, request), condition.is_met(request), paths))
        if not looked[-1].is_met:
            break
    return tuple(looked)


def _text(value: str | None) -> str:
    return NOTHING if value is None or value == "" else value


def _more(field: fields.Field) -> Callable[[Any, Request], str]:
    def saw(_: Any, request: Request) -> str:
        value = request.more.get(field)
        return ", ".join(value) if isinstance(value, tuple) else _text(value)

    return saw


def _resource(_: Any, request: Request) -> str:
    if not request.resource_request:
        return _NOT_FOR_A_RESOURCE
    what = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
    group = f" in {request.api_group}" if request.api_group else ""
    return f"{what}{group}{f', named {request.name}' if request.name else ''}"


def _namespace(_: Any, request: Request) -> str:
    if not request.resource_request:
        return _NOT_FOR_A_RESOURCE
    return request.namespace or "no namespace"


def _path(_: Any, request: Request) -> str:
    return "a request for a resource" if request.resource_request else _text(request.path)


def _annotation(condition: conditions.Annotation, request: Request) -> str:
    return _text(request.more.get(condition.field))


def _own_namespace(_: Any, request: Request) -> str:
    return f"{_text(request.user)} in {_namespace(None, request)}"


# By the class of a condition: the field of a rule, and what the condition looks at. A test checks that no
# condition is missing.
SEEN: Mapping[type[Any], tuple[str, Callable[[Any, Request], str]]] = {
    conditions.Users: ("users", lambda _, request: "no user" if request.user is None else f"{request.user}"),
    conditions.UserGroups: ("userGroups", lambda _, request: ", ".join(request.groups) or NOTHING),
    conditions.Verbs: ("verbs", lambda _, request: _text(request.verb)),
    conditions.Stages: ("stages", lambda _, request: _text(request.stage)),
    conditions.RecordedLevels: ("levels", lambda _, request: _text(request.level)),
    conditions.Codes: (
        "responseCodes",
        lambda _, request: NOTHING if request.code is None else str(request.code),
    ),
    conditions.Namespaces: ("namespaces", _namespace),
    conditions.Resources: ("resources", _resource),
    conditions.PatternResources: ("resources", _resource),
    conditions.NonResourceURLs: ("nonResourceURLs", _path),
    conditions.ImpersonatedUsers: ("impersonatedUsers", _more(fields.IMPERSONATED_USER)),
    conditions.UserAgents: ("userAgents", _more(fields.USER_AGENT)),
    conditions.SourceIPs: ("sourceIPs", _more(fields.SOURCE_IPS)),
    conditions.Annotation: ("annotations", _annotation),
    OwnNamespace: ("ownNamespace", _own_namespace),
}
