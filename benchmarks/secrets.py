"""Events that hold secrets, exactly one in five of a log: what ``--redact builtin:secrets`` looks for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from benchmarks.objects import Event

EVERY = 5


def with_secrets(event: Event, number: int) -> Event:
    """The event, or in its place one that holds secrets, of one kind after the other."""
    if number % EVERY:
        return dict(_without_settings(event))
    make = _EVENTS[number // EVERY % len(_EVENTS)]
    event = {name: value for name, value in event.items() if name not in ("requestObject", "responseObject")}
    return {**event, "level": "RequestResponse", "stage": "ResponseComplete", **make(number)}


def _without_settings(value: Any) -> Any:
    """The same without the environment of containers, where the generated pods have dozens of settings."""
    if isinstance(value, dict):
        return {key: _without_settings(each) for key, each in value.items() if key != "env"}
    if isinstance(value, list):
        return [_without_settings(each) for each in value]
    return value


def _read_secret(number: int) -> Event:
    return {
        "verb": "get",
        "requestURI": f"/api/v1/namespaces/shop/secrets/db-{number}",
        "objectRef": _reference("", "secrets", f"db-{number}"),
        "responseStatus": {"metadata": {}, "code": 200},
        "responseObject": {
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": _metadata(f"db-{number}"),
            "data": {key: _secret(number, key) for key in ("username", "password", "ca.crt", "tls.key")},
            "type": "Opaque",
        },
    }


def _apply_config_map(number: int) -> Event:
    data = {"application.yaml": f"database: postgres://shop:{_secret(number, 'dsn')}@db/shop\n" * 4}
    applied = {"apiVersion": "v1", "data": data, "kind": "ConfigMap", "metadata": {"name": "shop"}}
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied) + "\n"}
    config_map = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {**_metadata("shop"), "annotations": annotations},
        "data": data,
    }
    return {
        "verb": "update",
        "requestURI": "/api/v1/namespaces/shop/configmaps/shop",
        "objectRef": _reference("", "configmaps", "shop"),
        "responseStatus": {"metadata": {}, "code": 200},
        "requestObject": config_map,
        "responseObject": config_map,
    }


def _exec(number: int) -> Event:
    query = (
        f"command=psql&command=--password%3D{_secret(number, 'psql')[:20]}&container=db&stdin=true&tty=true"
    )
    return {
        "verb": "create",
        "requestURI": f"/api/v1/namespaces/shop/pods/db-0/exec?{query}",
        "objectRef": {**_reference("", "pods", "db-0"), "subresource": "exec"},
        "responseStatus": {"metadata": {}, "code": 101},
    }


def _patch_deployment(number: int) -> Event:
    env = [{"name": f"SETTING_{index}", "value": _secret(number, str(index))} for index in range(6)]
    container = {"name": "shop", "image": "registry.example/shop:1.42", "env": env, "resources": {}}
    spec = {
        "replicas": 3,
        "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [container]}},
    }
    return {
        "verb": "patch",
        "requestURI": "/apis/apps/v1/namespaces/shop/deployments/shop?fieldManager=helm",
        "objectRef": _reference("apps", "deployments", "shop"),
        "responseStatus": {"metadata": {}, "code": 200},
        "requestObject": {"spec": spec},
        "responseObject": {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": _metadata("shop"),
            "spec": spec,
            "status": {"replicas": 3, "readyReplicas": 3},
        },
    }


def _create_token(number: int) -> Event:
    return {
        "verb": "create",
        "requestURI": "/api/v1/namespaces/shop/serviceaccounts/shop/token",
        "objectRef": {**_reference("", "serviceaccounts", "shop"), "subresource": "token"},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestObject": {"kind": "TokenRequest", "spec": {"audiences": ["vault"], "expirationSeconds": 600}},
        "responseObject": {"kind": "TokenRequest", "status": {"token": _secret(number, "token") * 12}},
    }


_EVENTS: tuple[Callable[[int], Event], ...] = (
    _read_secret,
    _apply_config_map,
    _exec,
    _patch_deployment,
    _create_token,
)


def _reference(group: str, resource: str, name: str) -> dict[str, Any]:
    return {"resource": resource, "namespace": "shop", "name": name, "apiGroup": group, "apiVersion": "v1"}


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "shop", "uid": "9c2ab1de-31d5-4b2c-a18f-6a2c8e1f9d77"}


def _secret(number: int, key: str) -> str:
    return base64.b64encode(hashlib.sha256(f"{number} {key}".encode()).digest()).decode()
