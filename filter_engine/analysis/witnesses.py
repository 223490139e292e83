"""From a request that a search found to a complete audit event, as kube-apiserver would have recorded it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from filter_engine.analysis import world
from filter_engine.analysis.domains import CodeDomain, TextDomain
from filter_engine.analysis.half_search import Found, bits
from filter_engine.analysis.kubernetes_resources import Resource, built_in
from filter_engine.analysis.request_space import Half, Space
from filter_engine.evaluator import LevelMatch, PolicyEvaluator
from filter_engine.policy import Policy

# Resources that everybody knows, for requests for any resource.
_KNOWN = (
    ("", "pods"), ("", "configmaps"), ("apps", "deployments"), ("", "nodes"), ("", "secrets"),
    ("rbac.authorization.k8s.io", "clusterroles"), ("", "services"), ("batch", "jobs"),
)  # fmt: skip
_NODE = "node-1"
_MESSAGES = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict"}
_CREATED = {"create": 201, "exec": 101, "attach": 101, "portforward": 101}


def event_of(space: Space, found: Found) -> dict[str, Any]:
    """An audit event of a request.

    Args:
        space: the space of the search.
        found: the request.
    """
    half = found.half
    value = {name: half.domains[number].values[found.classes[number]] for name, number in half.at.items()}
    if "ownNamespace" in half.at:
        _set_owner(space, found, value)
    event: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": value["levels"],
        "auditID": "00000000-0000-4000-8000-000000000000",
        "stage": value["stages"],
    }
    if half.is_resource:
        target = _target(half, found, value)
        event["requestURI"] = _resource_uri(value["verbs"], target)
    else:
        event["requestURI"] = quote(value["nonResourceURLs"], safe="/:@!$&'()+,;=*~")
    event |= {"verb": value["verbs"], "user": _user(space, found, value["users"])}
    if value["impersonatedUsers"] is not None:
        name = value["impersonatedUsers"]
        event["impersonatedUser"] = {"username": name, "groups": sorted(world.groups_of(name))}
    event |= {"sourceIPs": list(value["sourceIPs"])}
    if value["userAgents"] is not None:
        event["userAgent"] = value["userAgents"]
    if half.is_resource:
        event["objectRef"] = {key: text for key, text in target.items() if text}
    if value["responseCodes"] is not None:
        event["responseStatus"] = _status(half, value)
    event |= {
        "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
        "stageTimestamp": "2026-01-01T00:00:00.000000Z",
    }
    annotations = {
        name[len("annotations[") : -1]: text
        for name, text in value.items()
        if name.startswith("annotations[") and text is not None
    }
    if annotations:
        event["annotations"] = annotations
    return event


class Witnesses:
    """Makes events of requests, and replays each of them on the evaluators of the policies.

    Args:
        space: the space of the searches.
        policies: its policies, each with the ``level_match`` of its evaluator.
    """

    def __init__(self, space: Space, policies: Sequence[tuple[Policy, LevelMatch]]) -> None:
        self._space = space
        self._evaluators = [PolicyEvaluator(policy, level_match=match) for policy, match in policies]

    def replayed(self, found: Found, decided: Iterable[tuple[int, int | None]]) -> dict[str, Any]:
        """The event of a request.

        Args:
            found: the request.
            decided: policies, by their indexes, and the rule of each that has to decide.

        Raises:
            AssertionError: another rule decides, which is an error of this program.
        """
        event = event_of(self._space, found)
        for policy, rule in decided:
            decision = self._evaluators[policy].evaluate(event)
            if decision.rule != rule:
                raise AssertionError(f"expected rule {rule} of policy {policy}, found {decision}: {event}")
        return event


_OF_OWNERS = ("users", "namespaces", "ownNamespace")


def _user(space: Space, found: Found, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    groups = dict.fromkeys(world.groups_of(name))
    certain = space.users.certain[found.classes[found.half.at["users"]]]
    for number in bits(found.groups & ~certain):
        groups.setdefault(space.users.groups.values[number])
    return {"username": name, "groups": list(groups)}


def _set_owner(space: Space, found: Found, value: dict[str, Any]) -> None:
    """Put in names of a user and a namespace that are related as they have to be."""
    at = found.half.at
    user, namespace, relation = (found.classes[at[name]] for name in _OF_OWNERS)
    if (names := space.owners.get((user, namespace, relation))) is not None:
        value["users"], value["namespaces"] = names


def _status(half: Half, value: Mapping[str, Any]) -> dict[str, Any]:
    code = value["responseCodes"]
    if code == 200:
        nicer = _CREATED.get(value.get("subresources", ""), _CREATED.get(value["verbs"], 200))
        codes = half.domains[half.at["responseCodes"]]
        assert isinstance(codes, CodeDomain)
        if codes.classes[nicer] == codes.classes[code]:
            code = nicer
    status: dict[str, Any] = {"metadata": {}}
    if code >= 400:
        status |= {"status": "Failure", "reason": _MESSAGES.get(code, "InternalError")}
    return status | {"code": code}


def _target(half: Half, found: Found, value: Mapping[str, Any]) -> dict[str, str]:
    """The object of a request, in the words of an event."""
    resource = next(_built_in_targets(half, found, value), None)
    target = {
        "resource": value["resources"],
        "namespace": value["namespaces"],
        "name": value["resourceNames"],
        "apiGroup": value["apiGroups"],
        "apiVersion": "v1",
        "subresource": value["subresources"],
    }
    if resource is not None:
        kind, target["subresource"] = resource
        target |= {"resource": kind.name, "apiGroup": kind.group, "apiVersion": kind.version}
        names = half.domains[half.at["resourceNames"]]
        assert isinstance(names, TextDomain)
        if kind.name == "nodes" and names.class_of(_NODE) == found.classes[half.at["resourceNames"]]:
            target["name"] = _NODE
    if (target["apiGroup"], target["resource"]) == ("", "namespaces") and value["namespaces"]:
        target["name"] = value["namespaces"]  # the facts say that it is of the same class as the name
    return target


def _built_in_targets(half: Half, found: Found, value: Mapping[str, Any]) -> Iterator[tuple[Resource, str]]:
    """Kubernetes' own resources and subresources that a request may be for."""
    of = {name: half.domains[half.at[name]] for name in ("apiGroups", "resources", "subresources")}
    chosen = {name: found.classes[half.at[name]] for name in of}
    resources = built_in()
    for group, name in dict.fromkeys((*_KNOWN, *resources)):
        kind = resources[group, name]
        for domain, text in (("apiGroups", group), ("resources", name)):
            known = of[domain]
            assert isinstance(known, TextDomain)
            if known.class_of(text) != chosen[domain]:
                break
        else:
            if name == "namespaces" or not _fits_scope(kind, value):
                continue
            known = of["subresources"]
            assert isinstance(known, TextDomain)
            for subresource in ("", *kind.subresources):
                if known.class_of(subresource) == chosen["subresources"] and (
                    value["verbs"] in kind.verbs_of(subresource)
                ):
                    yield kind, subresource


def _fits_scope(kind: Resource, value: Mapping[str, Any]) -> bool:
    if kind.is_namespaced:
        return bool(value["namespaces"]) or value["verbs"] in ("list", "watch")
    return not value["namespaces"]


def _resource_uri(verb: str, target: Mapping[str, str]) -> str:
    group, namespace, name = target["apiGroup"], target["namespace"], target["name"]
    start = (
        f"/apis/{quote(group, safe='')}/{target['apiVersion']}" if group else f"/api/{target['apiVersion']}"
    )
    parts = [target["resource"]]
    if (group, target["resource"]) != ("", "namespaces") and namespace:
        parts = ["namespaces", namespace, *parts]
    of_many = verb in ("list", "watch")
    parts += [part for part in ("" if of_many else name, target["subresource"]) if part]
    uri = "/".join([start, *(quote(part, safe="") for part in parts)])
    if not of_many:
        return uri
    # kube-apiserver takes the name from the selector.
    queries = [f"fieldSelector=metadata.name%3D{quote(name, safe='')}"] if name else []
    queries += ["watch=true"] if verb == "watch" else []
    return f"{uri}?{'&'.join(queries)}" if queries else uri
