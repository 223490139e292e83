"""Generated FilterPolicies, and events that their conditions are about."""

from hypothesis import strategies as st

from filter_engine.model import STAGES
from tests.support import event

ACCOUNTS = ["system:serviceaccount:kube-system:a", "system:serviceaccount:kube:b", "system:serviceaccount::c"]
NAMES = ["alice", "bob", "system:node:n1", "system:node:n2", "a*b", ""]
GROUPS = ["developers", "system:nodes", "system:authenticated", "*"]
NAMESPACES = ["", "default", "kube", "kube-system"]
RESOURCES = [("", "pods"), ("", "secrets"), ("apps", "deployments"), ("coordination.k8s.io", "leases")]
SUBRESOURCES = ["", "", "log", "status"]
URLS = ["/healthz", "/healthz/ping", "/apis", "/metrics", "/a%2Ab", "/"]
AGENTS = ["kubelet/v1.30", "kubectl/v1.30 (linux)", "Go-http-client/2.0"]
ADDRESSES = ["10.0.0.1", "10.1.2.3", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1", "unknown"]
DECISION = "authorization.k8s.io/decision"
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]


def some(values, **options):
    options = {"min_size": 1, "max_size": 2, **options}
    return st.lists(st.sampled_from(values), **options)


conditions = st.fixed_dictionaries(
    {},
    optional={
        "users": some([*NAMES, "system:node:*", "*b", "a*e", r"a\*b", "*"]),
        "userGroups": some([*GROUPS, "system:*", "*s", r"\*"]),
        "verbs": some(VERBS),
        "responseCodes": some([200, 201, "4xx", "400-403", "5xx"]),
        "stages": some(STAGES),
        "levels": some(["Metadata", "Request", "RequestResponse"]),
        "userAgents": some(["kubelet/*", "*kubectl*", "*"]),
        "sourceIPs": some(["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "192.168.1.1"]),
        "impersonatedUsers": some([*NAMES[:3], "system:*", "*"]),
        "ownNamespace": st.sampled_from(["same", "prefix"]),
        "annotations": st.fixed_dictionaries({DECISION: some(["allow", "forbid", "f*", "*"])}),
    },
)
resources = st.builds(
    lambda group, patterns, names: (
        {"group": group}
        | ({"resources": patterns} if patterns else {})
        | ({"resourceNames": names} if patterns and names else {})
    ),
    st.sampled_from(["", "apps", "*", "*.k8s.io"]),
    some(["pods", "pods/*", "pods/log", "*/status", "*", "s*", "*s/st*", "deploy*/*", "leases"], min_size=0),
    some(["web", "w*", ""], min_size=0),
)
where = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"namespaces": some([*NAMESPACES, "kube-*", "*"])}),
    st.fixed_dictionaries({"resources": st.lists(resources, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"nonResourceURLs": some(["/healthz*", "*", "/a*b", "*ping", "/metrics"])}),
)
whole_conditions = st.builds(lambda one, other: one | other, conditions, where)
rules = st.builds(
    lambda level, found, exceptions, more: (
        {"level": level}
        | found
        | ({"except": exceptions} if exceptions else {})
        | ({} if level == "None" else more)
    ),
    st.sampled_from(["None", "Metadata", "Request", "RequestResponse"]),
    whole_conditions,
    st.lists(whole_conditions.filter(bool), max_size=2),
    st.fixed_dictionaries(
        {},
        optional={
            "omitStages": some(STAGES),
            "omitManagedFields": st.booleans(),
            "sample": st.builds(
                lambda rate, annotate: {"rate": rate, "annotate": annotate},
                st.sampled_from([0.3, 0.7, 1]),
                st.booleans(),
            ),
        },
    ),
)
filter_policies = st.builds(
    lambda found, head: {
        "apiVersion": "kube-audit-filter.io/v1",
        "kind": "FilterPolicy",
        **head,
        "rules": found,
    },
    st.lists(rules, min_size=1, max_size=6),
    st.fixed_dictionaries(
        {"defaultLevel": st.sampled_from(["None", "Metadata", "Request"])},
        optional={
            "omitStages": some(STAGES),
            "omitManagedFields": st.booleans(),
            "reduce": st.booleans(),
        },
    ),
)


def _event(id_, user, verb, target, more):
    fields = {"auditID": f"id-{id_}", "verb": verb, "user": user, **target, **more}
    sent = event(**fields)
    if "objectRef" not in target:
        del sent["objectRef"]
    return sent


_targets = st.one_of(
    st.builds(
        lambda kind, subresource, namespace, name: {
            "objectRef": {
                "apiGroup": kind[0],
                "resource": kind[1],
                "subresource": subresource,
                "namespace": namespace,
                "name": name,
            },
            "requestURI": f"/api/v1/namespaces/{namespace}/{kind[1]}/{name}",
        },
        st.sampled_from(RESOURCES),
        st.sampled_from(SUBRESOURCES),
        st.sampled_from(NAMESPACES),
        st.sampled_from(["web", "db", ""]),
    ),
    st.builds(lambda url: {"requestURI": url}, st.sampled_from(URLS)),
)
events = st.builds(
    _event,
    st.integers(0, 20),
    st.one_of(
        st.just({}),
        st.builds(
            lambda name, groups: {"username": name, "groups": groups},
            st.sampled_from([*NAMES, *ACCOUNTS]),
            some(GROUPS, max_size=3),
        ),
    ),
    st.sampled_from(VERBS),
    _targets,
    st.fixed_dictionaries(
        {
            "stage": st.sampled_from(STAGES),
            "level": st.sampled_from(["Metadata", "Request", "RequestResponse"]),
        },
        optional={
            "responseStatus": st.fixed_dictionaries(
                {}, optional={"code": st.sampled_from([200, 201, 403, 404, 500])}
            ),
            "userAgent": st.sampled_from([*AGENTS, ""]),
            "sourceIPs": some(ADDRESSES, max_size=3),
            "impersonatedUser": st.fixed_dictionaries({"username": st.sampled_from(NAMES)}),
            "annotations": st.dictionaries(
                st.sampled_from([DECISION, "k"]), st.sampled_from(["allow", "forbid", ""]), max_size=2
            ),
            "requestObject": st.just({"kind": "Pod", "metadata": {"managedFields": [{}]}}),
            "responseObject": st.just({"kind": "Pod", "metadata": {"name": "web"}}),
        },
    ),
)
