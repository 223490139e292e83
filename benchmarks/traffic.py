"""Who asks a busy cluster's API server for what, and how often: the tables behind ``audit_log``.

Each function of a kind of request returns one of them; ``TRAFFIC`` says how often it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.objects import Event, deployment, manifest, status

NODES = [f"node-{number:02}" for number in range(12)]
NAMESPACES = ["default", "shop", "payments", "search", "monitoring", "ci"]
APPLICATIONS = ["web", "cart", "checkout", "catalog", "recommender", "mailer", "gateway", "ledger"]
PEOPLE = ["alice@example.com", "bob@example.com", "carol@example.com"]


@dataclass(frozen=True)
class Actor:
    """Who sends requests, as the ``user`` and the ``userAgent`` of an event have it."""

    name: str
    groups: tuple[str, ...] = ()
    agent: str = "kubectl/v1.33.2 (linux/amd64) kubernetes/a57b6f7"
    extra: dict[str, list[str]] = field(default_factory=dict)

    def user(self) -> dict[str, Any]:
        if not self.name:
            return {}
        user: dict[str, Any] = {"username": self.name, "groups": [*self.groups, "system:authenticated"]}
        if self.name == "system:anonymous":
            user["groups"] = ["system:unauthenticated"]
        return {**user, "extra": self.extra} if self.extra else user


def component(name: str, *groups: str) -> Actor:
    return Actor(f"system:{name}", groups, f"{name}/v1.33.2 (linux/amd64) kubernetes/a57b6f7/leader-election")


def service_account(namespace: str, name: str) -> Actor:
    pod = {"authentication.kubernetes.io/pod-name": [f"{name}-7d9f8c6b5-x2x4z"]}
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return Actor(f"system:serviceaccount:{namespace}:{name}", groups, f"{name}/v2.14.0", pod)


API_SERVER = Actor("system:apiserver", ("system:masters",), "kube-apiserver/v1.33.2 (linux/amd64)")
MANAGER = component("kube-controller-manager")
SCHEDULER = component("kube-scheduler")
PROXY = component("kube-proxy", "system:node-proxier")
KUBELETS = [
    Actor(f"system:node:{node}", ("system:nodes",), "kubelet/v1.33.2 (linux/amd64)") for node in NODES
]
CONTROLLERS = [
    service_account("kube-system", f"{name}-controller")
    for name in ("endpointslice", "replicaset", "deployment", "namespace", "generic-garbage")
]
OPERATORS = [
    service_account("monitoring", "prometheus-operator"),
    service_account("cert-manager", "cert-manager"),
    service_account("argocd", "argocd-application-controller"),
]
USERS = [Actor(name, ("developers",)) for name in PEOPLE]
DEPLOYER = service_account("ci", "deployer")
STRANGER = Actor("system:anonymous", (), "Mozilla/5.0 zgrab/0.x")
NOBODY = Actor("", (), "curl/8.5.0")


@dataclass
class Request:
    """A request for a resource, or for a path where there is no resource."""

    actor: Actor
    verb: str
    resource: str = ""
    group: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    query: str = ""
    code: int = 200
    body: Event | None = None
    answer: Event | None = None

    def uri(self) -> str:
        base = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        in_url = "" if self.verb == "create" and not self.subresource else self.name
        parts = ["namespaces", self.namespace] * bool(self.namespace) + [
            self.resource,
            in_url,
            self.subresource,
        ]
        path = self.path or "/".join([base, *filter(None, parts)])
        return path + ("?" + self.query if self.query else "")

    def reference(self) -> Event | None:
        """objectRef leaves out what is empty, the core group included."""
        names = ("resource", "namespace", "name", "subresource")
        ref = {name: getattr(self, name) for name in names if getattr(self, name)}
        if self.group:
            ref["apiGroup"] = self.group
        return {**ref, "apiVersion": "v1"} if self.resource else None


def an_application(random: Random) -> tuple[str, str]:
    return random.choice(NAMESPACES), random.choice(APPLICATIONS)


def lease(random: Random) -> Request:
    leader = random.choice([MANAGER, SCHEDULER, *KUBELETS, *KUBELETS, *OPERATORS])
    namespace = "kube-node-lease" if leader in KUBELETS else "kube-system"
    name = leader.name.rpartition(":")[2]
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-11-01T06:00:00.000000Z"}
    renewed = manifest(random, "Lease", namespace, name, spec)
    verb = random.choice(["update", "update", "get"])
    body = renewed if verb == "update" else None
    return Request(
        leader, verb, "leases", "coordination.k8s.io", namespace=namespace, name=name, body=body, answer=body
    )


def node_status(random: Random) -> Request:
    kubelet = random.choice(KUBELETS)
    node = kubelet.name.rpartition(":")[2]
    body, answer = status(random, "Node", "", node)
    images = [
        f"registry.example.com/{name}@sha256:{random.getrandbits(256):064x}" for name in APPLICATIONS * 4
    ]
    answer["status"]["images"] = [
        {"names": [image], "sizeBytes": random.randrange(10**9)} for image in images
    ]
    return Request(kubelet, "patch", "nodes", subresource="status", name=node, body=body, answer=answer)


def pod_status(random: Random) -> Request:
    namespace, name = an_application(random)
    body, answer = status(random, "Pod", namespace, name)
    answer["spec"] = deployment(random, namespace, name)["spec"]["template"]["spec"]
    return Request(
        random.choice(KUBELETS),
        "patch",
        "pods",
        "",
        "status",
        namespace,
        f"{name}-0",
        body=body,
        answer=answer,
    )


def kubelet_read(random: Random) -> Request:
    namespace, name = an_application(random)
    verb, resource = random.choice(
        [("get", "nodes"), ("watch", "configmaps"), ("get", "secrets"), ("list", "pods")]
    )
    if resource == "nodes":
        namespace, name = "", random.choice(NODES)
    return Request(
        random.choice(KUBELETS), verb, resource, namespace=namespace, name="" if verb == "list" else name
    )


def controller_read(random: Random) -> Request:
    actor = random.choice([MANAGER, SCHEDULER, PROXY, API_SERVER, *CONTROLLERS, *OPERATORS])
    resource, group = random.choice(
        [("pods", ""), ("services", ""), ("endpointslices", "discovery.k8s.io"), ("deployments", "apps"),
         ("replicasets", "apps"), ("namespaces", ""), ("certificates", "cert-manager.io")]
    )  # fmt: skip
    verb = random.choice(["watch", "watch", "list", "get"])
    version = random.randrange(10**6, 10**8)
    query = {"watch": f"allowWatchBookmarks=true&resourceVersion={version}&watch=true", "list": "limit=500"}
    namespace, name = an_application(random) if verb == "get" else ("", "")
    return Request(actor, verb, resource, group, namespace=namespace, name=name, query=query.get(verb, ""))


def controller_write(random: Random) -> Request:
    namespace, name = an_application(random)
    actor = random.choice(CONTROLLERS)
    spec: Event = {"endpoints": [{"addresses": [f"10.0.{i}.7"]} for i in range(random.randrange(1, 12))]}
    whole = manifest(random, "EndpointSlice", namespace, name, spec)
    group = "discovery.k8s.io"
    return Request(
        actor, "update", "endpointslices", group, "", namespace, f"{name}-k8xwz", body=whole, answer=whole
    )


def pod_created(random: Random) -> Request:
    """A pod with generateName: neither URL nor objectRef has a name."""
    namespace, name = an_application(random)
    spec = deployment(random, namespace, name)["spec"]["template"]["spec"]
    pod = manifest(random, "Pod", namespace, f"{name}-5f7d8", spec)
    return Request(CONTROLLERS[1], "create", "pods", namespace=namespace, code=201, body=pod, answer=pod)


def event_created(random: Random) -> Request:
    namespace, name = an_application(random)
    group = random.choice(["", "events.k8s.io"])
    body = manifest(random, "Event", namespace, f"{name}.17f", {"reason": "Scheduled", "message": "x" * 80})
    actor = random.choice([SCHEDULER, *KUBELETS])
    return Request(
        actor, "create", "events", group, "", namespace, f"{name}.17f", code=201, body=body, answer=body
    )


def review(random: Random) -> Request:
    resource, group = random.choice(
        [("tokenreviews", "authentication.k8s.io"), ("subjectaccessreviews", "authorization.k8s.io")]
    )
    spec = {"user": "system:serviceaccount:monitoring:prometheus", "groups": ["system:serviceaccounts"]}
    body = {"kind": "Review", "metadata": {}, "spec": spec, "status": {"allowed": True}}
    return Request(random.choice(KUBELETS), "create", resource, group, code=201, body=body, answer=body)


def health_check(random: Random) -> Request:
    path = random.choice(["/healthz", "/readyz", "/livez", "/livez?exclude=etcd", "/readyz/ping"])
    return Request(random.choice([STRANGER, API_SERVER]), "get", path=path)


def discovery(random: Random) -> Request:
    path = random.choice(
        ["/api", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/version", "/metrics"]
    )
    return Request(random.choice([*OPERATORS, *USERS, *CONTROLLERS]), "get", path=path, query="timeout=32s")


def deployed(random: Random) -> Request:
    namespace, name = an_application(random)
    verb = random.choice(["patch", "patch", "update", "create"])
    whole = deployment(random, namespace, name)
    code = random.choice([200, 200, 200, 409]) if verb != "create" else 201
    actor = random.choice([DEPLOYER, OPERATORS[2], *USERS])
    return Request(
        actor, verb, "deployments", "apps", "", namespace, name, code=code, body=whole, answer=whole
    )


def person_read(random: Random) -> Request:
    namespace, name = an_application(random)
    resource, subresource = random.choice(
        [("pods", ""), ("pods", "log"), ("services", ""), ("configmaps", "")]
    )
    verb = "get" if subresource else random.choice(["get", "list"])
    code = random.choice([200, 200, 200, 403, 404])
    name = name if verb == "get" else ""
    return Request(random.choice(USERS), verb, resource, "", subresource, namespace, name, code=code)


def person_session(random: Random) -> Request:
    namespace, name = an_application(random)
    subresource = random.choice(["exec", "portforward"])
    query = "command=sh&container=web&stdin=true&stdout=true&tty=true" if subresource == "exec" else ""
    return Request(
        random.choice(USERS), "create", "pods", "", subresource, namespace, f"{name}-0", "", query, 101
    )


def person_delete(random: Random) -> Request:
    namespace, name = an_application(random)
    answer = {"kind": "Status", "status": "Success", "details": {"name": name, "kind": "pods"}}
    return Request(random.choice(USERS), "delete", "pods", "", "", namespace, f"{name}-0", answer=answer)


def secret(random: Random) -> Request:
    namespace, name = an_application(random)
    actor = random.choice([*USERS, OPERATORS[1], DEPLOYER])
    verb = random.choice(["get", "get", "update", "create"])
    return Request(
        actor, verb, "secrets", namespace=namespace, name=f"{name}-tls", code=201 if verb == "create" else 200
    )


def granted(random: Random) -> Request:
    name = f"{random.choice(APPLICATIONS)}-admin"
    spec = {
        "roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": PEOPLE[0]}],
    }
    body = manifest(random, "ClusterRoleBinding", "", name, spec)
    return Request(
        USERS[0],
        "create",
        "clusterrolebindings",
        "rbac.authorization.k8s.io",
        name=name,
        code=201,
        body=body,
        answer=body,
    )


def scan(random: Random) -> Request:
    path = random.choice(
        ["/", "/api", "/.env", "/vendor/phpunit/src/Util/PHP/eval-stdin.php", "/actuator/health"]
    )
    return Request(STRANGER, "get", path=path, code=403)


def unauthenticated(random: Random) -> Request:
    return Request(NOBODY, "list", "secrets", namespace=random.choice(NAMESPACES), code=401)


TRAFFIC: list[tuple[float, Callable[[Random], Request]]] = [
    (20, lease),
    (4, node_status),
    (7, pod_status),
    (7, kubelet_read),
    (18, controller_read),
    (6, controller_write),
    (2, pod_created),
    (6, event_created),
    (4, review),
    (14, health_check),
    (6, discovery),
    (1.5, deployed),
    (2, person_read),
    (0.3, person_session),
    (0.3, person_delete),
    (1, secret),
    (0.1, granted),
    (0.4, scan),
    (0.1, unauthenticated),
]
