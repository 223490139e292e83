"""What Prometheus reads: over HTTP, and from a textfile."""

import fcntl
import json
import os
import re
import resource
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import msgpack
import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from plugin.service.diagnostics import Diagnostics
from plugin.service.listen import Listen
from plugin.service.metrics_server import MetricsServer
from tests.support import DROPPED, KEPT, POLICY, event, run_exec
from tests.support.agents import free_port, until
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    fill,
    filtering,
    read_exactly,
    status_of,
    wait_for_line,
)

PREFIX = "kube_audit_filter_"


class Samples(dict):
    """Samples by name and labels: ``samples["events_dropped_total", "0", "level_none"]``."""

    def __init__(self, text):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = [value for name, value in sorted(sample.labels.items(), reverse=True)]
                self[(sample.name.removeprefix(PREFIX), *labels)] = sample.value

    def total(self, name):
        return sum(value for key, value in self.items() if key[0] == name)


def get(address, path="/metrics", accept=""):
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def address_of(child):
    said = wait_for_line(child.stderr, b"/metrics\n").decode()
    return said.partition("http://")[2].partition("/")[0]


@pytest.fixture
def named_policy(tmp_path):
    path = tmp_path / "named.yaml"
    annotation = "metadata: {annotations: {kube-audit-filter/rule-0: proxies}}\n"
    path.write_text(POLICY.replace("kind: Policy\n", "kind: Policy\n" + annotation))
    return str(path)


def test_every_event_and_record_is_counted_where_it_belongs(named_policy):
    body = {"responseObject": {"big": 1}, "level": "RequestResponse"}
    sent = [
        KEPT,
        {**KEPT, "verb": "delete", "user": {"username": "bob"}, **body},
        DROPPED,
        DROPPED,
        event(stage="RequestReceived", verb="delete"),
        event(verb="unheard of", user={"username": "bob"}, objectRef=None, requestURI="/x"),
        {"items": [KEPT, DROPPED, {"no": "event"}]},
        {"no": "event"},
        7,
        ["neither a log entry", "nor", "a map"],
    ]
    data = b"".join(map(msgpack.packb, sent))
    data += msgpack.packb({**KEPT, "user": {"username": "?!"}}).replace(b"?!", b"\xff\xfe")
    arguments = ["--reduce", "--metrics-listen", "127.0.0.1:0", "--reload-interval", "0"]
    with filtering(named_policy, *arguments) as child:
        child.stdin.write(data)
        address = address_of(child)
        until(lambda: Samples(get(address)[1])["records_in_total",] == 11, lambda: get(address)[1])
        samples = Samples(get(address)[1])
        assert samples["records_out_total",] == 7
        assert samples["events_dropped_total", "proxies", "level_none"] == 3
        assert samples["events_dropped_total", "4", "stage_omitted"] == 1
        assert samples["events_dropped_total", "none", "no_rule_matched"] == 1
        assert samples["events_kept_total",] == 4
        assert samples["events_matched_total", "4"] == 5
        assert samples["events_reduced_total", "Request"] == 1
        assert samples["undecided_total", "not_an_event"] == samples["undecided_total", "not_a_record"] == 1
        assert samples["undecided_total", "list_item"] == 1
        assert samples["undecided_total", "undecodable"] == samples["decode_errors_total",] == 1
        parts = map(samples.total, ("events_kept_total", "events_dropped_total", "undecided_total"))
        assert samples["events_received_total",] == sum(parts)
        assert samples["bytes_in_total",] == len(data)
        assert samples["policy_last_reload_successful",] == 1
        assert samples.total("policy_info") == 1
        assert samples["process_open_fds",] > 3
        now = time.time()
        assert now - DEADLINE < samples["policy_last_reload_timestamp_seconds",] <= now
        assert now - DEADLINE < samples["last_read_timestamp_seconds",] <= now
        # All is counted before it is written.
        until(lambda: Samples(get(address)[1])["output_blocked_seconds",] == 0, lambda: get(address)[1])
        child.stdin.close()
        out = child.stdout.read()
        assert samples["bytes_out_total",] == len(out)
        assert child.wait(DEADLINE) == 0


def test_rules_are_there_before_they_match_and_their_counts_stay_after_a_reload(named_policy, tmp_path):
    with filtering(named_policy, "--metrics-listen", "127.0.0.1:0", "--reload-interval", "0.05") as child:
        address = address_of(child)
        rule = ("events_dropped_total", "proxies", "level_none")
        until(lambda: rule in Samples(get(address)[1]), lambda: get(address)[1])
        samples = Samples(get(address)[1])
        assert samples[rule] == 0
        assert samples["events_matched_total", "none"] == 0
        digest = next(key for key in samples if key[0] == "policy_info")
        child.stdin.write(DROPPED_RECORD * 3 + KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        (tmp_path / "named.yaml").write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: None}]\n")
        wait_for_line(child.stderr, b"a new policy is in use")
        child.stdin.write(KEPT_RECORD)
        until(
            lambda: Samples(get(address)[1]).get(("events_dropped_total", "0", "level_none")),
            lambda: get(address)[1],
        )
        samples = Samples(get(address)[1])
        assert samples["events_dropped_total", "proxies", "level_none"] == 3
        assert samples["policy_reloads_total", "success"] == 1
        assert digest not in samples
        (tmp_path / "named.yaml").write_text("kind: Policy\n")
        wait_for_line(child.stderr, b"the policy in use stays")
        samples = Samples(get(address)[1])
        assert samples["policy_last_reload_successful",] == 0
        assert samples["policy_reloads_total", "failure"] == 1
        assert samples["log_messages_total", "error"] == 1


def test_health_readiness_and_other_paths(policy_file):
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child:
        address = address_of(child)
        assert get(address, "/healthz") == (200, "ok\n")
        assert get(address, "/readyz?verbose") == (200, "ok\n")
        assert get(address, "/")[0] == 404
        assert get(address, accept="application/openmetrics-text")[1].endswith("# EOF\n")
        child.terminate()
        wait_for_line(child.stderr, b"SIGTERM")
        assert get(address, "/readyz") == (503, "the filter is about to end\n")
        assert get(address, "/healthz")[0] == 200


def test_output_that_nobody_takes_is_seen(policy_file):
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child:
        address = address_of(child)
        fill(child, KEPT_RECORD)
        until(lambda: Samples(get(address)[1])["output_blocked_seconds",] > 0.1, lambda: get(address)[1])
        assert get(address, "/healthz")[0] == 200


def test_a_filter_that_hangs_is_not_healthy(policy_file, tmp_path):
    program = f"""
import pathlib
import plugin.exec.process
import plugin.exec.stream
from plugin.__main__ import main

plugin.exec.process.STUCK_AFTER = 0.2
feed = plugin.exec.stream.FilterStream.feed

def hang(self, data):
    while not pathlib.Path({str(tmp_path / "end")!r}).exists():
        pass
    return feed(self, data)

plugin.exec.stream.FilterStream.feed = hang
main()
"""
    command = [sys.executable, "-c", program, "exec", "--policy", policy_file]
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0", command=command[:4]) as child:
        address = address_of(child)
        assert get(address, "/healthz")[0] == 200
        child.stdin.write(KEPT_RECORD)
        until(lambda: get(address, "/healthz")[0] == 503, lambda: "it is said to be healthy")
        assert "the same records have been decided on for" in get(address, "/readyz")[1]
        (tmp_path / "end").touch()
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        until(lambda: get(address, "/healthz")[0] == 200, lambda: "it stays unhealthy")


def test_a_filter_without_a_policy_is_healthy_but_not_ready(tmp_path):
    missing = tmp_path / "policy.yaml"
    with filtering(
        str(missing), "--wait-for-policy", "--reload-interval", "0.05", "--metrics-listen", "127.0.0.1:0"
    ) as child:
        address = address_of(child)
        assert get(address, "/readyz") == (503, "there is no policy that can be used\n")
        assert get(address, "/healthz")[0] == 200
        samples = Samples(get(address)[1])
        assert samples["policy_last_reload_successful",] == 0
        assert samples.total("policy_info") == 0
        missing.write_text(POLICY)
        wait_for_line(child.stderr, b"a new policy is in use")
        until(lambda: get(address, "/readyz")[0] == 200, lambda: get(address, "/readyz")[1])


def test_children_of_one_agent_share_a_range_of_ports(policy_file):
    first = free_port(2)
    arguments = ["--metrics-listen", f"127.0.0.1:{first}-{first + 1}"]
    with filtering(policy_file, *arguments) as one, filtering(policy_file, *arguments) as other:
        ports = {address_of(child).rpartition(":")[2] for child in (one, other)}
        assert ports == {str(first), str(first + 1)}
        with filtering(policy_file, *arguments) as third:
            said = wait_for_line(third.stderr, b"no metrics")
            assert f"can't listen on 127.0.0.1:{first}-{first + 1}: Address already in use".encode() in said
            third.stdin.write(KEPT_RECORD)
            assert read_exactly(third.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_other_ways_to_name_the_own_machine(policy_file, host):
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    with filtering(policy_file, "--metrics-listen", f"{host}:0") as child:
        assert get(address_of(child), "/healthz") == (200, "ok\n")


@pytest.mark.parametrize("address", ["9117", "127.0.0.1", "127.0.0.1:99999", "h:2-1", "::1:9117", ":9117"])
def test_an_address_that_is_none_is_refused(policy_file, address):
    result = run_exec(b"", "--policy", policy_file, "--metrics-listen", address)
    assert result.returncode == 1
    assert b"expected HOST:PORT or HOST:PORT-PORT" in result.stderr


# Seconds: timeoutSeconds of the readiness probes in conf/kubernetes.
PROBE_TIMEOUT = 3


@pytest.mark.parametrize("said", [b"", b"G"], ids=["silent", "slow"])
def test_a_probe_is_answered_beside_a_thousand_clients_that_hold_their_connections(policy_file, said):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child, ExitStack() as stack:
        address = address_of(child)
        host, _, port = address.partition(":")
        clients = deque()

        def connect():
            client = stack.enter_context(socket.create_connection((host, int(port))))
            client.sendall(said)
            clients.append(client)

        for _ in range(1000):
            connect()
        for path in ("/healthz", "/readyz", "/metrics") * 20:
            # Those whose connections were cut come back.
            for _ in range(50):
                clients.popleft().close()
                connect()
            with urllib.request.urlopen(f"http://{address}{path}", timeout=PROBE_TIMEOUT) as answer:
                assert answer.status == 200
        child.stdin.write(KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        assert status_of(child, "Threads") < 8
        assert len(list(Path(f"/proc/{child.pid}/fd").iterdir())) < 100


def test_one_host_can_not_take_the_connections_of_others(policy_file):
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child, ExitStack() as stack:
        address = address_of(child)
        where = ("127.0.0.1", int(address.rpartition(":")[2]))
        slow = stack.enter_context(socket.create_connection(where, source_address=("127.0.0.2", 0)))
        slow.settimeout(DEADLINE)
        slow.sendall(b"GET /healthz HT")
        for _ in range(300):
            stack.enter_context(socket.create_connection(where))
        assert get(address, "/healthz")[0] == 200
        slow.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 OK\r\n" in slow.recv(4096)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /healthz HTTP/1.0\n\n", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"\x16\x03\x01\x00\xff\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000, b"431 Request Header Fields Too Large"),
    ],
)
@pytest.mark.parametrize("piece", [7, 10_000])
def test_what_is_asked_in_other_ways(policy_file, request_, status, piece):
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child:
        host, _, port = address_of(child).partition(":")
        with socket.create_connection((host, int(port))) as client, suppress(OSError):
            client.settimeout(DEADLINE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, min(len(request_), 8192), piece):
                client.sendall(request_[at : at + piece])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.0 " + status + b"\r\n")
            assert answer.endswith(b"\r\n\r\n") == request_.startswith(b"HEAD")


class ManySamples:
    """Metrics of some megabytes."""

    def collect(self):
        yield GaugeMetricFamily("many", "x" * (8 << 20), value=1)


@pytest.fixture
def large(monkeypatch):
    """The address of a server of large metrics, which does not wait long for its clients."""
    monkeypatch.setattr("plugin.service.metrics_server.TIMEOUT", 1.0)
    said = []
    monkeypatch.setattr("plugin.service.diagnostics._write_now", lambda _, data: said.append(data) or True)
    health = SimpleNamespace(trouble=lambda: None, unready=lambda: None)
    MetricsServer(ManySamples(), Listen("127.0.0.1", range(1)), health, Diagnostics()).export(False)
    return "127.0.0.1", int(re.search(rb"http://127.0.0.1:(\d+)/", said[0])[1])


def test_a_slow_reader_gets_all_of_it_and_holds_up_nobody(large):
    with socket.create_connection(large) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        received = len(slow.recv(1 << 16))
        assert get("{}:{}".format(*large), "/healthz")[0] == 200
        while piece := slow.recv(1 << 16):
            received += len(piece)
        assert received > 8 << 20


def test_a_reader_that_takes_nothing_is_sent_away(large):
    with socket.create_connection(large) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        # The other end is closed when what it has sent so far is all that ever comes.
        until(lambda: not established(large[1], deaf.getsockname()[1]), lambda: "it is served for ever")
        received = 0
        with suppress(ConnectionResetError):
            while piece := deaf.recv(1 << 16):
                received += len(piece)
        assert received < 8 << 20


def established(port, peer):
    """Whether a port has a connection from another one, as /proc/net/tcp says."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = f":{port:04X}", f":{peer:04X}"
    return any(row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[3] == "01" for row in rows)


@pytest.mark.parametrize(
    ("host", "is_said"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True), ("*", True)]
)
def test_a_port_that_other_machines_reach_is_said_to_be_one(policy_file, tmp_path, host, is_said):
    log = tmp_path / "filter.log"
    with filtering(policy_file, "--metrics-listen", f"{host}:0", "--log-file", str(log)) as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        until(lambda: log.exists() and "/metrics" in log.read_text(), lambda: "no metrics")
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
    assert ("other machines can ask for metrics" in log.read_text()) == is_said


def test_several_addresses_are_served(policy_file, tmp_path):
    log = tmp_path / "filter.log"
    first = free_port(2)
    arguments = [f"--metrics-listen=127.0.0.1:{port}" for port in (first, first + 1)]
    with filtering(policy_file, *arguments, "--log-file", str(log)):
        until(lambda: log.exists() and log.read_text().count("/metrics") == 2, lambda: "no metrics")
        for port in (first, first + 1):
            assert get(f"127.0.0.1:{port}", "/healthz") == (200, "ok\n")


def test_clients_that_say_little_are_sent_away_after_a_while(policy_file):
    with filtering(policy_file, "--metrics-listen", "127.0.0.1:0") as child:
        host, _, port = address_of(child).partition(":")
        with socket.create_connection((host, int(port))) as client:

            def is_cut():
                try:
                    client.send(b"G")
                except OSError:
                    return True
                return False

            until(is_cut, lambda: "it stays for ever")


def test_each_filter_writes_a_textfile_of_its_own_and_takes_it_away(policy_file, tmp_path):
    directory = tmp_path / "textfiles"
    directory.mkdir()
    arguments = ["--metrics-textfile", str(directory)]

    def files():
        return sorted(path.name for path in directory.glob("*.prom"))

    with filtering(policy_file, *arguments) as one:
        until(files, lambda: "no file")
        with filtering(policy_file, *arguments) as other:
            until(lambda: len(files()) == 2, lambda: str(files()))
            assert files() == ["kube-audit-filter-0.prom", "kube-audit-filter-1.prom"]
            texts = [(directory / name).read_text() for name in files()]
            for number, text in enumerate(texts):
                samples = Samples(text)
                assert samples["records_in_total", str(number)] == 0
                assert not [key for key in samples if key[0].startswith("process_")]
            # A killed filter leaves its file, and the one that is started in its place takes it over.
            one.kill()
            one.wait()
            with filtering(policy_file, *arguments) as third:
                third.stdin.write(KEPT_RECORD)
                read_exactly(third.stdout.fileno(), len(KEPT_RECORD))
                third.stdin.close()
                assert third.wait(DEADLINE) == 0
            assert files() == ["kube-audit-filter-1.prom"]
            other.stdin.close()
            assert other.wait(DEADLINE) == 0
    assert files() == []
    assert (directory / "kube-audit-filter-0.lock").exists()


def test_a_textfile_directory_that_was_emptied_is_shared_anew(policy_file, tmp_path):
    arguments = ["--metrics-textfile", str(tmp_path)]

    def numbers():
        return sorted(path.name for path in tmp_path.glob("*.prom"))

    with filtering(policy_file, *arguments) as one:
        until(numbers, lambda: "no file")
        for path in tmp_path.glob("kube-audit-filter-*"):
            path.unlink()
        with filtering(policy_file, *arguments) as other:
            until(numbers, lambda: "no file")
            one.send_signal(signal.SIGHUP)
            until(lambda: len(numbers()) == 2, lambda: str(numbers()))
            other.stdin.close()
            assert other.wait(DEADLINE) == 0
        assert numbers() == ["kube-audit-filter-1.prom"]


def test_sighup_writes_the_textfile_at_once(policy_file, tmp_path):
    arguments = ["--metrics-textfile", str(tmp_path), "--log-format", "json"]
    with filtering(policy_file, *arguments) as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        child.send_signal(signal.SIGHUP)
        file = tmp_path / "kube-audit-filter-0.prom"
        until(
            lambda: file.exists() and Samples(file.read_text())["records_in_total", "0"] == 1,
            file.read_text,
        )
        until(lambda: not list(tmp_path.glob(".*")), lambda: "half a file is left")


@pytest.mark.parametrize("planted", ["link", "dangling link", "pipe", "directory"])
def test_what_others_plant_in_the_directory_is_not_followed(policy_file, tmp_path, planted):
    directory, victim = tmp_path / "textfiles", tmp_path / "victim"
    directory.mkdir()
    names = ["kube-audit-filter-0.lock", ".kube-audit-filter-0.prom.new", ".kube-audit-filter-1.prom.new"]
    if planted != "dangling link":
        victim.write_text("precious")
    for name in names:
        path = directory / name
        if planted == "pipe":
            os.mkfifo(path)
        elif planted == "directory":
            path.mkdir()
        else:
            path.symlink_to(victim)
    (directory / "kube-audit-filter-1.prom").symlink_to(victim)
    file = directory / "kube-audit-filter-1.prom"
    with filtering(policy_file, "--metrics-textfile", str(directory)) as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        until(lambda: file.is_file() and not file.is_symlink(), lambda: str(list(directory.iterdir())))
        assert Samples(file.read_text()).total("build_info") == 1
    assert victim.exists() == (planted != "dangling link")
    assert not victim.exists() or victim.read_text() == "precious"


def test_where_others_have_all_numbers_that_is_said(policy_file, tmp_path):
    with ExitStack() as stack:
        for number in range(100):
            lock = stack.enter_context((tmp_path / f"kube-audit-filter-{number}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        with filtering(policy_file, "--metrics-textfile", str(tmp_path)) as child:
            assert b"100 filters write here already" in wait_for_line(child.stderr, b"no metrics: ")
            child.stdin.write(KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD


def test_what_a_killed_filter_has_begun_to_write_is_taken_away(policy_file, tmp_path):
    left = tmp_path / ".kube-audit-filter-0.prom.new-0123"
    left.write_text("half of it")
    with filtering(policy_file, "--metrics-textfile", str(tmp_path)):
        until((tmp_path / "kube-audit-filter-0.prom").exists, lambda: "no file")
        assert not left.exists()
        assert not list(tmp_path.glob(".*.new*"))


def test_a_directory_that_can_not_be_written_to_is_said_and_does_not_matter(policy_file, tmp_path):
    arguments = ["--metrics-textfile", str(tmp_path / "missing"), "--log-format", "json"]
    with filtering(policy_file, *arguments) as child:
        said = json.loads(wait_for_line(child.stderr, b"\n").splitlines()[0])
        assert said["level"] == "error"
        assert "No such file or directory" in said["message"]
        child.stdin.write(KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
