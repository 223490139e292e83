"""The forward proxy between real agents: its configurations in conf, and each agent on each side of it.

A test runs where its agents are: FLUENT_BIT and FLUENTD name them, or they are on the PATH.
"""

import json
import re
import shlex
import subprocess
import urllib.request
from itertools import pairwise
from signal import Signals

import msgpack
import pytest

from tests.support import KEPT, ROOT, event_time, filter_bytes
from tests.support.agents import (
    BACKLOG,
    Agent,
    AuditLog,
    Emitted,
    configured,
    entries_of,
    fluent_bit_program,
    fluentd_program,
    free_port,
    kept,
    nanoseconds,
    printed_by_fluentd,
    text_of,
    times,
    until,
)
from tests.support.certificates import make_certificates
from tests.support.forward_peers import Client, Proxy, entry, packed

# So few that an agent reads them at once and sends them in one message: it sends several at a time, on
# connections of their own, and these overtake each other.
ONE_MESSAGE = 600
CONF = ROOT / "conf"
LOOPS = {"Fluent Bit": CONF / "fluent-bit/forward-loop.yaml", "Fluentd": CONF / "fluentd/forward-loop.conf"}
# The tags with which records come back.
TAGS = {"Fluent Bit": "filtered.kube.audit", "Fluentd": "kube.audit"}
POLICY = CONF / "policies/recommended.yaml"
# What the ways between agents and proxy may have: nothing, and what each side has to know or to show.
PLAIN, GZIP, KEYS, TLS = "plain", "gzip", "shared keys and users", "TLS"
SENDER_KEY, RECEIVER_KEY = "the senders' key", "the receivers' key"
SENDER, RECEIVER = ("alice", "alice's password"), ("proxy", "the proxy's password")


class FluentBit(Agent):
    """Fluent Bit with a configuration. What goes to its outputs is also in files, one for each tag."""

    def __init__(self, configuration, directory, settings):
        self._directory = directory / "records"
        self._directory.mkdir(exist_ok=True)
        more = ["-o", "file", "-m", "*", "-p", "format=msgpack", "-p", f"path={self._directory}"]
        super().__init__(
            [fluent_bit_program(), "-c", str(configuration), *more], directory / "fluent-bit.out", settings
        )

    def output_bytes(self, tag):
        """The log events with a tag that have come out so far."""
        path = self._directory / tag
        return path.read_bytes() if path.exists() else b""

    def emitted(self, tag=None):
        """What has come out so far, in order, with any tag or with one."""
        return [
            Emitted(path.name, *_time_and_record(entry))
            for path in sorted(self._directory.iterdir())
            if tag in (None, path.name)
            for entry in entries_of(path.read_bytes())
        ]


def _time_and_record(entry):
    time, record = msgpack.unpackb(entry, strict_map_key=False)
    time = time[0] if isinstance(time, list) else time
    seconds, nanos = int.from_bytes(time.data[:4], "big"), int.from_bytes(time.data[4:], "big")
    # Fluentd up to 1.18 sends all text as binary where it has no gem oj.
    return seconds * 10**9 + nanos, text_of(record)


class Fluentd(Agent):
    """Fluentd with a configuration, which prints what comes out."""

    def __init__(self, configuration, directory, settings):
        super().__init__(
            [fluentd_program(), "-c", str(configuration)],
            directory / "fluentd.out",
            {"TZ": "UTC", **settings},
        )

    def emitted(self, tag=None):
        """What has come out so far, in order, with any tag or with one."""
        return [one for one in printed_by_fluentd(self.output.read_bytes()) if tag in (None, one.tag)]


AGENTS = {"Fluent Bit": FluentBit, "Fluentd": Fluentd}


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit.log")


@pytest.fixture
def start(tmp_path, log):
    """Starts agents, by name, with a configuration: a file, or its text."""
    started = []

    def start_one(name, configuration, **settings):
        directory = tmp_path / f"agent-{len(started)}"
        directory.mkdir(exist_ok=True)
        text = configuration if isinstance(configuration, str) else configuration.read_text()
        settings = {"AUDIT_LOG": str(log.path), "AUDIT_STATE_DIR": str(directory / "state"), **settings}
        text, environment = configured(text, settings)
        path = directory / ("fluent-bit.yaml" if name == "Fluent Bit" else "fluentd.conf")
        path.write_text(text)
        started.append(AGENTS[name](path, directory, environment))
        return started[-1]

    yield start_one
    for agent in started:
        agent.kill()


@pytest.fixture
def proxies(tmp_path):
    """Starts proxies."""
    started = []

    def start_one(*upstreams, name="proxy", policy=POLICY, arguments=(), listen=("127.0.0.1:0",)):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        proxy = Proxy(directory, str(policy), *upstreams, arguments=arguments, listen=listen)
        started.append(proxy)
        return proxy

    yield start_one
    for proxy in started:
        proxy.__exit__()


def port_of(address):
    return int(address.rpartition(":")[2])


# The configurations in conf.


def with_storage(configuration, directory):
    """A configuration that keeps on disk what has to outlive Fluent Bit: Fluentd's does so as it is."""
    text = configuration.read_text()
    if configuration.suffix == ".yaml":
        text, count = re.subn(r"# ((?:db|storage\.\w+): )(/var/lib/fluent-bit)?", r"\1\2", text)
        assert count == 4
        text = text.replace("/var/lib/fluent-bit", str(directory))
    return text


def documented_proxy(proxies, configuration, return_port):
    """The proxy that a configuration's first comment says how to start, on a free port."""
    (command,) = re.findall(r"^# +(kube-audit-filter forward .+)$", configuration.read_text(), re.MULTILINE)
    arguments = dict(pairwise(shlex.split(command)))
    assert arguments["--listen"] == "127.0.0.1:24224"
    assert arguments["--upstream"] == "127.0.0.1:24225"
    more = [text for option in ("--compat",) if option in arguments for text in (option, arguments[option])]
    assert len(shlex.split(command)) == 8 + len(more)
    return proxies(f"127.0.0.1:{return_port}", policy=arguments["--policy"], arguments=more)


@pytest.fixture
def loop(start, proxies):
    """Starts an agent with its configuration in conf, and the proxy for it."""

    def start_both(name):
        return_port = free_port()
        proxy = documented_proxy(proxies, LOOPS[name], return_port)
        ports = {"AUDIT_PROXY_PORT": str(port_of(proxy.address)), "AUDIT_RETURN_PORT": str(return_port)}
        return start(name, LOOPS[name], **ports), proxy

    return start_both


def wait_for(agent, count, proxy, tag=None):
    agent.until(
        lambda: len(agent.emitted(tag)) >= count,
        lambda: f"{len(agent.emitted(tag))} of {count} records:\n{agent.logs()}\n{proxy.logs()}",
    )


def wait_for_log(proxy, text):
    """Wait until the proxy says something; no longer than its agents run."""
    until(lambda: text in proxy.logs(), lambda: f"the proxy does not say {text!r}; it said:\n{proxy.logs()}")


def wait_until_all_came(agents, log, proxy, tag=None):
    """Wait for every record that the policy keeps; some may come twice."""
    expected = set(times(kept(log.lines, POLICY)))

    def missing():
        return expected.difference(*(times([one.record for one in agent.emitted(tag)]) for agent in agents))

    agents[-1].until(
        lambda: not missing(),
        lambda: f"{len(missing())} of {len(expected)} are missing\n{agents[-1].logs()}\n{proxy.logs()}",
    )


@pytest.mark.parametrize(("name", "tag"), TAGS.items(), ids=TAGS)
def test_what_comes_back_to_the_agent_is_what_exec_keeps_with_exact_times(loop, log, name, tag):
    log.write_events(ONE_MESSAGE)
    expected = kept(log.lines, POLICY)
    agent, proxy = loop(name)
    wait_for(agent, len(expected), proxy, tag)
    agent.stop()
    assert proxy.stop() == 0
    assert agent.emitted(tag) == [
        Emitted(tag, nanoseconds(record["stageTimestamp"]), record) for record in expected
    ]
    assert 0 < len(expected) < ONE_MESSAGE
    assert f" in={ONE_MESSAGE} " in proxy.logs()


def test_fluent_bit_gets_the_same_bytes_as_without_the_proxy_between(loop, start, log):
    log.write_events(ONE_MESSAGE)
    agent, proxy = loop("Fluent Bit")
    port = str(free_port())
    plain = start("Fluent Bit", LOOPS["Fluent Bit"], AUDIT_PROXY_PORT=port, AUDIT_RETURN_PORT=port)
    tag = TAGS["Fluent Bit"]
    wait_for(plain, ONE_MESSAGE, proxy, tag)
    stream, expected = filter_bytes(plain.output_bytes(tag), policy_text=POLICY.read_text())
    wait_for(agent, stream.counters.kept, proxy, tag)
    agent.stop()
    assert agent.output_bytes(tag) == expected
    assert stream.counters.dropped > 100


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("name", LOOPS)
def test_an_agent_that_ends_under_load_loses_nothing(start, proxies, log, tmp_path, name, is_killed):
    return_port = free_port()
    proxy = documented_proxy(proxies, LOOPS[name], return_port)
    ports = {"AUDIT_PROXY_PORT": str(port_of(proxy.address)), "AUDIT_RETURN_PORT": str(return_port)}
    configuration = with_storage(LOOPS[name], tmp_path)
    settings = {"AUDIT_STATE_DIR": str(tmp_path / "state"), **ports}
    runs = []
    for _ in range(2):
        with log.growing(BACKLOG):
            runs.append(agent := start(name, configuration, **settings))
            wait_for(agent, 200, proxy, TAGS[name])
            agent.kill() if is_killed else agent.stop()
    runs.append(start(name, configuration, **settings))
    wait_until_all_came(runs, log, proxy, TAGS[name])


def test_fluent_bit_reloads_under_load_and_loses_nothing(start, proxies, log, tmp_path):
    return_port = free_port()
    proxy = documented_proxy(proxies, LOOPS["Fluent Bit"], return_port)
    configuration = with_storage(LOOPS["Fluent Bit"], tmp_path)
    agent = start(
        "Fluent Bit",
        configuration.replace("service:\n", "service:\n  hot_reload: on\n"),
        AUDIT_PROXY_PORT=str(port_of(proxy.address)),
        AUDIT_RETURN_PORT=str(return_port),
    )
    tag = TAGS["Fluent Bit"]
    with log.growing():
        for reload in range(1, 3):
            wait_for(agent, len(agent.emitted(tag)) + 300, proxy, tag)
            agent.signal(Signals.SIGHUP)
            agent.until(lambda: agent.printed().count("start everything") == reload)  # noqa: B023
        wait_for(agent, len(agent.emitted(tag)) + 300, proxy, tag)
    wait_until_all_came([agent], log, proxy, tag)
    agent.stop()


def test_fluent_bits_loop_needs_no_port(start, proxies, log, tmp_path):
    documentation = (ROOT / "docs/forward.md").read_text()
    command = re.search(
        r"--listen (unix:\S+proxy\.sock) --upstream (unix:\S+back\.sock)$", documentation, re.M
    )
    of_input, of_output = re.findall(r"^      (unix_path: .*)$", documentation, re.MULTILINE)
    text = LOOPS["Fluent Bit"].read_text()
    for ports, instead in (
        (r"listen: 127.0.0.1\n +port: \S+", of_input),
        (r"host: 127.0.0.1\n +port: \S+", of_output),
    ):
        text, count = re.subn(ports, instead, text)
        assert count == 1
    text = text.replace("/run/kube-audit-filter", str(tmp_path))
    listen, upstream = (way.replace("/run/kube-audit-filter", str(tmp_path)) for way in command.groups())
    proxy = proxies(upstream, listen=[listen], arguments=["--compat", "fluent-bit"])
    log.write_events(ONE_MESSAGE)
    runs = []
    for _ in range(2):  # the second finds the socket of the first
        runs.append(start("Fluent Bit", text))
        wait_until_all_came(runs[-1:], log, proxy, TAGS["Fluent Bit"])
        runs[-1].stop()


# Each agent on each side.


def fluent_bit_sender(log, port, lines=(), *, input_lines=None):
    """Fluent Bit's configuration that sends a log to the proxy."""
    tail = f"""
    - name: tail
      path: {log.path}
      tag: kube.audit
      parser: kube-audit
      read_from_head: true
      buffer_chunk_size: 1M
      buffer_max_size: 8M
      refresh_interval: 1
"""
    more = "".join(f"\n      {line}" for line in lines)
    place = "" if port is None else f"host: 127.0.0.1\n      port: {port}"
    return f"""
service:
  flush: 0.2
  grace: 1
  scheduler.base: 1
  scheduler.cap: 1
parsers:
  - name: kube-audit
    format: json
    time_key: stageTimestamp
    time_format: '%Y-%m-%dT%H:%M:%S.%LZ'
    time_keep: true
pipeline:
  inputs:{input_lines or tail}
  outputs:
    - name: forward
      match: '*'
      {place}
      require_ack_response: true
      retry_limit: no_limits{more}
"""


def fluent_bit_receiver(port, lines=()):
    """Fluent Bit's configuration that takes what the proxy sends."""
    more = "".join(f"\n      {line}" for line in lines)
    place = "" if port is None else f"listen: 127.0.0.1\n      port: {port}"
    return f"""
service:
  flush: 0.2
  grace: 1
pipeline:
  inputs:
    - name: forward
      buffer_max_size: 64M
      {place}{more}
  outputs:
    - name: "null"
      match: nothing
"""


def fluentd_sender(log, *ports, lines=(), server_lines=()):
    """Fluentd's configuration that sends a log to proxies, in many small chunks."""
    more = "".join(f"\n  {line}" for line in lines)
    servers = "".join(
        "\n  <server>\n    host 127.0.0.1\n    name localhost\n"
        f"    port {port}\n    " + "\n    ".join(server_lines) + "\n  </server>"
        for port in ports
    )
    return f"""
<source>
  @type tail
  path {log.path}
  pos_file {log.path}.pos
  read_from_head true
  tag kube.audit
  <parse>
    @type json
    time_key stageTimestamp
    time_type string
    time_format %iso8601
    keep_time_key true
  </parse>
</source>
<match kube.audit>
  @type forward
  require_ack_response true
  recover_wait 1s
  heartbeat_type {"none" if len(ports) == 1 else "transport"}{more}{servers}
  <buffer tag>
    flush_mode interval
    flush_interval 0.2s
    flush_thread_interval 0.05
    flush_thread_count 1
    retry_forever true
    retry_max_interval 1s
  </buffer>
</match>
"""


def fluentd_receiver(port, lines=()):
    """Fluentd's configuration that takes what the proxy sends."""
    more = "".join(f"\n  {line}" for line in lines)
    return f"""
<source>
  @type forward
  bind 127.0.0.1
  port {port}{more}
</source>
<match fluent.**>
  @type null
</match>
<match **>
  @type stdout
</match>
"""


def fluent_bit_lines(way, role, certificates, *, key):
    """What Fluent Bit needs on a way to or from the proxy."""
    user, password = SENDER if role == "sender" else RECEIVER
    if way == GZIP and role == "sender":
        return ["compress: gzip"]
    if way == KEYS:
        who = [f"username: {user}", f"password: {password}"]
        who = who if role == "sender" else [f"security.users: {user} {password}"]
        return [f"shared_key: {key}", f"self_hostname: the-{role}", *who]
    if way == TLS:
        own = "client" if role == "sender" else "server"
        return [
            "tls: on",
            "tls.verify: on",
            f"tls.ca_file: {certificates.ca}",
            f"tls.crt_file: {getattr(certificates, f'{own}_cert')}",
            f"tls.key_file: {getattr(certificates, f'{own}_key')}",
            "tls.verify_client_cert: on" if role == "receiver" else "tls.vhost: localhost",
        ]
    return []


def fluentd_lines(way, role, certificates, *, key):
    """What Fluentd needs on a way to or from the proxy; of the sender also what stands in <server>."""
    user, password = SENDER if role == "sender" else RECEIVER
    if way == GZIP and role == "sender":
        return ["compress gzip"], []
    if way == KEYS:
        name_and_password = [f"username {user}", f"password {password}"]
        security = ["<security>", f"self_hostname the-{role}", f"shared_key {key}"]
        if role == "sender":
            return [*security, "</security>"], name_and_password
        return [*security, "user_auth true", "<user>", *name_and_password, "</user>", "</security>"], []
    if way == TLS and role == "sender":
        return [
            "transport tls",
            f"tls_cert_path {certificates.ca}",
            f"tls_client_cert_path {certificates.client_cert}",
            f"tls_client_private_key_path {certificates.client_key}",
        ], []
    if way == TLS:
        return [
            "<transport tls>",
            f"cert_path {certificates.server_cert}",
            f"private_key_path {certificates.server_key}",
            f"ca_path {certificates.ca}",
            "client_cert_auth true",
            "</transport>",
        ], []
    return [], []


@pytest.fixture
def chain(start, proxies, log, tmp_path):
    """Starts a receiver, a proxy and a sender, in that order, and returns all three."""

    def start_all(sender, receiver, way, *, arguments=(), sender_key=SENDER_KEY, receiver_key=RECEIVER_KEY):
        certificates = make_certificates(tmp_path) if way == TLS else None
        for name in (sender, receiver):  # skip before anything is started
            fluent_bit_program() if name == "Fluent Bit" else fluentd_program()
        port = free_port()
        if receiver == "Fluent Bit":
            text = fluent_bit_receiver(
                port, fluent_bit_lines(way, "receiver", certificates, key=receiver_key)
            )
        else:
            text = fluentd_receiver(port, fluentd_lines(way, "receiver", certificates, key=receiver_key)[0])
        last = start(receiver, text)
        scheme = "tls://" if way == TLS else ""
        if receiver == "Fluentd":
            arguments = ("--compat", "fluentd", *arguments)
        proxy = proxies(
            f"{scheme}127.0.0.1:{port}",
            arguments=(*arguments, *proxy_arguments(way, tmp_path, certificates)),
            listen=[f"{scheme}127.0.0.1:0"],
        )
        port = port_of(proxy.address)
        if sender == "Fluent Bit":
            text = fluent_bit_sender(log, port, fluent_bit_lines(way, "sender", certificates, key=sender_key))
        else:
            lines, server_lines = fluentd_lines(way, "sender", certificates, key=sender_key)
            text = fluentd_sender(log, port, lines=lines, server_lines=server_lines)
        return start(sender, text), proxy, last

    return start_all


def proxy_arguments(way, directory, certificates):
    """What the proxy needs on both ways."""
    if way == KEYS:
        secrets = {
            "--shared-key-file": SENDER_KEY,
            "--users-file": ":".join(SENDER),
            "--upstream-shared-key-file": RECEIVER_KEY,
            "--upstream-password-file": RECEIVER[1],
        }
        arguments = ["--upstream-user", RECEIVER[0]]
        for option, secret in secrets.items():
            path = directory / option.strip("-")
            path.write_text(f"{secret}\n")
            arguments += [option, str(path)]
        return arguments
    if way == TLS:
        files = {
            "--tls-cert": certificates.server_cert,
            "--tls-key": certificates.server_key,
            "--tls-client-ca": certificates.ca,
            "--upstream-tls-ca": certificates.ca,
            "--upstream-tls-cert": certificates.client_cert,
            "--upstream-tls-key": certificates.client_key,
        }
        return [text for option, path in files.items() for text in (option, str(path))]
    return []


BOTH = [("Fluent Bit", "Fluentd"), ("Fluentd", "Fluent Bit")]
pairs = pytest.mark.parametrize(
    ("sender", "receiver"), [pytest.param(*pair, id=" to ".join(pair)) for pair in BOTH]
)


@pytest.mark.parametrize("way", [PLAIN, GZIP, KEYS, TLS])
@pairs
def test_one_agent_gets_from_the_other_what_exec_keeps(chain, log, sender, receiver, way):
    log.write_events(ONE_MESSAGE)
    expected = kept(log.lines, POLICY)
    first, proxy, last = chain(sender, receiver, way, arguments=["--tag", "audit.kept"])
    wait_for(last, len(expected), proxy)
    first.stop()
    last.stop()
    assert last.emitted() == [
        Emitted("audit.kept", nanoseconds(record["stageTimestamp"]), record) for record in expected
    ]
    assert proxy.stop() == 0
    assert f" in={ONE_MESSAGE} " in proxy.logs()
    assert " undecided=0 " in proxy.logs()


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_fluentds_udp_heartbeats_are_answered_where_that_is_asked_for(start, proxies, log, is_asked_for):
    fluentd_program()  # or skip
    arguments = ["--udp-heartbeat"] if is_asked_for else []
    proxy = proxies(f"127.0.0.1:{free_port()}", arguments=arguments, listen=["127.0.0.1:0"])
    lines = ["@log_level trace", "hard_timeout 5s", "phi_failure_detector false"]
    text = fluentd_sender(log, port_of(proxy.address), lines=lines)
    assert "heartbeat_type none" in text
    sender = start("Fluentd", text.replace("heartbeat_type none", "heartbeat_type udp"))
    # Without answers, Fluentd takes a server for dead after hard_timeout.
    sender.until(lambda: sender.printed().count("sending heartbeat") >= 9 or "detached" in sender.printed())
    assert ("detached forwarding server" in sender.printed()) == (not is_asked_for)


# What the proxy says of a receiver that has another key.
REFUSALS = {
    "Fluent Bit": "the server closed the connection when it was told the shared key",
    "Fluentd": "the server refuses us: shared_key mismatch",
}


@pytest.mark.parametrize("wrong", ["sender_key", "receiver_key"])
@pairs
def test_nothing_gets_through_with_a_wrong_key_and_both_sides_say_so(chain, log, sender, receiver, wrong):
    log.write_events(ONE_MESSAGE)
    first, proxy, last = chain(sender, receiver, KEYS, **{wrong: "another key"})
    if wrong == "sender_key":
        wait_for_log(proxy, ": shared_key mismatch; its connection is closed")
        first.until(lambda: "shared_key mismatch" in first.printed())
    else:
        wait_for_log(proxy, REFUSALS[receiver])
        last.until(lambda: "shared_key mismatch" in last.printed().replace("Shared key", "shared_key"))
    assert last.emitted() == []
    assert "another key" not in proxy.logs()


def receiver_with_key(name, port, *, users):
    """An agent's configuration that wants a shared key, and a user or none."""
    if name == "Fluent Bit":
        lines = fluent_bit_lines(KEYS, "receiver", None, key=RECEIVER_KEY)
        return fluent_bit_receiver(port, [line for line in lines if users or "users" not in line])
    lines = fluentd_lines(KEYS, "receiver", None, key=RECEIVER_KEY)[0]
    return fluentd_receiver(port, lines if users else [*lines[:3], lines[-1]])


@pytest.fixture
def with_key(start, proxies, tmp_path):
    """Starts an agent that wants a shared key, and a proxy that knows it and names no user."""

    def start_both(name, *, users):
        port = free_port()
        receiver = start(name, receiver_with_key(name, port, users=users))
        (tmp_path / "receiver-key").write_text(RECEIVER_KEY)
        arguments = ["--upstream-shared-key-file", str(tmp_path / "receiver-key"), "--retry-timeout", "30"]
        return receiver, proxies(f"127.0.0.1:{port}", arguments=arguments)

    return start_both


@pytest.mark.parametrize("name", AGENTS)
def test_a_server_that_wants_a_key_and_no_user_is_told_the_key_alone(with_key, name):
    receiver, proxy = with_key(name, users=False)
    time = event_time(1_700_000_000, 0)
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT, time=time)], chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}
        receiver.until(lambda: receiver.emitted("t"))
        assert [one.record for one in receiver.emitted("t")] == [KEPT]
        # By its handshake, the proxy knows Fluent Bit, which reads metadata, from what may be Fluentd.
        client.send(packed("t", [entry(KEPT, time=[time, {}])], chunk="metadata"))
        if name == "Fluentd":  # up to 1.18, some of its outputs fail on them, and it does not acknowledge
            wait_for_log(proxy, "throws them away")
            return
        assert client.answer() == {b"ack": b"metadata"}
    assert "throws them away" not in proxy.logs()


def test_before_fluentd_throws_away_what_fluent_bit_sends_the_proxy_warns(start, proxies, log):
    log.write_events(ONE_MESSAGE)
    start("Fluentd", fluentd_receiver(port := free_port()))
    proxy = proxies(f"127.0.0.1:{port}")
    start("Fluent Bit", fluent_bit_sender(log, port_of(proxy.address)))
    wait_for_log(proxy, f"records go to 127.0.0.1:{port} as [[time, metadata], record]")


@pytest.mark.parametrize("name", AGENTS)
def test_a_server_that_wants_a_user_too_says_so_and_the_proxy_names_the_option(with_key, name):
    _, proxy = with_key(name, users=True)
    wait_for_log(
        proxy, "the server refuses us: username/password mismatch; no user was named: see --upstream-user"
    )


def test_fluent_bit_sends_and_receives_by_unix_sockets(start, proxies, log, tmp_path):
    log.write_events(ONE_MESSAGE)
    expected = kept(log.lines, POLICY)
    before, behind = tmp_path / "before.sock", tmp_path / "behind.sock"
    last = start("Fluent Bit", fluent_bit_receiver(None, [f"unix_path: {behind}"]))
    proxy = proxies(f"unix:{behind}", listen=[f"unix:{before}"])
    first = start("Fluent Bit", fluent_bit_sender(log, None, [f"unix_path: {before}"]))
    wait_for(last, len(expected), proxy)
    first.stop()
    last.stop()
    assert [record for _, _, record in last.emitted()] == expected


@pairs
def test_a_proxy_that_is_killed_again_and_again_loses_nothing(start, proxies, log, sender, receiver):
    port = free_port()
    last = start(receiver, fluent_bit_receiver(port) if receiver == "Fluent Bit" else fluentd_receiver(port))
    arguments = ["--compat", "fluentd"] if receiver == "Fluentd" else []
    proxy = proxies(f"127.0.0.1:{port}", arguments=arguments)
    listen = [proxy.address]
    at = port_of(proxy.address)
    first = start(sender, fluent_bit_sender(log, at) if sender == "Fluent Bit" else fluentd_sender(log, at))
    with log.growing():
        for _ in range(4):
            count = len(last.emitted())
            wait_for(last, count + 100, proxy)
            proxy.kill()
            proxy = proxies(f"127.0.0.1:{port}", arguments=arguments, listen=listen)
        wait_for(last, len(last.emitted()) + 100, proxy)
    wait_until_all_came([last], log, proxy)
    first.stop()


def fluent_bit_nodes(path, *ports):
    """Fluent Bit's list of servers."""
    nodes = "".join(
        f"\n[NODE]\n    name node-{port}\n    host 127.0.0.1\n    port {port}\n"
        "    require_ack_response true\n"
        for port in ports
    )
    path.write_text(f"[UPSTREAM]\n    name proxies\n{nodes}")
    return path


@pairs
def test_of_two_proxies_one_may_end_amid_and_everything_arrives(
    start, proxies, log, sender, receiver, tmp_path
):
    port = free_port()
    last = start(receiver, fluent_bit_receiver(port) if receiver == "Fluent Bit" else fluentd_receiver(port))
    arguments = ["--compat", "fluentd"] if receiver == "Fluentd" else []
    one, other = (
        proxies(f"127.0.0.1:{port}", name=name, arguments=[*arguments, "--metrics-listen", "127.0.0.1:0"])
        for name in ("one", "other")
    )
    ports = port_of(one.address), port_of(other.address)
    if sender == "Fluent Bit":
        nodes = fluent_bit_nodes(tmp_path / "nodes.conf", *ports)
        first = start(sender, fluent_bit_sender(log, None, [f"upstream: {nodes}"]))
    else:
        first = start(sender, fluentd_sender(log, *ports))
    with log.growing():
        for proxy in (one, other):
            until(lambda: proxy.metrics()["records_in_total"] > 200, proxy.logs)  # noqa: B023 - at once
        assert one.stop() == 0
        wait_for(last, len(last.emitted()) + 300, other)
    wait_until_all_came([last], log, other)
    first.stop()


METRICS = """
    - name: fluentbit_metrics
      tag: signals
      scrape_interval: 1
"""
TRACES = """
    - name: opentelemetry
      tag: signals
      tag_from_uri: false
      listen: 127.0.0.1
      port: {port}
"""
SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "a span",
    "kind": 2,
    "startTimeUnixNano": "1800000000123456789",
    "endTimeUnixNano": "1800000001987654321",
}
# Prints traces: the files that the tests look into otherwise take none.
SHOW = """
    - name: stdout
      match: '*'
"""


def post_trace(port):
    """Send spans to Fluent Bit as OpenTelemetry does; whether it has taken them."""
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN, {**SPAN, "name": "another"}]}]}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/traces", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 200 <= answer.status < 300
    except OSError:  # it does not listen yet
        return False


def test_metrics_of_fluent_bit_pass_untouched(start, proxies, log):
    last = start("Fluent Bit", fluent_bit_receiver(port := free_port()))
    proxy = proxies(f"127.0.0.1:{port}", arguments=["--tag-prefix-add", "kept."])
    first = start("Fluent Bit", fluent_bit_sender(log, port_of(proxy.address), input_lines=METRICS))
    last.until(lambda: last.output_bytes("kept.signals").count(b"fluentbit_uptime") > 1)
    first.stop()
    last.stop()
    assert first.output_bytes("signals").startswith(last.output_bytes("kept.signals"))


def test_traces_of_fluent_bit_pass_untouched(start, proxies, log):
    known = subprocess.run([fluent_bit_program(), "--help"], capture_output=True, text=True, check=True)
    if "opentelemetry" not in known.stdout:
        pytest.skip("this Fluent Bit was built without its input opentelemetry")
    port, traces_port = free_port(), free_port()
    last = start("Fluent Bit", fluent_bit_receiver(port) + SHOW)
    proxy = proxies(f"127.0.0.1:{port}")
    inputs = TRACES.format(port=traces_port)
    first = start("Fluent Bit", fluent_bit_sender(log, port_of(proxy.address), input_lines=inputs) + SHOW)
    first.until(lambda: post_trace(traces_port))

    def shown(agent):
        spans = r"\[span #0 'a span'\].*\[span #1 'another'\].*\[links\]"
        return agent.until(lambda: re.findall(spans, agent.printed(), re.DOTALL))

    sent, came = shown(first), shown(last)
    assert sent == came
    assert SPAN["endTimeUnixNano"] in came[0]


def test_what_fluentd_makes_of_json_it_makes_of_it_through_the_proxy_too(start, proxies):
    receiver = start("Fluentd", fluentd_receiver(port := free_port()))
    proxy = proxies(f"127.0.0.1:{port}")
    record = {**KEPT, "annotations": {"ü": '"\\', "n": [1, -2.5, None, True]}}
    single = ["t.single", 1_700_000_000, record, {"chunk": "one"}]
    several = ["t.several", [[1_700_000_000, record], [1_700_000_001, record]], {"chunk": "two", "size": 2}]
    receiver.until(lambda: "listening port" in receiver.printed())
    for address in (f"127.0.0.1:{port}", proxy.address):
        with Client(address) as client:
            for message in (single, several):
                client.send(json.dumps(message).encode())
                answer = b""
                while not answer.endswith(b"}"):
                    answer += client.socket.recv(100) or b"}"
                assert json.loads(answer) == {"ack": message[-1]["chunk"]}
    receiver.until(lambda: len(receiver.emitted()) == 6)
    direct, proxied = receiver.emitted()[:3], receiver.emitted()[3:]
    assert proxied == direct
    assert [one.record for one in direct] == [record] * 3
