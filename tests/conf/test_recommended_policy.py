"""What the built-in policies keep and drop, by what they promise."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Level, Policy, PolicyEvaluator
from plugin import policies
from tests.support import ROOT, event

POLICY = Policy.from_file(policies.path("recommended"))
DECIDE = PolicyEvaluator(POLICY).evaluate
DECIDE_AS_KUBERNETES = PolicyEvaluator(Policy.from_file(policies.path("recommended-kubernetes"))).evaluate
MINIMAL = PolicyEvaluator(Policy.from_file(ROOT / "conf/policies/minimal.yaml")).evaluate


def user(name, *groups):
    return {"username": name, "groups": [*groups, "system:authenticated"]}


def service_account(namespace, name):
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return user(f"system:serviceaccount:{namespace}:{name}", *groups)


def node(name):
    return user(f"system:node:{name}", "system:nodes")


PERSON = user("alice", "developers")
STRANGER = {"username": "system:anonymous", "groups": ["system:unauthenticated"]}
NODE = node("n1")
SCHEDULER = user("system:kube-scheduler")
SYSTEM = service_account("kube-system", "endpointslice-controller")
APPLICATION = service_account("shop", "default")


def resource(user, verb, group, resource, subresource=None, namespace="ns", **fields):
    ref = {"resource": resource, "namespace": namespace, "name": "x", "apiVersion": "v1"}
    ref |= {"apiGroup": group} if group else {}
    ref |= {"subresource": subresource} if subresource else {}
    return event(user=user, verb=verb, objectRef=ref, **({"requestURI": ""} | fields))


def path(user, uri, verb="get", **fields):
    return event(user=user, verb=verb, requestURI=uri, objectRef=None, **fields)


def refused(sent, code=403):
    return {**sent, "responseStatus": {"code": code}}


NOISE = [
    path(PERSON, "/livez/ping?exclude=etcd"),
    path(PERSON, "/apis/apps/v1"),
    path(APPLICATION, "/openapi/v3?timeout=32s"),
    resource(NODE, "list", "", "pods"),
    resource(NODE, "patch", "", "nodes", "status"),
    resource(NODE, "update", "coordination.k8s.io", "leases", namespace="kube-node-lease"),
    resource(NODE, "create", "authorization.k8s.io", "subjectaccessreviews"),
    resource(SCHEDULER, "watch", "apps", "replicasets"),
    resource(SCHEDULER, "update", "coordination.k8s.io", "leases"),
    resource(SYSTEM, "update", "discovery.k8s.io", "endpointslices"),
    resource(SYSTEM, "list", "", "configmaps"),
    resource(APPLICATION, "update", "coordination.k8s.io", "leases"),
    resource(SYSTEM, "create", "", "events"),
    resource(APPLICATION, "list", "events.k8s.io", "events"),
    resource(PERSON, "delete", "", "pods", stage="RequestReceived"),
]
# Events and the level at which they are kept.
EVIDENCE = [
    (resource(PERSON, "create", "apps", "deployments"), "Request"),
    (resource(PERSON, "patch", "", "nodes", "status"), "Request"),
    (resource(PERSON, "delete", "", "events"), "Request"),
    (resource(SYSTEM, "delete", "", "pods"), "Request"),
    (resource(SCHEDULER, "create", "", "pods", "binding"), "Request"),
    (resource(PERSON, "create", "", "pods", "exec"), "Request"),
    (resource(PERSON, "get", "", "nodes", "proxy"), "Request"),
    (resource(APPLICATION, "create", "rbac.authorization.k8s.io", "clusterrolebindings"), "Request"),
    (resource(NODE, "get", "", "secrets"), "Metadata"),
    (resource(SYSTEM, "list", "", "secrets"), "Metadata"),
    (resource(NODE, "create", "", "serviceaccounts", "token"), "Metadata"),
    (resource(NODE, "create", "authentication.k8s.io", "tokenreviews"), "Metadata"),
    (resource(PERSON, "update", "", "configmaps"), "Metadata"),
    (resource(APPLICATION, "list", "", "pods"), "Metadata"),
    (path(STRANGER, "/vendor/phpunit/eval-stdin.php"), None),
    (path(STRANGER, "/api"), None),
    (resource(STRANGER, "list", "", "pods"), None),
    (refused(resource(PERSON, "list", "", "pods")), None),
    (event(user={}, stage="ResponseStarted", responseStatus={"code": 401}), None),
    (resource(PERSON, "delete", "", "pods", stage="Panic"), "Request"),
]
BOTH = [DECIDE, DECIDE_AS_KUBERNETES]


@pytest.mark.parametrize("decide", BOTH)
@pytest.mark.parametrize("sent", NOISE)
def test_noise_goes(decide, sent):
    assert not decide(sent).keep


@pytest.mark.parametrize("decide", BOTH)
@pytest.mark.parametrize(("sent", "level"), EVIDENCE)
def test_evidence_stays(decide, sent, level):
    decision = decide(sent)
    assert decision.keep
    assert decision.level == level or level is None


# What each provider's components do all day long.
PROVIDERS = {
    "Kubernetes": [
        user("system:apiserver", "system:masters"),
        user("system:kube-controller-manager"),
        SCHEDULER,
        user("system:kube-proxy"),
        NODE,
        SYSTEM,
    ],
    "EKS": [
        user("eks:k8s-metrics"),
        user("eks:cloud-controller-manager"),
        user("eks:vpc-resource-controller"),
        user("eks:node-manager", "system:masters"),
        node("ip-10-0-11-50.ec2.internal"),
        node("fargate-ip-192-168-3-178.us-west-2.compute.internal"),
        service_account("kube-system", "aws-node"),
        service_account("kube-system", "ebs-csi-controller-sa"),
        service_account("amazon-cloudwatch", "cloudwatch-agent"),
    ],
    "GKE": [
        user("system:gcp-controller-manager"),
        user("system:clustermetrics"),
        user("system:vpa-recommender"),
        user("system:l7-lb-controller"),
        node("gke-prod-default-pool-1a2b3c4d-x5yz"),
        service_account("kube-system", "konnectivity-agent-cpha"),
        service_account("gmp-system", "collector"),
        service_account("gke-managed-cim", "kube-state-metrics"),
    ],
    "AKS": [
        user("aksService", "system:masters"),
        user("aksProblemDetector"),
        node("aks-nodepool1-12345678-vmss000000"),
        service_account("kube-system", "azure-cloud-provider"),
        service_account("kube-system", "csi-azuredisk-node-sa"),
        service_account("gatekeeper-system", "gatekeeper-admin"),
    ],
    "OpenShift": [
        user("system:multus:worker-0", "system:multus"),
        user("system:ovn-node:worker-0", "system:ovn-nodes"),
        node("worker-0.example.com"),
        service_account("openshift-cluster-version", "default"),
        service_account("openshift-monitoring", "prometheus-k8s"),
        service_account("openshift-kube-controller-manager", "localhost-recovery-client"),
    ],
    "RKE2 and k3s": [
        user("system:rke2-controller"),
        user("system:rke2-supervisor", "system:masters"),
        user("rke2-cloud-controller-manager"),
        user("system:k3s-controller"),
        user("system:k3s-supervisor", "system:masters"),
        user("k3s-cloud-controller-manager"),
        service_account("kube-system", "helm-traefik"),
        service_account("kube-system", "local-path-provisioner-service-account"),
    ],
}
COMPONENTS = [(provider, who) for provider, them in PROVIDERS.items() for who in them]
IDS = [f"{provider}-{who['username']}" for provider, who in COMPONENTS]


@pytest.mark.parametrize(("provider", "who"), COMPONENTS, ids=IDS)
def test_the_components_of_each_provider_are_known(provider, who):
    del provider
    for sent, rule in [
        (resource(who, "watch", "apps", "replicasets"), "system-reads"),
        (resource(who, "get", "", "configmaps"), "system-reads"),
        (resource(who, "update", "coordination.k8s.io", "leases"), "system-bookkeeping"),
        (resource(who, "patch", "example.com", "widgets", "status"), "system-bookkeeping"),
        (resource(who, "create", "authorization.k8s.io", "subjectaccessreviews"), "system-permission-checks"),
        (resource(who, "create", "", "events"), "system-events"),
    ]:
        assert (POLICY.rule_name(DECIDE(sent).rule), DECIDE(sent).keep) == (rule, False), sent


@pytest.mark.parametrize(("provider", "who"), COMPONENTS, ids=IDS)
def test_what_matters_stays_from_the_components_of_each_provider_too(provider, who):
    del provider
    for sent, rule in [
        (refused(resource(who, "list", "", "pods")), "refused"),
        (refused(resource(who, "update", "coordination.k8s.io", "leases")), "refused"),
        (refused(path(who, "/apis"), 503), "failed"),
        (resource(who, "get", "", "secrets"), "secrets-and-tokens"),
        (resource(who, "create", "", "serviceaccounts", "token"), "secrets-and-tokens"),
        (resource(who, "get", "", "pods", "exec"), "sessions"),
        (resource(who, "update", "", "configmaps"), "config-maps"),
        (resource(who, "create", "", "pods"), "changes"),
        (resource(who, "delete", "", "events"), "changes"),
        (resource(who, "update", "certificates.k8s.io", "certificatesigningrequests", "status"), "changes"),
        (resource(who, "list", "", "pods", impersonatedUser={"username": "alice"}), "impersonated"),
    ]:
        assert (POLICY.rule_name(DECIDE(sent).rule), DECIDE(sent).keep) == (rule, True), sent


@pytest.mark.parametrize(
    "who",
    [
        user("kubernetes-admin", "kubeadm:cluster-admins"),
        user("system:admin", "system:masters"),
        user("masterclient", "system:masters"),
        user("eks:support-engineer"),
        user("eks:cluster-bootstrap"),
        user("kube:admin", "system:cluster-admins"),
        service_account("kube-system", "default"),
        service_account("openshift-operators", "somebody-elses-operator"),
        service_account("cattle-system", "cattle"),
    ],
    ids=lambda who: who["username"],
)
def test_whoever_a_person_may_be_behind_is_not_the_system(who):
    for verb in ("get", "list", "watch"):
        assert DECIDE(resource(who, verb, "", "pods")).keep
    assert DECIDE(resource(who, "patch", "", "nodes", "status")).keep


@pytest.mark.parametrize(
    ("sent", "rule", "keep"),
    [
        (resource(APPLICATION, "patch", "example.com", "widgets", "status"), "operators-status", False),
        (
            resource(APPLICATION, "update", "networking.k8s.io", "ingresses", "status"),
            "operators-status",
            False,
        ),
        (resource(APPLICATION, "patch", "", "pods", "status"), "changes", True),
        (resource(APPLICATION, "patch", "", "services", "status"), "changes", True),
        (resource(APPLICATION, "update", "apps", "deployments", "status"), "changes", True),
        (
            resource(APPLICATION, "update", "certificates.k8s.io", "certificatesigningrequests", "status"),
            "changes",
            True,
        ),
        (
            resource(APPLICATION, "update", "coordination.k8s.io", "leases", namespace="kube-node-lease"),
            "changes",
            True,
        ),
        (path(APPLICATION, "/metrics"), "metrics", False),
        (path(PERSON, "/metrics"), "rest", True),
        (path(PERSON, "/logs/kube-apiserver.log"), "rest", True),
        (refused(path(STRANGER, "/readyz"), 500), "failed", True),
        (resource(PERSON, "create", "", "events"), "changes", True),
        (resource(PERSON, "list", "oauth.openshift.io", "oauthaccesstokens"), "secrets-and-tokens", True),
        (
            resource(PERSON, "get", "subresources.kubevirt.io", "virtualmachineinstances", "vnc"),
            "sessions",
            True,
        ),
    ],
)
def test_the_rule_that_decides(sent, rule, keep):
    assert (POLICY.rule_name(DECIDE(sent).rule), DECIDE(sent).keep) == (rule, keep)


# Everybody and everything that the policy knows, and others.
PEOPLE = [PERSON, user("system:admin", "system:masters"), user("bob@example.com"), user("node", "nodes")]
ANYBODY = [*(who for _, who in COMPONENTS), *PEOPLE, APPLICATION]
CHANGES = ["create", "update", "patch", "delete", "deletecollection"]
RESOURCES = [
    ("", "pods", None), ("", "pods", "status"), ("", "pods", "exec"), ("", "nodes", "status"),
    ("", "configmaps", None), ("", "secrets", None), ("", "serviceaccounts", "token"), ("", "events", None),
    ("", "endpoints", None), ("apps", "deployments", "scale"), ("coordination.k8s.io", "leases", None),
    ("discovery.k8s.io", "endpointslices", None), ("example.com", "widgets", "status"),
    ("authorization.k8s.io", "subjectaccessreviews", None), ("certificates.k8s.io", "x", "status"),
    ("rbac.authorization.k8s.io", "clusterroles", None),
]  # fmt: skip
PATHS = ["/healthz", "/livez/ping", "/readyz?verbose", "/api", "/apis/apps/v1", "/version", "/metrics", "/x"]
# All that docs/recommended-policy.md calls bookkeeping: what writes of these may be dropped.
BOOKKEEPING = {"events", "endpoints", "endpointslices", "leases", "subjectaccessreviews"}

of_resources = st.builds(
    lambda who, verb, what, namespace: resource(who, verb, *what, namespace=namespace),
    st.sampled_from(ANYBODY),
    st.sampled_from(["get", "list", "watch", *CHANGES, "propfind"]),
    st.sampled_from(RESOURCES),
    st.sampled_from(["kube-system", "kube-node-lease", "shop", ""]),
)
of_paths = st.builds(
    path, st.sampled_from(ANYBODY), st.sampled_from(PATHS), st.sampled_from(["get", "head", "post"])
)
anything = st.builds(
    lambda sent, stage, code: {**sent, "stage": stage, "responseStatus": {"code": code}},
    st.one_of(of_resources, of_paths),
    st.sampled_from(["ResponseStarted", "ResponseComplete", "Panic"]),
    st.sampled_from([200, 201, 404, 409, 410, 429]),
)


@given(anything, st.sampled_from([400, 401, 403, 422, 499, 500, 503, 599]))
def test_whoever_was_refused_is_kept_and_so_is_what_failed(sent, code):
    assert DECIDE(refused(sent, code)).keep


@given(anything, st.sampled_from([STRANGER, {"groups": ["system:unauthenticated"]}, {}]))
def test_everything_anonymous_or_without_a_user_is_kept(sent, who):
    assert DECIDE({**sent, "user": who}).keep


@given(anything, st.sampled_from(["alice", "system:admin", "system:node:n1"]))
def test_everything_in_somebody_elses_name_is_kept(sent, name):
    assert DECIDE({**sent, "impersonatedUser": {"username": name}}).keep


@given(anything, st.sampled_from(PEOPLE), st.sampled_from(CHANGES))
def test_every_change_by_a_person_is_kept(sent, who, verb):
    assert DECIDE({**sent, "user": who, "verb": verb}).keep


@given(anything.filter(lambda sent: sent["verb"] in CHANGES))
def test_every_change_by_anybody_is_kept_but_for_bookkeeping(sent):
    ref = sent["objectRef"]
    if not DECIDE(sent).keep:
        assert ref["resource"] in BOOKKEEPING or ref.get("subresource") == "status"
        assert ref.get("apiGroup") != "certificates.k8s.io"
        assert not sent["verb"].startswith("delete")


@given(
    anything,
    st.sampled_from(
        [
            {"resource": "secrets"},
            {"resource": "serviceaccounts", "subresource": "token"},
            {"resource": "tokenreviews", "apiGroup": "authentication.k8s.io"},
        ]
    ),
)
def test_secrets_and_tokens_are_kept_without_their_contents(sent, ref):
    assert DECIDE({**sent, "objectRef": ref}).level == Level.METADATA


@given(
    anything,
    st.fixed_dictionaries(
        {
            "userAgent": st.sampled_from(["kubelet/v1.33", "kube-probe/1.33", "", "kubectl/v1.33"]),
            "sourceIPs": st.lists(st.sampled_from(["127.0.0.1", "10.0.0.1", "203.0.113.9"]), max_size=2),
            "annotations": st.dictionaries(st.sampled_from(["authorization.k8s.io/decision"]), st.just("x")),
        }
    ),
)
def test_what_a_client_says_of_itself_changes_nothing(sent, said):
    assert DECIDE({**sent, **said}) == DECIDE(sent)


def test_each_rule_that_drops_is_for_named_users_and_says_what_it_costs():
    text = policies.path("recommended").read_text()
    for name, rule in zip(POLICY.rule_names.values(), POLICY.rules, strict=True):
        assert re.fullmatch("[a-z-]+", name)
        if rule.level is Level.NONE:
            assert rule.users or rule.user_groups
            assert not any((rule.user_agents, rule.source_ips, rule.annotations))
    before = [part.rpartition("\n\n")[2] for part in re.split(r"\n  - name: .*\n    level: None", text)[:-1]]
    assert len(before) == sum(rule.level is Level.NONE for rule in POLICY.rules)
    assert all("# Cost: " in comment for comment in before)


def test_kube_apiserver_takes_the_policy_that_is_named_for_it():
    policy = Policy.from_file(policies.path("recommended-kubernetes"))
    assert policy.kind == "Policy"
    # It takes the group "*" from 1.36 on.
    assert not any(element.group == "*" for rule in policy.rules for element in rule.resources)


@pytest.mark.parametrize(
    ("sent", "keep"),
    [
        (resource(NODE, "list", "", "pods"), False),
        (refused(resource(NODE, "list", "", "pods")), True),
        (refused(resource(NODE, "list", "", "secrets")), True),
        (resource(NODE, "get", "", "secrets"), True),
        (resource(user("system:node:n1"), "get", "", "pods"), True),
        (resource(NODE, "patch", "", "nodes", "status"), True),
        (resource(NODE, "update", "coordination.k8s.io", "leases"), False),
        (resource(SCHEDULER, "get", "coordination.k8s.io", "leases"), False),
        (resource(PERSON, "update", "coordination.k8s.io", "leases"), True),
        (path(STRANGER, "/livez"), False),
        (refused(path(STRANGER, "/livez"), 401), True),
        (refused(path(STRANGER, "/readyz/etcd"), 500), True),
        (path(PERSON, "/version"), True),
    ],
)
def test_the_minimal_policy_drops_noise_that_was_not_refused(sent, keep):
    assert MINIMAL(sent).keep is keep


@pytest.mark.parametrize("name", ["recommended", "recommended-kubernetes"])
def test_the_file_to_copy_is_the_one_that_is_built_in(name):
    copied = ROOT / f"conf/policies/{name}.yaml"
    assert copied.read_bytes() == policies.path(name).read_bytes()
