"""Kubernetes objects as audit events carry them: requestObject and responseObject."""

from __future__ import annotations

from random import Random
from typing import Any

Event = dict[str, Any]


def manifest(random: Random, kind: str, namespace: str, name: str, spec: Event) -> Event:
    """An object with the metadata that a real one has, managed fields above all."""
    owned: Event = {".": {}, "f:name": {}, "f:value": {}, "f:protocol": {}, "f:port": {}, "f:targetPort": {}}
    fields: Event = {f"f:{key}": {'k:{"name":"web"}': owned} for key in spec}
    metadata: Event = {
        "f:annotations": {".": {}, "f:checksum/config": {}},
        "f:labels": {".": {}, "f:app.kubernetes.io/name": {}},
    }
    return {
        "kind": kind,
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{random.getrandbits(64):016x}",
            "resourceVersion": str(random.randrange(10**6, 10**8)),
            "creationTimestamp": None,
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop"},
            "annotations": {"checksum/config": f"{random.getrandbits(128):032x}"},
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": "2026-11-01T06:00:00Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:metadata": metadata, "f:spec": fields},
                }
                for manager in ("kubectl-client-side-apply", "kube-controller-manager", "kubelet")
            ],
        },
        "spec": spec,
    }


def deployment(random: Random, namespace: str, name: str) -> Event:
    containers = [
        {
            "name": f"{name}-{number}",
            "image": f"registry.example.com/{name}:{random.randrange(100)}",
            "env": [
                {"name": f"SETTING_{i}", "value": "x" * random.randrange(40)}
                for i in range(random.randrange(30))
            ],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {
                "httpGet": {"path": "/ready", "port": 8080},
                "periodSeconds": 10,
                "timeoutSeconds": 1,
            },
            "volumeMounts": [
                {"name": volume, "mountPath": f"/etc/{volume}", "readOnly": True}
                for volume in ("config", "certificates", "kube-api-access")
            ],
            "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False},
        }
        for number in range(1 + int(random.expovariate(1)))
    ]
    pod = {
        "containers": containers,
        "volumes": [
            {"name": name, "configMap": {"name": name, "defaultMode": 420}}
            for name in ("config", "certificates")
        ],
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for taint in ("not-ready", "unreachable")
        ],
        "serviceAccountName": name,
        "schedulerName": "default-scheduler",
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
    }
    spec = {
        "replicas": random.randrange(1, 9),
        "template": {"spec": pod},
        "strategy": {"type": "RollingUpdate"},
    }
    return manifest(random, "Deployment", namespace, name, spec)


def status(random: Random, kind: str, namespace: str, name: str) -> tuple[Event, Event]:
    """A patch of a status, and the object that it makes."""
    conditions = [
        {
            "type": kind,
            "status": "True",
            "lastHeartbeatTime": "2026-11-01T06:00:00Z",
            "reason": f"{kind}IsFine",
        }
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    whole = manifest(random, kind, namespace, name, {"podCIDR": "10.244.0.0/24"})
    return {"status": {"conditions": conditions}}, {
        **whole,
        "status": {"conditions": conditions, "phase": "Running"},
    }
