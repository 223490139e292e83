"""How long the exact analyses of policies take: which rules can decide, and how two policies differ.

python -m benchmarks.analysis
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

from filter_engine import Policy
from filter_engine.analysis.compare import compare
from filter_engine.analysis.reachability import reachability

SIZES = (50, 500)
ROUNDS = 5
_VERBS = (
    ["get"], ["list", "watch"], ["get", "list", "watch"], ["create", "update", "patch", "delete"], ["update"],
)  # fmt: skip
_RESOURCES: tuple[tuple[str, list[str]], ...] = (
    ("", ["pods", "pods/log", "pods/status"]), ("", ["secrets", "configmaps"]),
    ("", ["endpoints", "services"]), ("", ["nodes", "nodes/status"]), ("", ["events"]),
    ("events.k8s.io", ["events"]),
    ("apps", ["deployments", "replicasets", "deployments/scale"]), ("coordination.k8s.io", ["leases"]),
    ("rbac.authorization.k8s.io", ["roles", "rolebindings"]), ("batch", ["jobs", "cronjobs"]),
    ("metrics.k8s.io", []), ("authentication.k8s.io", ["tokenreviews"]),
)  # fmt: skip
_LEVELS = ("None", "None", "None", "Metadata", "Request", "RequestResponse")


def rules(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rules as people write them: noise of certain users, resources at their levels, a catch-all."""
    random = Random(seed)
    found: list[dict[str, Any]] = []
    for number in range(count - 1):
        rule: dict[str, Any] = {"level": random.choice(_LEVELS)}
        who = random.random()
        if who < 0.5:
            namespace = random.choice(["kube-system", "monitoring", f"team-{number % 40}"])
            rule["users"] = [f"system:serviceaccount:{namespace}:operator-{number}"]
        elif who < 0.7:
            rule["userGroups"] = [
                random.choice(["system:nodes", f"system:serviceaccounts:team-{number % 40}"])
            ]
        if random.random() < 0.1:
            rule["nonResourceURLs"] = [f"/service-{number}*", f"/debug/{number}"]
        else:
            group, resources = random.choice(_RESOURCES)
            own = {"group": f"group-{number % 60}.example.com", "resources": [f"things-{number}"]}
            element = own if random.random() < 0.4 else {"group": group, "resources": resources}
            if random.random() < 0.1 and element["resources"]:
                element = element | {"resourceNames": [f"lock-{number}"]}
            rule["resources"] = [element]
            if random.random() < 0.3:
                rule["namespaces"] = [random.choice(["kube-system", f"team-{number % 40}"])]
        if random.random() < 0.7:
            rule["verbs"] = random.choice(_VERBS)
        found.append(rule)
    # People put the noise of single users first, and what is for everybody last.
    found.sort(key=lambda rule: ("users" not in rule, "userGroups" not in rule))
    return [*found, {"level": "Metadata"}]


def policy(of: list[dict[str, Any]]) -> Policy:
    """A policy of rules."""
    return Policy.from_dict(
        {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": of}
    )


def edited(of: list[dict[str, Any]], seed: int = 1) -> list[dict[str, Any]]:
    """The rules after a change as in a pull request: two new rules, two gone, three at another level."""
    random = Random(seed)
    changed = [dict(rule) for rule in of]
    for rule in random.sample(changed, 3):
        rule["level"] = "Request" if rule["level"] != "Request" else "None"
    for _ in range(2):
        del changed[random.randrange(len(changed) - 1)]
    return [*rules(3, seed)[:2], *changed]


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of a call, the median of some."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    """Measure, and print a table."""
    print(f"{'rules':>6} {'reachability':>10} {'edited':>10} {'unrelated':>10} {'differences':>12}")
    for size in SIZES:
        old = policy(rules(size))
        new, other = policy(edited(rules(size))), policy(rules(size, seed=7))
        reach = seconds(lambda old=old: reachability(old))  # type: ignore[misc]
        edit = seconds(lambda old=old, new=new: compare(old, new))  # type: ignore[misc]
        start = time.process_time()
        found = compare(old, other)
        unrelated = time.process_time() - start
        print(
            f"{size:6} {reach * 1000:7.0f} ms {edit * 1000:7.0f} ms {unrelated * 1000:7.0f} ms"
            f" {len(found.differences):12}"
        )


if __name__ == "__main__":
    main()
