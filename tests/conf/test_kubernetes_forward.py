"""conf/kubernetes/sidecar and service: what a cluster accepts, and what their containers do, run here.

A container is run with the arguments in its manifest; only paths, ports and hosts are other ones.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from signal import Signals
from typing import Any

import kubernetes_validate
import msgpack
import pytest
import yaml

from filter_engine import Policy
from plugin.cli.forward_command import forward_command
from plugin.cli.forward_settings import ForwardSettings
from plugin.forward.protocol.handshake import HandshakeError, UpstreamSecurity
from tests.support.agents import (
    Agent,
    AuditLog,
    entries_of,
    fluent_bit_program,
    free_port,
    kept,
    times,
    until,
)
from tests.support.forward_peers import Client, Proxy, Receiver, entry, packed
from tests.support.kubernetes import (
    DOCUMENTATION,
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
    volume_of,
)
from tests.support.processes import DEADLINE, wait_until

DIRECTORY = ROOT / "conf/kubernetes"
SIDECAR_FILE, SERVICE_FILE = (DIRECTORY / name / "kube-audit-filter.yaml" for name in ("sidecar", "service"))
SIDECAR, SERVICE = read_manifests([SIDECAR_FILE]), read_manifests([SERVICE_FILE])
EACH = {"sidecar": SIDECAR, "service": SERVICE}
EACH_FILE = pytest.mark.parametrize("manifests", EACH.values(), ids=EACH)


def workload(manifests: list[Manifest]) -> Manifest:
    (manifest,) = (manifest for manifest in manifests if manifest["kind"] in ("DaemonSet", "Deployment"))
    return manifest


def pod(manifests: list[Manifest]) -> Manifest:
    """The pod's specification."""
    return workload(manifests)["spec"]["template"]["spec"]


def container(manifests: list[Manifest], name: str = "filter") -> Manifest:
    (found,) = (one for one in pod(manifests)["containers"] if one["name"] == name)
    return found


FLUENT_BIT = container(SIDECAR, "fluent-bit")


def config_map_of(manifests: list[Manifest], volume: str) -> dict[str, str]:
    """The files on a volume."""
    (source,) = (one["configMap"] for one in pod(manifests)["volumes"] if one["name"] == volume)
    (found,) = (
        one["data"]
        for one in manifests
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == source["name"]
    )
    return found


def arguments(manifests: list[Manifest]) -> dict[str, str | None]:
    """The options of the proxy's container, each of which is there once, but one; its last value."""
    command, *options = container(manifests)["args"]
    assert command == "forward"
    pairs = [option.partition("=") for option in options]
    values = {name: value if equals else None for name, equals, value in pairs}
    repeated = Counter(name for name, _, _ in pairs) - Counter(list(values))
    assert repeated == {"--metrics-listen": 1}
    return values


def parsed(manifests: list[Manifest]) -> ForwardSettings:
    """What the command makes of its options. Files are not looked for."""
    files = {"--shared-key-file": str(SERVICE_FILE)}
    pairs = [option.partition("=") for option in container(manifests)["args"][1:]]
    words = [f"{name}{equals}{files.get(name, value)}" for name, equals, value in pairs]
    settings = forward_command.settings(forward_command.make_context("forward", words))
    assert isinstance(settings, ForwardSettings)
    return settings


# Of both.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(manifest, id=f"{name}-{manifest['kind']}")
        for name, manifests in EACH.items()
        for manifest in manifests
    ],
)
def test_a_cluster_accepts_every_manifest(manifest: Manifest, version: str) -> None:
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_they_are_not_applied_with_fluentd() -> None:
    # "kubectl apply -f" with a directory takes the files in it, and none below.
    assert {SIDECAR_FILE.parent.parent, SERVICE_FILE.parent.parent} == {DIRECTORY}


@EACH_FILE
def test_everything_is_in_one_namespace_which_is_created_first(manifests: list[Manifest]) -> None:
    namespace, *others = manifests
    assert namespace["kind"] == "Namespace"
    assert {other["metadata"]["namespace"] for other in others} == {namespace["metadata"]["name"]}


@EACH_FILE
def test_names_refer_to_what_there_is(manifests: list[Manifest]) -> None:
    spec = workload(manifests)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert pod(manifests)["serviceAccountName"] == the_only(manifests, "ServiceAccount")["metadata"]["name"]
    mounted = [mount["name"] for one in pod(manifests)["containers"] for mount in one["volumeMounts"]]
    assert sorted(mounted) == sorted(volume["name"] for volume in pod(manifests)["volumes"])
    for one in pod(manifests)["containers"]:
        ports = {port["name"] for port in one["ports"]}
        probes = [one[probe] for probe in ("readinessProbe", "livenessProbe")]
        assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports


@EACH_FILE
def test_the_image_is_the_one_that_the_documentation_builds(manifests: list[Manifest]) -> None:
    assert {container(manifests)["image"]} == built_images("filter")


@EACH_FILE
def test_a_container_can_not_gain_anything(manifests: list[Manifest]) -> None:
    assert pod(manifests)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(manifests).keys()
    for one in pod(manifests)["containers"]:
        assert HARDENED.items() <= one["securityContext"].items()
        assert {"requests", "limits"} <= one["resources"].keys()
        assert not any("hostPort" in port for port in one["ports"])


@EACH_FILE
def test_the_filter_is_an_ordinary_user(manifests: list[Manifest]) -> None:
    context = {**pod(manifests)["securityContext"], **container(manifests)["securityContext"]}
    assert context["runAsNonRoot"] is True
    user = re.findall(r"USER (\d+):(\d+)", (ROOT / "conf/container/Dockerfile").read_text())[0]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


@EACH_FILE
def test_no_token_is_mounted(manifests: list[Manifest]) -> None:
    assert the_only(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod(manifests)["automountServiceAccountToken"] is False


@EACH_FILE
def test_the_policy_is_the_documented_one_and_a_change_reaches_the_filter(manifests: list[Manifest]) -> None:
    path = PurePosixPath(arguments(manifests)["--policy"] or "")
    volume = volume_of(container(manifests), str(path))
    (mount,) = (one for one in container(manifests)["volumeMounts"] if one["name"] == volume)
    assert mount["mountPath"] == str(path.parent)
    assert not {"subPath", "subPathExpr"} & mount.keys()
    files = config_map_of(manifests, volume)
    assert files == {path.name: (ROOT / "conf/policies/minimal.yaml").read_text()}
    assert Policy.from_yaml(files[path.name]).rules
    assert parsed(manifests).policy.wait


@EACH_FILE
def test_the_probes_and_prometheus_ask_where_the_filter_answers(manifests: list[Manifest]) -> None:
    found = container(manifests)
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    assert [*map(str, parsed(manifests).metrics.listen)] == [
        f"0.0.0.0:{ports['metrics']}",
        "127.0.0.1:9118",
    ]
    assert found["readinessProbe"]["exec"] == probe_command("/readyz")
    assert found["livenessProbe"]["exec"] == probe_command("/healthz")
    annotations = workload(manifests)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    assert annotations["prometheus.io/path"] == "/metrics"


@EACH_FILE
def test_a_stop_has_more_time_than_the_filter_takes(manifests: list[Manifest]) -> None:
    # The filter is only a part of the stop: Fluent Bit has its 5 seconds of "grace", and waits 10 for an
    # acknowledgement.
    assert pod(manifests)["terminationGracePeriodSeconds"] >= 10 + parsed(manifests).shutdown_grace


def test_who_may_connect_to_the_sidecars_pod() -> None:
    # Fluent Bit's port is open for the kubelet, which has no other way to ask it: the image has no Python.
    expected = {9117: [PROMETHEUS], FLUENT_BIT["ports"][0]["containerPort"]: [PROMETHEUS]}
    template = workload(SIDECAR)["spec"]["template"]
    assert allowed_peers(the_only(SIDECAR, "NetworkPolicy"), template) == expected


def test_who_may_connect_to_the_services_pods() -> None:
    agents = {"namespaceSelector": {"matchLabels": {"kube-audit-filter/agents": "true"}}}
    template = workload(SERVICE)["spec"]["template"]
    policy = the_only(SERVICE, "NetworkPolicy")
    assert allowed_peers(policy, template) == {24224: [agents], 9117: [PROMETHEUS]}
    for text in (SERVICE_FILE.read_text(), DOCUMENTATION):
        assert "kubectl label namespace logging kube-audit-filter/agents=true" in text


def test_the_line_for_agents_with_addresses_is_one() -> None:
    text, count = re.subn(
        r"^( +)# (- ipBlock:)\n +# +(cidr: .*)$",
        r"\1\2\n\1    \3",
        SERVICE_FILE.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1
    policy = the_only([one for one in yaml.safe_load_all(text) if one], "NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"][1] == {"ipBlock": {"cidr": "10.0.0.0/16"}}
    kubernetes_validate.validate(policy, VERSIONS[-1], strict=True)


# Of the sidecar.


def fluent_bit_file() -> str:
    (text,) = config_map_of(SIDECAR, volume_of(FLUENT_BIT, FLUENT_BIT["args"][1])).values()
    return text


def test_fluent_bit_is_the_official_image_and_finds_its_configuration() -> None:
    assert re.fullmatch(r"cr\.fluentbit\.io/fluent/fluent-bit:\d+\.\d+\.\d+", FLUENT_BIT["image"])
    option, path = FLUENT_BIT["args"]
    volume = volume_of(FLUENT_BIT, path)
    assert option == "-c"
    assert config_map_of(SIDECAR, volume).keys() == {PurePosixPath(path).name}
    (mount,) = (one for one in FLUENT_BIT["volumeMounts"] if one["name"] == volume)
    assert mount["mountPath"] == str(PurePosixPath(path).parent)


def test_fluent_bit_has_the_configuration_of_conf_and_remembers_on_disk() -> None:
    documented = (ROOT / "conf/fluent-bit/forward-loop.yaml").read_text()
    documented, count = re.subn(r"^( +)# (db|storage\.\w+):", r"\1\2:", documented, flags=re.MULTILINE)
    assert count == 4
    variables = yaml.safe_load(documented)["env"]
    (log,) = (variable["name"] for variable in FLUENT_BIT["env"])
    for name in variables.keys() - {log}:  # that one is for the pod to say
        documented = documented.replace(f"${{{name}}}", str(variables[name]))
    expected, found = yaml.safe_load(documented), yaml.safe_load(fluent_bit_file())
    del expected["env"]
    names = [name for name in found["service"] if name.startswith(("http", "health"))]
    http = {name: found["service"].pop(name) for name in names}
    assert found == expected
    (port,) = (port["containerPort"] for port in FLUENT_BIT["ports"])
    assert http == {"http_server": True, "http_listen": "0.0.0.0", "http_port": port, "health_check": True}


def test_fluent_bit_and_the_filter_find_each_other_and_nobody_else_them() -> None:
    pipeline = yaml.safe_load(fluent_bit_file())["pipeline"]
    (back,) = (one for one in pipeline["inputs"] if one["name"] == "forward")
    (there,) = (one for one in pipeline["outputs"] if one["name"] == "forward")
    assert {
        "--listen": f"{there['host']}:{there['port']}",
        "--upstream": f"{back['listen']}:{back['port']}",
    }.items() <= arguments(SIDECAR).items()
    assert {address.host for address in parsed(SIDECAR).listen.addresses} == {"127.0.0.1"}
    assert back["listen"] == "127.0.0.1"


def test_what_fluent_bit_writes_is_on_the_node_and_the_audit_log_is_read_only() -> None:
    spec = pod(SIDECAR)
    mounts = {mount["name"]: mount for mount in FLUENT_BIT["volumeMounts"]}
    host_paths = {volume["name"]: volume["hostPath"] for volume in spec["volumes"] if "hostPath" in volume}
    configuration = yaml.safe_load(fluent_bit_file())
    (tail,) = (one for one in configuration["pipeline"]["inputs"] if one["name"] == "tail")
    (state,) = {
        volume_of(FLUENT_BIT, path) for path in (tail["db"], configuration["service"]["storage.path"])
    }
    ((name, log),) = ((variable["name"], variable["value"]) for variable in FLUENT_BIT["env"])
    assert {state, volume_of(FLUENT_BIT, log)} == host_paths.keys()
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {state}
    assert tail["path"] == f"${{{name}}}"
    assert mounts[volume_of(FLUENT_BIT, log)]["mountPath"] == str(PurePosixPath(log).parent)
    # Without any capability, only its owner may read the log.
    assert FLUENT_BIT["securityContext"]["runAsUser"] == 0
    assert not host_paths.keys() & {mount["name"] for mount in container(SIDECAR)["volumeMounts"]}


def test_the_sidecar_takes_the_place_of_fluentd() -> None:
    fluentd = read_manifests(sorted(DIRECTORY.glob("*.yaml")))
    for kind in ("Namespace", "ServiceAccount"):
        assert the_only(SIDECAR, kind) == the_only(fluentd, kind)
    assert the_only(fluentd, "ConfigMap") in SIDECAR
    (one, other) = (the_only(manifests, "DaemonSet") for manifests in (SIDECAR, fluentd))
    assert one["metadata"] == other["metadata"]
    assert {**one["spec"], "template": None} == {**other["spec"], "template": None}
    for field in ("affinity", "tolerations"):
        assert pod(SIDECAR)[field] == pod(fluentd)[field]


# Of the service.


def test_the_namespace_of_the_service_allows_nothing_that_it_does_not_need() -> None:
    assert SERVICE[0]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    # That level: no more than these kinds of volumes, and see above.
    kinds = {kind for volume in pod(SERVICE)["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"configMap", "secret"}


def test_the_service_leads_to_where_the_filter_listens() -> None:
    service = the_only(SERVICE, "Service")["spec"]
    labels = workload(SERVICE)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(SERVICE)["ports"]}
    ((port,), (address,)) = service["ports"], parsed(SERVICE).listen.addresses
    assert (address.host, address.port) == ("0.0.0.0", ports[port["targetPort"]])
    name, namespace = (the_only(SERVICE, "Service")["metadata"][field] for field in ("name", "namespace"))
    assert f"{name}.{namespace}.svc" in DOCUMENTATION


@pytest.mark.parametrize("text", [SERVICE_FILE.read_text(), DOCUMENTATION], ids=["comment", "documentation"])
def test_the_key_is_not_in_the_manifest_but_created_as_it_says(text: str) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in SERVICE}
    command = re.sub(r"\n#?", " ", text)
    found = re.search(r"kubectl -n (\S+) +create secret generic (\S+) --from-file=(\S+)=/dev/stdin", command)
    path = PurePosixPath(arguments(SERVICE)["--shared-key-file"] or "")
    (volume,) = (
        one for one in pod(SERVICE)["volumes"] if one["name"] == volume_of(container(SERVICE), str(path))
    )
    assert found.groups() == (SERVICE[0]["metadata"]["name"], volume["secret"]["secretName"], path.name)
    # Nobody else on the node may read it, and this user may by the group.
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod(SERVICE)["securityContext"]["fsGroup"] == pod(SERVICE)["securityContext"]["runAsGroup"]


def test_pods_are_on_different_nodes_and_go_one_at_a_time() -> None:
    labels = workload(SERVICE)["spec"]["selector"]["matchLabels"]
    (spread,) = pod(SERVICE)["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    budget = the_only(SERVICE, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert workload(SERVICE)["spec"]["replicas"] > 1
    rollout = workload(SERVICE)["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxUnavailable": 0, "maxSurge": 1}


def test_the_line_for_newer_versions_is_one() -> None:
    text, count = re.subn(r"^  # (unhealthy.*)$", r"  \1", SERVICE_FILE.read_text(), flags=re.MULTILINE)
    assert count == 1
    budget = the_only([one for one in yaml.safe_load_all(text) if one], "PodDisruptionBudget")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    kubernetes_validate.validate(budget, VERSIONS[-1], strict=True)


# And run.


def answers(url: str) -> int:
    """The status of an answer over HTTP; 0: there is none."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def probe(proxy: Proxy, manifests: list[Manifest], name: str) -> bool:
    """Whether a probe of the proxy's container finds it well."""
    found = wait_until(lambda: re.search(r"metrics: http://([^/]+)", proxy.logs()), "metrics are served")
    program, *words = container(manifests)[name]["exec"]["command"]
    assert program == "python3"
    words[-1] = words[-1].replace("127.0.0.1:9118", found[1])
    return subprocess.run([sys.executable, *words], check=False, timeout=DEADLINE).returncode == 0


@pytest.fixture
def run_filter(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Runs the filter's container: on this machine alone, and with the policy in the manifest."""
    with ExitStack() as stack:

        def run(
            manifests: list[Manifest],
            name: str,
            *,
            upstream: str,
            listen: str = "127.0.0.1:0",
            files: Mapping[str, str] | None = None,
        ) -> Proxy:
            directory = tmp_path / name
            directory.mkdir(exist_ok=True)
            options = arguments(manifests)
            policy = tmp_path / "policy.yaml"
            policy_path = options.pop("--policy") or ""
            (text,) = config_map_of(manifests, volume_of(container(manifests), policy_path)).values()
            policy.write_text(text)
            del options["--upstream"], options["--listen"]
            options |= {"--metrics-listen": "127.0.0.1:0", **(files or {})}
            words = [option if value is None else f"{option}={value}" for option, value in options.items()]
            return stack.enter_context(
                Proxy(directory, str(policy), upstream, arguments=words, listen=(listen,))
            )

        yield run


class FluentBit(Agent):
    """Fluent Bit's container, with its state in a directory; what comes back is in a file there too.

    Args:
        directory: stays when it is started again.
        log: the audit log.
        proxy_port: where the proxy listens.
        return_port: where it sends to.
    """

    def __init__(self, directory: Path, log: Path, proxy_port: int, return_port: int) -> None:
        self.http = f"http://127.0.0.1:{free_port()}"
        self._written = directory / "out.msgpack"
        option, path = FLUENT_BIT["args"]
        configuration = directory / PurePosixPath(path).name
        text = fluent_bit_file().replace("/var/lib/fluent-bit", str(directory / "state"))
        text = text.replace("http_port: 2020", f"http_port: {self.http.rpartition(':')[2]}")
        text = text.replace("port: 24224", f"port: {proxy_port}")
        text = text.replace("port: 24225", f"port: {return_port}")
        configuration.write_text(text.replace("0.0.0.0", "127.0.0.1"))
        (directory / "state").mkdir(exist_ok=True)
        # With this tag, and no other.
        more = ["-o", "file", "-m", "filtered.kube.audit", "-p", "format=msgpack", "-p", f"path={directory}"]
        variables = {name["name"]: name["value"] for name in FLUENT_BIT["env"]}
        super().__init__(
            [fluent_bit_program(), option, str(configuration), *more, "-p", f"file={self._written.name}"],
            directory / "fluent-bit.out",
            {name: str(log) for name in variables},
        )

    def came_back(self) -> list[dict[str, Any]]:
        data = self._written.read_bytes() if self._written.exists() else b""
        return [msgpack.unpackb(one, strict_map_key=False)[1] for one in entries_of(data)]

    def printed_records(self) -> list[dict[str, Any]]:
        """What the output in the manifest has printed."""
        lines = [line for line in self.printed().splitlines() if line.startswith('{"date":')]
        return [{name: value for name, value in json.loads(line).items() if name != "date"} for line in lines]

    def probe(self, name: str) -> int:
        return answers(self.http + FLUENT_BIT[name]["httpGet"]["path"])


class Loop:
    """The sidecar's pod. Its two containers are started and ended one by one."""

    def __init__(self, directory: Path, run_filter: Callable[..., Proxy]) -> None:
        fluent_bit_program()  # or skip
        self.log = AuditLog(directory / "audit.log")
        self.policy = directory / "policy.yaml"
        self._directory = directory / "fluent-bit"
        self._directory.mkdir()
        self._ports = free_port(), free_port()
        self._run_filter = run_filter

    def start_filter(self) -> None:
        listen, upstream = (f"127.0.0.1:{port}" for port in self._ports)
        self.filter = self._run_filter(SIDECAR, "filter", listen=listen, upstream=upstream)

    def start_fluent_bit(self) -> None:
        self.fluent_bit = FluentBit(self._directory, self.log.path, *self._ports)

    def wait_for(self, count: int) -> None:
        self.fluent_bit.until(lambda: len(self.fluent_bit.came_back()) >= count, self.complaint)

    def wait_for_all(self) -> list[dict[str, Any]]:
        """Wait for every record that the policy keeps; returns these, in their order."""
        expected = kept(self.log.lines, self.policy)
        self.fluent_bit.until(
            lambda: set(times(expected)) <= set(times(self.fluent_bit.came_back())), self.complaint
        )
        return expected

    def complaint(self) -> str:
        return f"{len(self.fluent_bit.came_back())} came\n{self.fluent_bit.logs()}\n{self.filter.logs()}"


@pytest.fixture
def loop(tmp_path: Path, run_filter: Callable[..., Proxy]) -> Iterator[Loop]:
    pair = Loop(tmp_path, run_filter)
    pair.start_filter()
    pair.start_fluent_bit()
    yield pair
    pair.fluent_bit.kill()


def test_what_the_policy_keeps_comes_back_and_is_printed(loop: Loop) -> None:
    loop.log.write_events(600)
    expected = loop.wait_for_all()
    assert 0 < len(expected) < len(loop.log.lines)
    assert loop.fluent_bit.came_back() == expected
    for name in ("readinessProbe", "livenessProbe"):
        until(lambda: loop.fluent_bit.probe(name) == 200, loop.complaint)  # noqa: B023 - at once
        assert probe(loop.filter, SIDECAR, name)
    loop.fluent_bit.stop()
    assert loop.fluent_bit.printed_records() == expected
    assert loop.filter.stop() == 0


def test_a_stop_of_both_at_the_same_time_is_soon_done(loop: Loop) -> None:
    with loop.log.growing():
        loop.wait_for(200)
        loop.filter.process.send_signal(Signals.SIGTERM)
        loop.fluent_bit.signal(Signals.SIGTERM)
        wait_until(loop.fluent_bit.ended, "Fluent Bit ends")
        assert loop.filter.process.wait(DEADLINE) == 0
    loop.start_fluent_bit()
    loop.start_filter()
    loop.wait_for_all()


def end_both(loop: Loop) -> None:
    loop.filter.kill()
    loop.fluent_bit.kill()
    loop.start_filter()
    loop.start_fluent_bit()


def end_filter(loop: Loop) -> None:
    loop.filter.kill()
    loop.start_filter()


def end_fluent_bit(loop: Loop) -> None:
    loop.fluent_bit.kill()
    loop.start_fluent_bit()


@pytest.mark.parametrize("end", [end_both, end_filter, end_fluent_bit])
def test_whatever_is_killed_nothing_gets_lost(loop: Loop, end: Callable[[Loop], None]) -> None:
    with loop.log.growing():
        for _ in range(3):
            loop.wait_for(len(loop.fluent_bit.came_back()) + 200)
            end(loop)
    expected = loop.wait_for_all()
    assert set(times(loop.fluent_bit.came_back())) == set(times(expected))


KEY = secrets.token_hex(32)
NOISE = {
    "auditID": "1",
    "verb": "get",
    "stage": "ResponseComplete",
    "requestURI": "/livez",
    "user": {"username": "system:anonymous"},
}
WANTED = {**NOISE, "auditID": "2", "verb": "delete", "requestURI": "/api/v1/namespaces/default"}


@pytest.fixture
def run_pod(tmp_path: Path, run_filter: Callable[..., Proxy]) -> Callable[..., Proxy]:
    """Runs a pod of the Service."""
    key = tmp_path / "shared-key"
    key.write_text(KEY)
    return partial(run_filter, SERVICE, files={"--shared-key-file": str(key)})


@pytest.fixture
def two(run_pod: Callable[..., Proxy]) -> Iterator[tuple[list[Proxy], Receiver]]:
    """Two of them, and the aggregator."""
    with Receiver() as aggregator:
        yield [run_pod(name, upstream=aggregator.address) for name in ("one", "other")], aggregator


def send(proxy: Proxy, chunk: str, key: str = KEY) -> Any:
    """Send a record to keep and another one. Returns the answer."""
    with Client(proxy.address, security=UpstreamSecurity(key.encode(), b"agent")) as client:
        client.send(packed("kube.audit", [entry(NOISE), entry(WANTED)], chunk=chunk))
        return client.answer()


def test_an_agent_with_the_key_may_send_to_either_pod(two: tuple[list[Proxy], Receiver]) -> None:
    proxies, aggregator = two
    for number, proxy in enumerate(proxies):
        assert send(proxy, f"chunk {number}") == {b"ack": f"chunk {number}".encode()}
        assert probe(proxy, SERVICE, "readinessProbe")
        assert probe(proxy, SERVICE, "livenessProbe")
    assert [(tag, entries) for tag, entries, _ in aggregator.messages] == [
        (b"kube.audit", entry(WANTED))
    ] * len(proxies)


def test_an_agent_without_the_key_may_not(two: tuple[list[Proxy], Receiver]) -> None:
    for proxy in two[0]:
        with pytest.raises(HandshakeError, match="shared_key mismatch"):
            send(proxy, "chunk", key="a guess")
    assert two[1].frames == []


def test_while_one_pod_stops_the_other_goes_on(two: tuple[list[Proxy], Receiver]) -> None:
    (one, other), _ = two
    assert one.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        send(one, "chunk")
    assert send(other, "chunk") == {b"ack": b"chunk"}


def test_the_service_leaves_out_a_pod_while_the_aggregator_is_away(run_pod: Callable[..., Proxy]) -> None:
    with socket.socket() as nobody:
        # Nobody listens there, and nobody else can meanwhile.
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        proxy = run_pod("one", upstream=f"127.0.0.1:{port}")
        client = Client(proxy.address, security=UpstreamSecurity(KEY.encode(), b"agent"))
        client.send(packed("kube.audit", [entry(WANTED)], chunk="chunk"))
        until(lambda: not probe(proxy, SERVICE, "readinessProbe"), proxy.logs)
        # It is not to be restarted.
        assert probe(proxy, SERVICE, "livenessProbe")
    with client, Receiver(port=port):
        assert client.answer() == {b"ack": b"chunk"}
        until(lambda: probe(proxy, SERVICE, "readinessProbe"), proxy.logs)


def test_the_output_in_the_documentation_brings_records_of_fluent_bit_there(
    two: tuple[list[Proxy], Receiver], tmp_path: Path
) -> None:
    (proxy, _), aggregator = two
    (snippet,) = re.findall(r"In Fluent Bit:\n\n((?: {7}.*\n)+)", DOCUMENTATION)
    (output,) = yaml.safe_load(snippet)
    (service_port,) = the_only(SERVICE, "Service")["spec"]["ports"]
    assert output["port"] == service_port["port"]
    output |= {"host": "127.0.0.1", "port": int(proxy.address.rpartition(":")[2])}
    record = json.dumps(WANTED)
    inputs = [{"name": "dummy", "tag": "kube.audit", "samples": 1, "dummy": record}]
    configuration = tmp_path / "fluent-bit.yaml"
    configuration.write_text(
        yaml.safe_dump({"service": {"flush": 0.2}, "pipeline": {"inputs": inputs, "outputs": [output]}})
    )
    command = [fluent_bit_program(), "-c", str(configuration)]
    agent = Agent(command, tmp_path / "fluent-bit.out", {"SHARED_KEY": KEY})
    try:
        until(lambda: aggregator.frames, lambda: agent.logs() + proxy.logs())
        agent.stop()
    finally:
        agent.kill()
    ((tag, ((_, found),), option),) = aggregator.messages
    assert tag == b"kube.audit"
    assert found == msgpack.unpackb(msgpack.packb(WANTED), raw=True)
    assert b"chunk" in option
