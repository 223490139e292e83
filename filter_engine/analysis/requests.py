"""Requests in words, as events: what kube-apiserver would have recorded of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from filter_engine.own_namespace import namespace_of

_OK, _CREATED = 200, 201


def event_of(  # noqa: PLR0913 - all by name
    *,
    verb: str,
    user: str = "",
    groups: Sequence[str] = (),
    resource: str = "",
    namespace: str = "",
    name: str = "",
    url: str = "",
    code: int | None = None,
    stage: str = "ResponseComplete",
) -> dict[str, Any]:
    """The event of a request.

    Args:
        verb: what the user does: ``get``, ``delete``.
        user: the user's name; empty for a request whose authentication failed.
        groups: groups beside those that kube-apiserver gives to a user of this name.
        resource: ``RESOURCE[.GROUP][/SUBRESOURCE]``, such as ``pods/exec`` or ``deployments.apps``; empty for
            a request that is not for a resource.
        namespace: the namespace of the object; empty for none.
        name: the name of the object; empty if the request names none.
        url: the path of a request that is not for a resource.
        code: the response code; None for that of a request that succeeds.
        stage: the stage at which the event is recorded.
    """
    event: dict[str, Any] = {
        "auditID": "request",
        "level": "RequestResponse",
        "stage": stage,
        "verb": verb,
        "user": {"username": user, "groups": [*groups, *own_groups(user)]} if user else {},
        "requestURI": url,
        "responseStatus": {"code": code or (_CREATED if verb == "create" else _OK)},
    }
    if resource:
        whole, _, subresource = resource.partition("/")
        kind, _, group = whole.partition(".")
        found = {"resource": kind, "apiGroup": group, "subresource": subresource}
        found |= {"namespace": namespace, "name": name}
        event["objectRef"] = {key: value for key, value in found.items() if value}
    return event


def own_groups(user: str) -> list[str]:
    """The groups that kube-apiserver gives to a user by the name."""
    if user == "system:anonymous":
        return ["system:unauthenticated"]
    groups = ["system:authenticated"]
    if namespace := namespace_of(user):
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    if user.startswith("system:node:"):
        groups.append("system:nodes")
    return groups
