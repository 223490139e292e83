"""What the API server knew of a request, found again in its event and its URL."""

import pytest

from filter_engine import Policy, PolicyEvaluator
from filter_engine.request import Request, Target, is_event, request_path, target_of
from tests.support import event

WITHOUT = object()


def changed(**fields):
    """An event for a resource with some fields changed, and without those that are WITHOUT."""
    return {key: value for key, value in event(**fields).items() if value is not WITHOUT}


NO_REF = {"objectRef": WITHOUT}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"kind": WITHOUT, "apiVersion": WITHOUT, "level": WITHOUT, "stage": WITHOUT}, True),
        ({"auditID": b"x", "verb": b"get"}, True),
        ({"auditID": "", "verb": ""}, True),
        ({"auditID": WITHOUT}, False),
        ({"auditID": None}, False),
        ({"auditID": 5}, False),
        ({"verb": WITHOUT}, False),
        ({"verb": None}, False),
        ({"verb": ["get"]}, False),
        ({"user": {}}, True),
        ({"user": None}, True),
        ({"user": WITHOUT}, False),
        ({"user": "alice"}, False),
        ({"user": [{"username": "alice"}]}, False),
        ({"objectRef": {}}, True),
        (NO_REF, False),
        ({"objectRef": None}, False),
        ({"objectRef": "pods"}, False),
        ({**NO_REF, "requestURI": "/healthz"}, True),
        ({**NO_REF, "requestURI": b"/healthz"}, True),
        ({**NO_REF, "requestURI": b"/api/v1/pods"}, False),
        ({**NO_REF, "requestURI": "/%61pi/v1/pods?limit=1"}, False),
        ({**NO_REF, "requestURI": "/api/v1?x=/pods"}, True),
        ({**NO_REF, "requestURI": WITHOUT}, True),
        ({**NO_REF, "requestURI": 5}, True),
        ({"objectRef": {}, "requestURI": "/healthz"}, True),
    ],
)
def test_what_lacks_a_part_that_every_event_has_is_no_event(fields, expected):
    assert is_event(changed(**fields)) is expected


# As in requestinfo_test.go of k8s.io/apiserver, and what lies between its cases.
TARGETS = {
    "/": None,
    "": None,
    "/healthz": None,
    "/healthz/etcd/x/y": None,
    "/version": None,
    "/logs/api/v1/pods": None,
    "/api": None,
    "/api/": None,
    "/api/v1": None,
    "/api/v1/": None,
    "/apis": None,
    "/apis/": None,
    "/apis/apps": None,
    "/apis/apps/v1": None,
    "/apis/apps/v1/": None,
    "/apix/v1/pods": None,
    "/api/v1/pods": Target("", "pods", "", ""),
    "api/v1/pods/": Target("", "pods", "", ""),
    "/api/v1/nodes/foo": Target("", "nodes", "", "foo"),
    "/api/v1/nodes/foo/proxy/a/b": Target("", "nodes", "", "foo"),
    "/api/v1/namespaces": Target("", "namespaces", "", ""),
    "/api/v1/namespaces/other": Target("", "namespaces", "other", "other"),
    "/api/v1/namespaces/other/": Target("", "namespaces", "other", "other"),
    "/api/v1/namespaces/other/status": Target("", "namespaces", "other", "other"),
    "/api/v1/namespaces/other/finalize": Target("", "namespaces", "other", "other"),
    "/api/v1/namespaces/other/pods": Target("", "pods", "other", ""),
    "/api/v1/namespaces/other/pods/foo": Target("", "pods", "other", "foo"),
    "/api/v1/namespaces/other/pods/foo/status": Target("", "pods", "other", "foo"),
    "/api/v1/namespaces/other/pods/status": Target("", "pods", "other", "status"),
    "/api/v1/watch": None,
    "/api/v1/proxy": None,
    "/apis/apps/v1/watch": None,
    "/api/v1/watch/pods": Target("", "pods", "", ""),
    "/api/v1/watch/namespaces": Target("", "namespaces", "", ""),
    "/api/v1/watch/namespaces/other/pods": Target("", "pods", "other", ""),
    "/api/v1/proxy/nodes/foo": Target("", "nodes", "", "foo"),
    "/api/v1/proxy/namespaces/other/pods/foo": Target("", "pods", "other", "foo"),
    "/api/v1/watch/watch": Target("", "watch", "", ""),
    "/api/v1/pods/watch": Target("", "pods", "", "watch"),
    "/apis/apps/v1/deployments": Target("apps", "deployments", "", ""),
    "/apis/apps/v1/namespaces/other/deployments/foo": Target("apps", "deployments", "other", "foo"),
    "/apis/apps/v1/watch/deployments/foo": Target("apps", "deployments", "", "foo"),
}


@pytest.mark.parametrize(("path", "target"), TARGETS.items())
def test_a_path_names_the_object_that_the_api_server_sees_in_it(path, target):
    assert target_of(path) == target


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("", ""),
        ("/a", "/a"),
        ("/a?b=/c?d", "/a"),
        ("/a%20b%2Fc%3Fd?e=%20", "/a b/c?d"),
        ("/a+b/../c//d/", "/a+b/../c//d/"),
        ("/%ff", "/\udcff"),
        ("/%zz%", "/%zz%"),
    ],
)
def test_a_path_is_decoded_and_nothing_else_is_changed(uri, path):
    assert request_path(uri) == path


POD = {"resource": "pods", "namespace": "ns", "name": "web"}
DEPLOYMENT = {**POD, "apiGroup": "apps", "resource": "deployments"}
EXEC = {**POD, "subresource": "exec"}


@pytest.mark.parametrize(
    ("verb", "uri", "ref", "seen"),
    [
        # Both, one or none of them in the URL; what it lacks was the body's.
        ("update", "/api/v1/namespaces/ns/pods/web", POD, ("ns", "web")),
        ("create", "/api/v1/namespaces/ns/pods/web", POD, ("ns", "web")),
        ("create", "/api/v1/namespaces/ns/pods", POD, ("ns", "")),
        ("update", "/api/v1/pods/web", POD, ("", "web")),
        ("create", "/api/v1/pods", POD, ("", "")),
        ("update", "/api/v1/pods?x=/web", POD, ("", "")),
        ("create", "/apis/apps/v1/namespaces/ns/deployments", DEPLOYMENT, ("ns", "")),
        # Other verbs have no body from which anything could be copied.
        ("get", "/api/v1/pods", POD, ("ns", "web")),
        ("delete", "/api/v1/namespaces/ns/pods", POD, ("ns", "web")),
        ("patch", "/api/v1/pods", POD, ("ns", "web")),
        # A URL that is missing, or that names something else, tells nothing.
        ("create", "", POD, ("ns", "")),
        ("create", "/healthz", POD, ("ns", "")),
        ("update", "", POD, ("ns", "web")),
        ("create", "", EXEC, ("ns", "web")),
        ("create", "/api/v1/nodes", POD, ("ns", "")),
        ("update", "/api/v1/nodes", POD, ("ns", "web")),
        ("update", "/apis/apps/v1/pods", POD, ("ns", "web")),
        ("update", "/api/v1/deployments", DEPLOYMENT, ("ns", "web")),
        ("create", "/api/v1/namespaces/ns/pods/web/exec", EXEC, ("ns", "web")),
        ("create", "/api/v1/namespaces/ns/pods", EXEC, ("ns", "")),
    ],
)
def test_a_policy_sees_namespace_and_name_of_the_url_not_of_the_body(verb, uri, ref, seen):
    """A rule each for every namespace and name that the policy may see: the first that matches tells."""
    pairs = [(namespace, name) for namespace in ("ns", "") for name in ("web", "")]
    rules = [
        {
            "level": "Metadata",
            "namespaces": [namespace],
            "resources": [{"group": "*", "resources": ["*"], "resourceNames": [name]}],
        }
        for namespace, name in pairs
    ]
    evaluator = PolicyEvaluator(Policy.from_dict({"apiVersion": "audit.k8s.io/v1", "rules": rules}))
    rule = evaluator.evaluate(event(verb=verb, requestURI=uri, objectRef=ref)).rule
    assert rule is not None
    assert pairs[rule] == seen


def test_what_is_missing_in_an_event_counts_as_empty():
    assert Request.of_event({}) == Request()
    evaluator = PolicyEvaluator(
        Policy.from_dict(
            {
                "apiVersion": "audit.k8s.io/v1",
                "rules": [
                    {
                        "level": "Metadata",
                        "verbs": [""],
                        "namespaces": [""],
                        "resources": [{"group": "", "resources": [""], "resourceNames": [""]}],
                    },
                    {"level": "Metadata", "verbs": [""], "nonResourceURLs": ["/*"]},
                ],
            },
        )
    )
    assert evaluator.evaluate({"objectRef": {}}).rule == 0
    assert evaluator.evaluate({"requestURI": "/"}).rule == 1
