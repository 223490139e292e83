"""The request that kube-apiserver's policy evaluator saw, recovered from the recorded event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote

from filter_engine import fields
from filter_engine.fields import Field, text

# The verbs of requests whose body is an object. kube-apiserver copies from the body what objectRef lacks
# (LogRequestObject in pkg/audit/request.go), after it has evaluated the policy.
WRITES = frozenset(("create", "update"))
_NOTHING: Mapping[Field, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Request:
    """What the conditions of rules look at.

    Attributes:
        user: the user's name; None if the request had no user, because its authentication failed. Such
            an event is recorded with a user that has neither a name nor groups.
        groups: the user's groups.
        verb: the request verb; for non-resource requests, the lower-cased HTTP method.
        resource_request: whether the request is for a resource; if not, the fields from ``namespace`` to
            ``name`` are empty.
        path: the decoded path of the URL, without the query.
        stage: the stage at which the event was recorded.
        level: the level at which it was recorded.
        code: the response's status code; None if the event has none.
        more: the values of other fields that conditions read (``MORE_FIELDS`` and annotations), without
            those that are absent or empty.
    """

    user: str | None = None
    groups: tuple[str, ...] = ()
    verb: str = ""
    resource_request: bool = False
    namespace: str = ""
    api_group: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    path: str = ""
    stage: str = ""
    level: str = ""
    code: int | None = None
    more: Mapping[Field, Any] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def of_event(cls, event: Mapping[str, Any], more: Collection[Field] = ()) -> Request:
        """The request of a recorded event, however broken: a field of a wrong type counts as absent.

        The user is the original one: impersonation happens after the policy was evaluated.

        Args:
            event: the event.
            more: other fields to read.
        """
        user, groups = fields.USERNAME.read(event) or "", fields.GROUPS.read(event) or ()
        verb = fields.VERB.read(event) or ""
        path = request_path(fields.REQUEST_URI.read(event) or "")
        ref = event.get("objectRef")
        is_resource = isinstance(ref, Mapping)
        api_group = fields.API_GROUP.read(event) or ""
        resource = fields.RESOURCE.read(event) or ""
        subresource = fields.SUBRESOURCE.read(event) or ""
        namespace, name = fields.NAMESPACE.read(event) or "", fields.NAME.read(event) or ""
        if is_resource and verb in WRITES:
            recorded = ObjectRef(api_group, resource, subresource, namespace, name)
            namespace, name = before_the_body(verb, path, recorded)
        return cls(
            # kube-apiserver leaves an empty name out: without a name and groups there was no user.
            user=user if user or groups else None,
            groups=groups,
            verb=verb,
            resource_request=is_resource,
            namespace=namespace,
            api_group=api_group,
            resource=resource,
            subresource=subresource,
            name=name,
            path=path,
            stage=fields.STAGE.read(event) or "",
            level=fields.LEVEL.read(event) or "",
            code=fields.CODE.read(event),
            more={each: value for each in more if (value := each.read(event))} if more else _NOTHING,
        )


def is_event(event: Mapping[str, Any]) -> bool:
    """Whether a mapping is an audit event that a policy can decide on.

    kube-apiserver always writes ``auditID``, ``verb`` and ``user``, which is ``{}`` after a failed
    authentication. The event of a request for a resource always has an ``objectRef``. A mapping that lacks
    one of these was changed on its way, for example by a log collector that moves fields out of their
    objects, and a policy would see it without its user or object. ``kind`` and ``apiVersion`` are not
    required: items of lists lack them.
    """
    if not (is_text(event.get("auditID")) and is_text(event.get("verb"))):
        return False
    if "user" not in event or not isinstance(event["user"], (Mapping, type(None))):
        return False
    has_ref = isinstance(event.get("objectRef"), Mapping)
    return has_ref or target_of(request_path(text(event.get("requestURI")))) is None


def is_text(value: Any) -> bool:
    """Whether a decoded value is a string, of MessagePack's type str or bin."""
    return isinstance(value, (str, bytes))


def request_path(uri: str) -> str:
    """The decoded path of a request URI: no query, percent-escapes resolved, nothing else cleaned."""
    path = uri.partition("?")[0]
    return unquote(path, errors="surrogateescape") if "%" in path else path


class Target(NamedTuple):
    """What the path of a request for a resource names."""

    api_group: str
    resource: str
    namespace: str
    name: str


def target_of(path: str) -> Target | None:
    """What a decoded path names; None if it is not the path of a resource.

    The rules are those of RequestInfoFactory (pkg/endpoints/request/requestinfo.go of k8s.io/apiserver).
    """
    prefix, *parts = path.strip("/").split("/")
    if prefix == "api" and len(parts) >= 2:
        api_group = ""
    elif prefix == "apis" and len(parts) >= 3:
        api_group = parts.pop(0)
    else:
        return None
    del parts[0]  # the version
    if parts[0] in ("watch", "proxy"):
        del parts[0]
        if not parts:
            return None  # kube-apiserver answers with an error and records nothing
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in ("status", "finalize"):
            del parts[:2]
    return Target(api_group, parts[0], namespace, parts[1] if len(parts) > 1 else "")


class ObjectRef(NamedTuple):
    """What an event says about the object of its request, in ``objectRef``."""

    api_group: str
    resource: str
    subresource: str
    namespace: str
    name: str


def before_the_body(verb: str, path: str, recorded: ObjectRef) -> tuple[str, str]:
    """Namespace and name of a create or update as the policy saw them: those in the URL.

    When kube-apiserver recorded the event, it copied from the body what the URL lacks. The body may say
    anything.

    Args:
        verb: create or update.
        path: the decoded path of the URL.
        recorded: what the event says about the object.
    """
    target = target_of(path)
    if target is None or (target.api_group, target.resource) != (recorded.api_group, recorded.resource):
        # The event has lost its URL. The URL of a create never names an object.
        return recorded.namespace, "" if verb == "create" and not recorded.subresource else recorded.name
    return recorded.namespace if target.namespace else "", recorded.name if target.name else ""
