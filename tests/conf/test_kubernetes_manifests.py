"""conf/kubernetes: what a cluster accepts, and what only the parts together can get wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

import kubernetes_validate
import pytest

from filter_engine import Policy
from plugin.cli.exec_command import ExecSettings, exec_command
from tests.support import kubernetes
from tests.support.kubernetes import (
    HARDENED,
    PROMETHEUS,
    ROOT,
    VERSIONS,
    Manifest,
    allowed_peers,
    built_images,
    probe_command,
    read_manifests,
    the_only,
)

FLUENTD = (ROOT / "conf/fluentd/exec_filter.conf").read_text()
# As "kubectl apply -f" takes a directory: without those in it.
MANIFESTS = read_manifests(sorted((ROOT / "conf/kubernetes").glob("*.yaml")))
only = partial(the_only, MANIFESTS)

POD = only("DaemonSet")["spec"]["template"]
SPEC = POD["spec"]
(FLUENTD_CONTAINER,) = SPEC["containers"]
CONTAINERS = [*SPEC["initContainers"], FLUENTD_CONTAINER]
VOLUMES = {volume["name"]: volume for volume in SPEC["volumes"]}
MOUNTS = {mount["name"]: mount for mount in FLUENTD_CONTAINER["volumeMounts"]}
ENVIRONMENT = {variable["name"]: variable["value"] for variable in FLUENTD_CONTAINER["env"]}
EVERY_CONTAINER = pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container["name"])
volume_of = partial(kubernetes.volume_of, FLUENTD_CONTAINER)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_a_cluster_accepts_every_manifest(manifest: Manifest, version: str) -> None:
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_everything_is_in_one_namespace_which_is_created_first() -> None:
    namespace, *others = MANIFESTS
    assert namespace["kind"] == "Namespace"
    assert {other["metadata"]["namespace"] for other in others} == {namespace["metadata"]["name"]}
    # A host path is refused at the levels baseline and restricted.
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_names_refer_to_what_there_is() -> None:
    selector = only("DaemonSet")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= POD["metadata"]["labels"].items()
    assert SPEC["serviceAccountName"] == only("ServiceAccount")["metadata"]["name"]
    for container in CONTAINERS:
        assert {mount["name"] for mount in container["volumeMounts"]} <= VOLUMES.keys()
    assert MOUNTS.keys() == VOLUMES.keys()


def test_the_image_is_the_one_that_the_documentation_builds() -> None:
    assert {container["image"] for container in CONTAINERS} == built_images()


@EVERY_CONTAINER
def test_a_container_can_not_gain_anything(container: Manifest) -> None:
    assert container["securityContext"] == HARDENED
    assert {"requests", "limits"} <= container["resources"].keys()


def test_the_pod_shares_nothing_with_the_node_but_two_directories() -> None:
    assert SPEC["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & SPEC.keys()
    host_paths = {name for name, volume in VOLUMES.items() if "hostPath" in volume}
    assert host_paths == {volume_of(ENVIRONMENT["AUDIT_LOG"]), volume_of(ENVIRONMENT["AUDIT_STATE_DIR"])}


def test_no_token_is_mounted() -> None:
    assert only("ServiceAccount")["automountServiceAccountToken"] is False
    assert SPEC["automountServiceAccountToken"] is False


def test_it_runs_where_the_audit_log_is() -> None:
    (term,) = SPEC["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
    ]
    assert SPEC["tolerations"] == [{"operator": "Exists"}]


def test_the_audit_log_is_read_only_and_followed_when_it_is_rotated() -> None:
    name = volume_of(ENVIRONMENT["AUDIT_LOG"])
    assert MOUNTS[name]["readOnly"] is True
    assert MOUNTS[name]["mountPath"] == str(PurePosixPath(ENVIRONMENT["AUDIT_LOG"]).parent)
    assert VOLUMES[name]["hostPath"]["type"] == "Directory"


def test_a_change_of_the_policy_reaches_the_filter() -> None:
    path = PurePosixPath(ENVIRONMENT["AUDIT_POLICY"])
    name = volume_of(str(path))
    assert MOUNTS[name]["mountPath"] == str(path.parent)
    assert not {"subPath", "subPathExpr"} & MOUNTS[name].keys()
    assert VOLUMES[name]["configMap"] == {"name": only("ConfigMap")["metadata"]["name"]}
    assert only("ConfigMap")["data"].keys() == {path.name}


def test_the_policy_is_the_documented_one() -> None:
    (text,) = only("ConfigMap")["data"].values()
    assert text == (ROOT / "conf/policies/minimal.yaml").read_text()
    assert Policy.from_yaml(text).rules


def test_the_environment_is_what_the_configuration_reads() -> None:
    settings = "\n".join(line for line in FLUENTD.splitlines() if not line.lstrip().startswith("# "))
    read = {ruby or shell for ruby, shell in re.findall(r"ENV\['(\w+)'\]|\$\{?([A-Z]\w+)", settings)}
    assert ENVIRONMENT.keys() - {"TMPDIR"} == read


def written_paths() -> Iterator[str]:
    yield ENVIRONMENT["AUDIT_STATE_DIR"]
    yield ENVIRONMENT["TMPDIR"]
    if not ENVIRONMENT["AUDIT_FILTER_LOG"].startswith("/proc/"):
        yield ENVIRONMENT["AUDIT_FILTER_LOG"]


def test_what_is_written_is_on_a_volume() -> None:
    for path in written_paths():
        assert not MOUNTS[volume_of(path)].get("readOnly")


def test_the_temporary_directory_is_not_for_everybody() -> None:
    # Ruby refuses an emptyDir itself: everybody may write to it, and it has no sticky bit.
    (init,) = SPEC["initContainers"]
    assert init["command"] == ["mkdir", "-p", ENVIRONMENT["TMPDIR"]]
    (mount,) = init["volumeMounts"]
    assert mount == MOUNTS[volume_of(ENVIRONMENT["TMPDIR"])]
    assert mount["mountPath"] != ENVIRONMENT["TMPDIR"]


def test_the_first_process_is_the_containers_own() -> None:
    assert ENVIRONMENT["AUDIT_FILTER_LOG"] == "/proc/1/fd/2"
    assert not SPEC.get("shareProcessNamespace")


def filter_options() -> ExecSettings:
    options = shlex.split(ENVIRONMENT["AUDIT_FILTER_OPTIONS"])
    arguments = ["--policy", ENVIRONMENT["AUDIT_POLICY"], *options]
    settings = exec_command.settings(exec_command.make_context("kube-audit-filter exec", arguments))
    assert isinstance(settings, ExecSettings)
    return settings


def test_the_command_line_takes_the_options() -> None:
    assert [*map(str, filter_options().metrics.listen)] == ["0.0.0.0:9117", "127.0.0.1:9118"]


def test_the_probe_and_prometheus_ask_where_the_filter_listens() -> None:
    (port,) = FLUENTD_CONTAINER["ports"]
    assert f"--metrics-listen 0.0.0.0:{port['containerPort']}" in ENVIRONMENT["AUDIT_FILTER_OPTIONS"]
    annotations = POD["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert annotations["prometheus.io/path"] == "/metrics"
    assert FLUENTD_CONTAINER["readinessProbe"]["exec"] == probe_command("/readyz")


def test_nobody_but_prometheus_can_connect() -> None:
    (port,) = FLUENTD_CONTAINER["ports"]
    assert allowed_peers(only("NetworkPolicy"), POD) == {port["containerPort"]: [PROMETHEUS]}


def test_fluentd_is_not_restarted_because_the_filter_waits_or_is_started_again() -> None:
    probe = FLUENTD_CONTAINER["livenessProbe"]
    assert probe["exec"] == probe_command("/healthz")
    assert probe["periodSeconds"] * probe["failureThreshold"] == 300


def test_a_stop_has_more_time_than_the_filter_takes() -> None:
    assert SPEC["terminationGracePeriodSeconds"] > 5 * filter_options().shutdown_grace


def test_two_pods_never_share_the_state() -> None:
    strategy = only("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
