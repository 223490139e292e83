"""What tests of the manifests in conf/kubernetes share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tests.support import ROOT

DOCUMENTATION = (ROOT / "docs/kubernetes.md").read_text()
# The oldest Kubernetes with these schemas, and the newest.
VERSIONS = ["1.25", "1.37"]
# What no container may gain, whoever it runs as.
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

Manifest = dict[str, Any]
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def probe_command(path: str) -> Manifest:
    """A probe on the loopback address, which nobody outside of the pod reaches."""
    return {"command": ["python3", "-m", "kube_audit_filter.service.probe", f"127.0.0.1:9118{path}"]}


def allowed_peers(policy: Manifest, template: Manifest) -> dict[int, list[Manifest]]:
    """Who may connect to the pods of a template, by port; everybody else may not."""
    spec = policy["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert spec["policyTypes"] == ["Ingress"]
    assert all(rule["from"] and rule["ports"] for rule in spec["ingress"])  # empty: everybody, everywhere
    assert all(port["protocol"] == "TCP" for rule in spec["ingress"] for port in rule["ports"])
    return {port["port"]: rule["from"] for rule in spec["ingress"] for port in rule["ports"]}


def read_manifests(paths: Iterable[Path]) -> list[Manifest]:
    return [manifest for path in paths for manifest in yaml.safe_load_all(path.read_text()) if manifest]


def the_only(manifests: list[Manifest], kind: str) -> Manifest:
    """The manifest of a kind of which there is just one."""
    (manifest,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return manifest


def volume_of(container: Manifest, path: str) -> str:
    """The volume that holds a path in a container."""
    (name,) = (
        mount["name"]
        for mount in container["volumeMounts"]
        if PurePosixPath(path).is_relative_to(mount["mountPath"])
    )
    return name


def built_images(target: str = "") -> set[str]:
    """The images that the documentation says how to build, all of one target, and to push."""
    option = f" --target {target}" if target else ""
    built = set(re.findall(rf"docker build -f \S+{option} -t (\S+) \.", DOCUMENTATION))
    assert built <= set(re.findall(r"docker push (\S+)", DOCUMENTATION))
    return built
