"""What the built-in policy keeps and drops, by what it promises."""

import pytest

from filter_engine import Policy, PolicyEvaluator
from plugin import policies
from tests.support import ROOT, event

DECIDE = PolicyEvaluator(Policy.from_file(policies.path("recommended"))).evaluate

PERSON = {"username": "alice", "groups": ["developers", "system:authenticated"]}
STRANGER = {"username": "system:anonymous", "groups": ["system:unauthenticated"]}
NODE = {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}
SCHEDULER = {"username": "system:kube-scheduler", "groups": ["system:authenticated"]}


def service_account(namespace, name):
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    return {"username": f"system:serviceaccount:{namespace}:{name}", "groups": groups}


SYSTEM = service_account("kube-system", "endpointslice-controller")
APPLICATION = service_account("shop", "default")


def resource(user, verb, group, resource, subresource=None, **fields):
    ref = {"resource": resource, "namespace": "ns", "name": "x", "apiVersion": "v1"}
    ref |= {"apiGroup": group} if group else {}
    ref |= {"subresource": subresource} if subresource else {}
    return event(user=user, verb=verb, objectRef=ref, **fields)


def path(user, uri, verb="get"):
    return event(user=user, verb=verb, requestURI=uri, objectRef=None)


@pytest.mark.parametrize(
    "sent",
    [
        path(STRANGER, "/healthz"),
        path(STRANGER, "/livez/ping?exclude=etcd"),
        path(PERSON, "/apis/apps/v1"),
        path(APPLICATION, "/openapi/v3?timeout=32s"),
        resource(NODE, "list", "", "pods"),
        resource(NODE, "patch", "", "nodes", "status"),
        resource(NODE, "update", "coordination.k8s.io", "leases"),
        resource(NODE, "create", "authorization.k8s.io", "subjectaccessreviews"),
        resource(SCHEDULER, "watch", "apps", "replicasets"),
        resource(SCHEDULER, "update", "coordination.k8s.io", "leases"),
        resource(SYSTEM, "update", "discovery.k8s.io", "endpointslices"),
        resource(SYSTEM, "list", "", "configmaps"),
        resource(APPLICATION, "update", "coordination.k8s.io", "leases"),
        resource(APPLICATION, "patch", "example.com", "widgets", "status"),
        resource(SYSTEM, "create", "", "events"),
        resource(PERSON, "list", "events.k8s.io", "events"),
        resource(PERSON, "delete", "", "pods", stage="RequestReceived"),
    ],
)
def test_noise_goes(sent):
    assert not DECIDE(sent).keep


@pytest.mark.parametrize(
    ("sent", "level"),
    [
        (resource(PERSON, "create", "apps", "deployments"), "Request"),
        (resource(PERSON, "patch", "", "nodes", "status"), "Request"),
        (resource(PERSON, "delete", "", "events"), "Request"),
        (resource(SYSTEM, "delete", "", "pods"), "Request"),
        (resource(SCHEDULER, "create", "", "pods", "binding"), "Request"),
        (resource(PERSON, "create", "", "pods", "exec"), "Request"),
        (resource(APPLICATION, "create", "rbac.authorization.k8s.io", "clusterrolebindings"), "Request"),
        (resource(NODE, "get", "", "secrets"), "Metadata"),
        (resource(SYSTEM, "list", "", "secrets"), "Metadata"),
        (resource(NODE, "create", "", "serviceaccounts", "token"), "Metadata"),
        (resource(NODE, "create", "authentication.k8s.io", "tokenreviews"), "Metadata"),
        (resource(PERSON, "update", "", "configmaps"), "Metadata"),
        (resource(PERSON, "list", "", "pods", responseStatus={"code": 403}), "Metadata"),
        (resource(APPLICATION, "list", "", "pods"), "Metadata"),
        (resource(STRANGER, "list", "", "pods"), "Metadata"),
        (path(STRANGER, "/api"), "Metadata"),
        (path(STRANGER, "/vendor/phpunit/eval-stdin.php"), "Metadata"),
        (event(user={}, stage="ResponseStarted", responseStatus={"code": 401}), "Metadata"),
        (resource(PERSON, "delete", "", "pods", stage="Panic"), "Request"),
    ],
)
def test_evidence_stays(sent, level):
    decision = DECIDE(sent)
    assert decision.keep
    assert decision.level == level


def test_the_file_to_copy_is_the_one_that_is_built_in():
    copied = ROOT / "conf/policies/recommended.yaml"
    assert copied.read_bytes() == policies.path("recommended").read_bytes()
