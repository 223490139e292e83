"""What kube-apiserver's policy evaluator was given for a request, recovered from its recorded event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Attributes:
    """The request attributes that rules are matched against.

    Attributes:
        user: the user's name; None where the request had no user: authentication had failed, and
            the event was recorded with a user that has neither a name nor a group.
        groups: the user's groups.
        verb: the request verb, for non-resource requests the lower-cased HTTP method.
        resource_request: whether the request is for a resource; the fields from ``namespace`` to
            ``name`` are empty otherwise.
        path: the decoded path of the URL, without the query.
    """

    user: str | None
    groups: tuple[str, ...]
    verb: str
    resource_request: bool
    namespace: str
    api_group: str
    resource: str
    subresource: str
    name: str
    path: str

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Attributes:
        """The attributes of a recorded event, however broken: a field of a wrong type counts as absent.

        The user is the original one: impersonation happens after the policy was evaluated.
        """
        user, groups = request_user(event.get("user"))
        ref = event.get("objectRef")
        verb = text(event.get("verb"))
        resource_request = isinstance(ref, Mapping)
        ref = ref if isinstance(ref, Mapping) else {}
        subresource = text(ref.get("subresource"))
        return cls(
            user=user,
            groups=groups,
            verb=verb,
            resource_request=resource_request,
            namespace=text(ref.get("namespace")),
            api_group=text(ref.get("apiGroup")),
            resource=text(ref.get("resource")),
            subresource=subresource,
            name=request_name(verb, subresource, text(ref.get("name"))),
            path=request_path(text(event.get("requestURI"))),
        )


def text(value: Any) -> str:
    """A string field's value; msgpack may deliver strings as bytes, and anything else counts as empty."""
    if isinstance(value, str):
        return value
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else ""


def request_user(recorded: Any) -> tuple[str | None, tuple[str, ...]]:
    """Name and groups of a recorded ``user``; no name, not even an empty one, where there was no user."""
    user = recorded if isinstance(recorded, Mapping) else {}
    name, groups = text(user.get("username")), user.get("groups")
    groups = tuple(map(text, groups)) if isinstance(groups, (list, tuple)) else ()
    return (name if name or groups else None), groups


def request_name(verb: str, subresource: str, recorded: str) -> str:
    """The object's name as the policy saw it.

    The URL of a create names no object. The recorded name was copied from the body after the
    policy had been evaluated (LogRequestObject in pkg/audit/request.go).
    """
    return "" if verb == "create" and not subresource else recorded


def request_path(uri: str) -> str:
    """The decoded path of a request URI: no query, percent-escapes resolved, nothing else cleaned."""
    path = uri.partition("?")[0]
    return unquote(path, errors="surrogateescape") if "%" in path else path
