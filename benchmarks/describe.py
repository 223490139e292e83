"""A rule of a policy in a few words."""

from __future__ import annotations

from collections.abc import Iterable

from filter_engine import GroupResources, PolicyRule

_SHOWN = 2
_VERBS = {
    frozenset({"get", "list", "watch"}): "read",
    frozenset({"get", "head"}): "get",
    frozenset({"update", "patch"}): "update",
    frozenset({"create", "update", "patch", "delete", "deletecollection"}): "change",
}


def describe(rule: PolicyRule) -> str:
    """What a rule matches, such as ``update leases, */status by nodes``.

    It is meant to be recognised, not to be exact: long lists are cut, and API groups and
    ``system:`` are left out.
    """
    objects = [name for element in rule.resources for name in _resources(element)] or rule.non_resource_urls
    clients = map(_short, (*rule.users, *rule.user_groups))
    parts = [
        _VERBS.get(frozenset(rule.verbs)) or _some(rule.verbs, "/"),
        _some(objects) or ("anything" if rule.verbs else ""),
        f"in {_some(rule.namespaces)}" if rule.namespaces else "",
        f"by {_some(clients)}" if rule.users or rule.user_groups else "",
    ]
    return " ".join(filter(None, parts)) or "everything else"


def _short(client: str) -> str:
    kind, _, namespace = client.removeprefix("system:").partition(":")
    if kind == "serviceaccounts":
        return f"accounts of {namespace}" if namespace else "service accounts"
    return client.removeprefix("system:").removeprefix("serviceaccount:")


def _resources(element: GroupResources) -> tuple[str, ...]:
    return element.resources or (f"{element.group or 'core'}/*",)


def _some(words: Iterable[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    distinct = list(dict.fromkeys(words))
    more = len(distinct) - _SHOWN
    return separator.join(distinct[:_SHOWN]) + (f" +{more}" if more > 0 else "")
