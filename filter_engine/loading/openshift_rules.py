"""A ``kubeAPIAudit`` filter of OpenShift as the rules of a FilterPolicy with the same meaning.

OpenShift compiles such a filter to a program for Vector
(``internal/generator/vector/filter/apiaudit`` of cluster-logging-operator). This module says the same with
rules, in its order: response codes to omit, the filter's own rules, default rules.

What differs from Kubernetes, and so takes more than one rule or an exception:

- A resource is compared as one text, ``pods`` or ``pods/log``. ``pods/*`` is not ``pods``, and ``pods*`` is
  ``pods/log`` too.
- An element of ``resources`` with group ``""`` matches requests for other URLs too, unless it names
  resources.
- Names that an event does not have are never matched, not even by ``*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from filter_engine.loading.filter_policy_validation import GROUP, is_resource
from filter_engine.model import Conditions, GroupResources, Level, PolicyRule
from filter_engine.patterns import escaped, parse_pattern

DEFAULT_CODES = (404, 409, 422, 429)
_READS = ("get", "list", "watch", "head", "options")
_ACCOUNTS = "system:serviceaccount:*"
# What no request meets.
_NEVER = {"namespaces": ("",), "exceptions": (Conditions(namespaces=("",)),)}
_NOT_IN_NO_NAMESPACE = Conditions(namespaces=("",))
_HAS_A_USER = Conditions(users=("*",))
_REFUSED = Conditions(response_codes=((300, 999),))


@dataclass(frozen=True)
class NamedRule:
    """A rule, the name that metrics give it, and the index of the filter's rule that it stands for.

    Attributes:
        name: the name; rules for one of the filter's have its name with a number.
        rule: the rule.
        index: None for what OpenShift adds by itself.
    """

    name: str
    rule: PolicyRule
    index: int | None = None


def rules_of(audit: Mapping[str, Any]) -> list[NamedRule]:
    """The rules of a decoded and validated ``kubeAPIAudit`` object."""
    codes = audit.get("omitResponseCodes")
    omitted = tuple(DEFAULT_CODES if codes is None else codes)
    found = []
    if omitted:
        ranges = tuple((code, code) for code in omitted)
        found.append(NamedRule("omit-response-codes", PolicyRule(level=Level.NONE, response_codes=ranges)))
    sources = audit.get("rules", ())
    for index, source in enumerate(sources):
        rules = list(_rules(source)) or [_rule(source, **_NEVER)]
        for number, rule in enumerate(rules):
            name = f"rule-{index}" + (f"-{number + 1}" if len(rules) > 1 else "")
            found.append(NamedRule(name, rule, index))
    if not sources or sources[-1].keys() - {"level", "omitStages", "omitManagedFields"}:
        found += _default_rules()
    return found


def _default_rules() -> Iterator[NamedRule]:
    """What becomes of events of system users that no rule matches. One without a user is one of these."""
    system, nobody = {"users": ("", "system:*")}, {"exceptions": (_HAS_A_USER,)}
    account = {"users": (_ACCOUNTS,)}
    for name, level, conditions in (
        ("default-system-reads", Level.NONE, {**system, "verbs": _READS}),
        ("default-reads-without-user", Level.NONE, {**nobody, "verbs": _READS}),
        (
            "default-own-namespace",
            Level.NONE,
            {**account, "own_namespace": "prefix", "exceptions": (_REFUSED,)},
        ),
        (
            "default-cluster-scoped",
            Level.NONE,
            {**account, "namespaces": ("",), "exceptions": (_REFUSED,)},
        ),
        (
            "default-other-urls",
            Level.NONE,
            {**account, "non_resource_urls": ("*",), "exceptions": (_REFUSED,)},
        ),
        ("default-system", Level.REQUEST, system),
        ("default-without-user", Level.REQUEST, nobody),
    ):
        yield NamedRule(name, PolicyRule(level=level, **conditions))


def _rules(source: Mapping[str, Any]) -> Iterator[PolicyRule]:
    """The rules for one of the filter's; none if no request can meet its conditions."""
    # No verb has a star in it, and verbs have no patterns.
    verbs = tuple(verb for verb in source.get("verbs", ()) if "*" not in verb)
    if source.get("verbs") and not verbs:
        return
    conditions: dict[str, Any] = {"verbs": verbs}
    exceptions: list[Conditions] = []
    users, groups = _patterns(source, "users"), _patterns(source, "userGroups")
    conditions |= {"users": users, "user_groups": groups}
    if _matches_empty(users):
        exceptions.append(Conditions(users=("",)))
    namespaces = _patterns(source, "namespaces")
    if namespaces and not any(namespaces):
        return
    if _matches_empty(namespaces):
        exceptions.append(_NOT_IN_NO_NAMESPACE)
    urls = tuple(url for url in _patterns(source, "nonResourceURLs") if url.startswith(("/", "*")))
    elements = source.get("resources", ())
    if source.get("nonResourceURLs") and not urls:
        return
    if namespaces:
        conditions["namespaces"] = tuple(filter(None, namespaces))
    if not urls and not elements:
        yield _rule(source, **conditions, exceptions=tuple(exceptions))
        return
    if not urls:
        for resources, unless in _resources(elements):
            except_ = (*exceptions, *unless)
            yield _rule(source, **conditions, resources=resources, exceptions=except_)
    if not namespaces and (not elements or any(map(_matches_no_object, elements))):
        yield _rule(source, **conditions, non_resource_urls=urls or ("*",), exceptions=tuple(exceptions))


def _rule(source: Mapping[str, Any], **conditions: Any) -> PolicyRule:
    return PolicyRule(
        level=Level(source["level"]),
        omit_stages=tuple(source.get("omitStages", ())),
        omit_managed_fields=source.get("omitManagedFields"),
        **conditions,
    )


def pattern(wildcard: str) -> str:
    """A wildcard of OpenShift, with a ``*`` at its ends only, as a pattern."""
    start = "*" if wildcard.startswith("*") else ""
    middle = wildcard[len(start) :]
    end = "*" if middle.endswith("*") else ""
    return start + escaped(middle.removesuffix("*") if end else middle) + end


def _patterns(source: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(map(pattern, source.get(name, ())))


def _matches_empty(patterns: Sequence[str]) -> bool:
    return any(each == "" or (each.startswith("*") and not each.strip("*")) for each in patterns)


def _matches_no_object(element: Mapping[str, Any]) -> bool:
    """Whether an element of ``resources`` matches an event that has no object."""
    lists = [element.get(name, ()) for name in ("resources", "resourceNames")]
    return not element.get("group") and all(
        _matches_empty(tuple(map(pattern, values))) for values in lists if values
    )


def _resources(
    elements: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[tuple[GroupResources, ...], tuple[Conditions, ...]]]:
    """The elements of ``resources`` and exceptions of a rule; of more rules where one can't say it."""
    together: list[GroupResources] = []
    apart: list[tuple[tuple[GroupResources, ...], tuple[Conditions, ...]]] = []
    for element in elements:
        group = element.get("group", "")
        if "*" in group or not GROUP.fullmatch(group):
            continue  # no API group has such a name, and OpenShift has no patterns here
        names = tuple(map(pattern, element.get("resourceNames", ())))
        if not element.get("resources"):
            resources = ("*",) if names else ()
            together.append(GroupResources(group, resources, names))
            continue
        for wildcard in element["resources"]:
            whole, families = _resource(wildcard)
            if whole:
                together.append(GroupResources(group, whole, names))
            if families:
                without = GroupResources(group, tuple(each.removesuffix("/*") for each in families))
                exception = Conditions(resources=(_alone(without),))
                apart.append(((GroupResources(group, families, names),), (exception,)))
    if together:
        yield _merged(together), ()
    yield from apart


def _alone(element: GroupResources) -> GroupResources:
    """Resources without their subresources: ``**`` is every resource, and ``*`` all subresources too."""
    return replace(element, resources=tuple("**" if each == "*" else each for each in element.resources))


def _merged(elements: Sequence[GroupResources]) -> tuple[GroupResources, ...]:
    """Elements that differ in their resources only, as one."""
    merged: dict[tuple[str, tuple[str, ...], bool], GroupResources] = {}
    for each in elements:
        key = (each.group, each.resource_names, bool(each.resources))
        before = merged.get(key)
        resources = (*(() if before is None else before.resources), *each.resources)
        merged[key] = replace(each, resources=tuple(dict.fromkeys(resources)))
    return tuple(merged.values())


def _resource(wildcard: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A wildcard for ``resource`` or ``resource/subresource`` as patterns.

    Returns:
        Patterns for an element; and those of the form ``pods/*``, which must not match the resource alone.
    """
    written = pattern(wildcard)
    starts, ends = wildcard.startswith("*"), written.endswith("*") and written != "*"
    if not written.strip("*"):
        return ("*",), ()
    if not is_resource(written):
        return (), ()  # no resource has such a name
    if "/" not in written:
        found = [f"{written}/*"] if ends and _is_open(written) else [written]
        if starts:
            found.append(f"*/{written}")
        return tuple(found), ()
    if written.partition("/")[2] == "*":
        return (), (written,)
    return (written,), ()


def _is_open(written: str) -> bool:
    """Whether the last character of a pattern is a star that stands for any run of characters."""
    parsed = parse_pattern(written)
    return not isinstance(parsed, str) and parsed.end == ""
