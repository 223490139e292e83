"""Facts of the world: which users, groups and requests there are.

Rules could tell apart requests that nobody ever sees: an anonymous user in the group of the nodes, a response
code at the stage RequestReceived, the creation of a secret without a namespace. What is never seen proves
nothing about a policy, so the exact analyses leave it out. Where a fact is not certain, they do not take it
for one: an unknown resource may have any verb and scope.

The facts are those of kube-apiserver: authenticators of k8s.io/apiserver for users and groups,
``pkg/endpoints/request/requestinfo.go`` for verbs, names and namespaces, ``pkg/endpoints/filters/audit.go``
for stages. No name of a user, group, namespace or resource has a star.
"""

from __future__ import annotations

import enum
import re
from typing import Any

from filter_engine.patterns import Pattern
from filter_engine.request import target_of

ANONYMOUS = "system:anonymous"
AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
NODES, BOOTSTRAPPERS, ACCOUNTS = "system:nodes", "system:bootstrappers", "system:serviceaccounts"
ACCOUNT_PREFIX, NODE_PREFIX, BOOTSTRAP_PREFIX = "system:serviceaccount:", "system:node:", "system:bootstrap:"
# The groups that facts are about. That of the accounts of a namespace is ACCOUNTS, a colon and the namespace.
GROUPS = (AUTHENTICATED, UNAUTHENTICATED, ACCOUNTS, NODES, BOOTSTRAPPERS)
# What tells kinds of users, and of groups, apart.
USER_PATTERNS = tuple(map(Pattern, ("system:", ACCOUNT_PREFIX, NODE_PREFIX, BOOTSTRAP_PREFIX)))
GROUP_PATTERNS = (Pattern(ACCOUNTS + ":"), Pattern(BOOTSTRAPPERS + ":"))

# "" is the verb of methods that mean nothing for a resource, such as OPTIONS.
RESOURCE_VERBS = (
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy", "",
)  # fmt: skip
METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "connect", "trace")
# Verbs of requests for resources that are no HTTP methods.
NO_METHODS = tuple(verb for verb in RESOURCE_VERBS if verb not in METHODS)
# Of requests that may take long, the stage ResponseStarted is recorded too.
LONG_VERBS, LONG_SUBRESOURCES = ("watch", "proxy"), ("attach", "exec", "log", "portforward", "proxy")
LONG_PATHS = Pattern("/debug/pprof/")
# A failed authentication, and a request with a timeout that can't be read, are recorded without a user.
CODES_OF_NOBODY = (400, 401)
DECISION_ANNOTATION = "authorization.k8s.io/decision"


def is_method(verb: str) -> bool:
    """Whether a verb may be the method of a request that is not for a resource."""
    return bool(verb) and verb == verb.lower() and "*" not in verb and verb not in NO_METHODS


class Kind(enum.Enum):
    """A kind of user."""

    NOBODY = "no user"
    ANONYMOUS = "anonymous"
    ACCOUNT = "service account"
    NODE = "node"
    BOOTSTRAP = "bootstrap token"
    SYSTEM = "system user"
    PERSON = "user"


def kind_of(user: str | None) -> Kind:
    """The kind of a user, by its name."""
    if user is None:
        return Kind.NOBODY
    if user == ANONYMOUS:
        return Kind.ANONYMOUS
    if account_of(user) is not None:
        return Kind.ACCOUNT
    if user.startswith(NODE_PREFIX):
        return Kind.NODE
    if user.startswith(BOOTSTRAP_PREFIX):
        return Kind.BOOTSTRAP
    return Kind.SYSTEM if user.startswith("system:") else Kind.PERSON


def account_of(user: str) -> tuple[str, str] | None:
    """Namespace and name of a service account; None for any other user."""
    if not user.startswith(ACCOUNT_PREFIX):
        return None
    namespace, _, name = user.removeprefix(ACCOUNT_PREFIX).partition(":")
    return (namespace, name) if namespace and name and ":" not in name else None


def is_user(name: str) -> bool:
    """Whether a user may have this name."""
    is_account = account_of(name) is not None or not name.startswith(ACCOUNT_PREFIX)
    return bool(name) and "*" not in name and is_account


def account(namespace: str, name: str) -> str:
    """The name of the user that a service account is."""
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"


def groups_of(user: str | None) -> tuple[str, ...]:
    """The groups that a user has for certain."""
    kind = kind_of(user)
    if kind is Kind.NOBODY:
        return ()
    if kind is Kind.ANONYMOUS:
        return (UNAUTHENTICATED,)
    if kind is Kind.ACCOUNT:
        found = account_of(user or "")
        return (ACCOUNTS, f"{ACCOUNTS}:{found[0] if found else ''}", AUTHENTICATED)
    if kind is Kind.NODE:
        return (NODES, AUTHENTICATED)
    if kind is Kind.BOOTSTRAP:
        return (BOOTSTRAPPERS, AUTHENTICATED)
    return (AUTHENTICATED,)


def may_have(user: str | None, group: str) -> bool:
    """Whether a user may be in a group."""
    kind = kind_of(user)
    if group in groups_of(user):
        return True
    if kind in (Kind.NOBODY, Kind.ANONYMOUS, Kind.ACCOUNT):
        return False
    if group in (UNAUTHENTICATED, ACCOUNTS, NODES) or group.startswith(ACCOUNTS + ":"):
        return False
    if group == BOOTSTRAPPERS or group.startswith(BOOTSTRAPPERS + ":"):
        return kind in (Kind.NODE, Kind.BOOTSTRAP)
    return True


class PathTracker:
    """Reads paths letter by letter, and accepts those that are not of resources.

    The rules are those of :func:`filter_engine.request.target_of`. A state has the first part of the path as
    far as it may become ``api`` or ``apis`` (else ``-``), and how many parts and how many more slashes
    followed it.
    """

    start: Any = None
    letters = frozenset("/apis")

    def step(self, state: Any, letter: str) -> Any:
        """The state after one more letter; None if no path goes on so."""
        if state is None:
            return ("", 0, 0) if letter == "/" else None
        first, parts, slashes = state
        if first == "-":
            return state
        if letter == "/":
            return (first, parts, min(slashes + 1, 3)) if first else state
        if slashes:
            # Slashes at the end of a path do not count, and so they count only now.
            return ("-", 0, 0) if first not in ("api", "apis") else (first, min(parts + slashes, 3), 0)
        if parts:
            return state
        return (first + letter, 0, 0) if "apis".startswith(first + letter) else ("-", 0, 0)

    def accepts(self, state: Any) -> bool:
        """Whether what was read is a path, and not that of a resource."""
        if state is None:
            return False
        first, parts, _ = state
        return not (first == "api" and parts >= 2) and not (first == "apis" and parts >= 3)


def is_other_path(path: str) -> bool:
    """Whether a path is one of a request that is not for a resource."""
    return (
        path.startswith("/") and target_of(path) is None and not _LISTS_OF_NOTHING.fullmatch(path.strip("/"))
    )


# kube-apiserver answers these with an error, and records nothing.
_LISTS_OF_NOTHING = re.compile(r"api/[^/]*/(watch|proxy)|apis/[^/]*/[^/]*/(watch|proxy)")
