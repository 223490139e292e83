"""Generated events as kube-apiserver may record them: what the facts of the exact analyses allow."""

from hypothesis import strategies as st

from filter_engine.model import STAGES
from tests.support.filter_policies import ADDRESSES, AGENTS, DECISION, NAMESPACES

# By API group and resource: whether it is namespaced, and its subresources with a verb.
_KINDS = {
    ("", "pods"): (True, {"": None, "log": "get", "exec": "create", "status": "patch"}),
    ("", "secrets"): (True, {"": None}),
    ("", "nodes"): (False, {"": None, "status": "update"}),
    ("apps", "deployments"): (True, {"": None, "scale": "update", "status": "get"}),
    ("coordination.k8s.io", "leases"): (True, {"": None}),
    ("example.k8s.io", "sets"): (True, {"": None, "status": "get", "log": "create"}),
}
_VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
_PATHS = ["/healthz", "/healthz/ping", "/apis", "/metrics", "/", "/ab", "/livez/ping", "/debug/pprof/heap"]
_ACCOUNT = "system:serviceaccount:"


@st.composite
def _users(draw):
    name = draw(
        st.sampled_from(
            [None, "system:anonymous", "alice", "bob", "abe", "system:node:n1", "system:node:b",
             "system:kube-proxy", f"{_ACCOUNT}kube-system:a", f"{_ACCOUNT}kube:b",
             f"{_ACCOUNT}default:b", f"{_ACCOUNT}kube-x:ab"]
        )
    )  # fmt: skip
    if name is None:
        return {}
    if name == "system:anonymous":
        return {"username": name, "groups": ["system:unauthenticated"]}
    if name.startswith(_ACCOUNT):
        namespace = name.split(":")[2]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        return {"username": name, "groups": groups}
    groups = ["system:nodes"] if name.startswith("system:node:") else []
    groups += draw(st.lists(st.sampled_from(["developers", "guests", "a"]), unique=True, max_size=2))
    return {"username": name, "groups": [*groups, "system:authenticated"]}


@st.composite
def _requests(draw):
    if draw(st.booleans()):
        return {
            "verb": draw(st.sampled_from(["get", "post", "head"])),
            "requestURI": draw(st.sampled_from(_PATHS)),
        }
    (group, resource), (is_namespaced, subresources) = draw(st.sampled_from(sorted(_KINDS.items())))
    subresource, verb = draw(st.sampled_from(sorted(subresources.items())))
    verb = verb or draw(st.sampled_from(_VERBS))
    namespaces = NAMESPACES if verb in ("list", "watch") else NAMESPACES[1:]
    namespace = draw(st.sampled_from(namespaces)) if is_namespaced else ""
    has_name = bool(subresource) or verb in ("get", "update", "patch", "delete")
    name = draw(st.sampled_from(["web", "db", "w"])) if has_name else ""
    uri = f"/apis/{group}/v1" if group else "/api/v1"
    uri += f"/namespaces/{namespace}" if namespace else ""
    uri = "/".join([uri, *filter(None, (resource, name, subresource))])
    reference = {
        "resource": resource,
        "namespace": namespace,
        "name": name,
        "apiGroup": group,
        "subresource": subresource,
    }
    return {
        "verb": verb,
        "requestURI": uri,
        "objectRef": {key: text for key, text in reference.items() if text},
    }


@st.composite
def believable_events(draw):
    """An event."""
    user, request = draw(_users()), draw(_requests())
    reference = request.get("objectRef", {})
    is_long = request["verb"] == "watch" or reference.get("subresource") in ("log", "exec")
    is_long = is_long or request["requestURI"].startswith("/debug/pprof/")
    stages = (
        [stage for stage in STAGES if stage != "ResponseStarted" or is_long] if user else ["ResponseStarted"]
    )
    stage = draw(st.sampled_from(stages))
    event = {
        "auditID": "a", "stage": stage,
        "level": draw(st.sampled_from(["Metadata", "Request", "RequestResponse"])),
        "user": user, "sourceIPs": [draw(st.sampled_from(ADDRESSES[:-1]))], **request,
    }  # fmt: skip
    if draw(st.booleans()):
        event["userAgent"] = draw(st.sampled_from(AGENTS))
    if stage == "RequestReceived":
        return event
    codes = [500] if stage == "Panic" else [200, 201, 403, 404, 500] if user else [400, 401]
    event["responseStatus"] = {"code": draw(st.sampled_from(codes))}
    if user and draw(st.booleans()):
        event["impersonatedUser"] = {"username": draw(st.sampled_from(["alice", "system:node:n1", "zoe"]))}
    if user and draw(st.booleans()):
        is_refused = event["responseStatus"]["code"] == 403
        event["annotations"] = {DECISION: draw(st.sampled_from(["allow", *(["forbid"] * is_refused)]))}
    return event
