"""Who may connect to the proxy, and to whom it connects: keys, users, certificates."""

import contextlib
import os
import queue
import signal
import ssl
import subprocess
import threading

import msgpack
import pytest

from plugin.forward.protocol.handshake import (
    ClientHandshake,
    HandshakeError,
    ListenSecurity,
    UpstreamSecurity,
)
from tests.support import KEPT
from tests.support.certificates import make_certificates
from tests.support.forward_peers import FORWARD, Client, Proxy, Receiver, _read_value, entry, packed
from tests.support.processes import DEADLINE, wait_until


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start(tmp_path, policy_file):
    with contextlib.ExitStack() as stack:
        yield lambda upstream, *arguments, listen=("127.0.0.1:0",): stack.enter_context(
            Proxy(tmp_path, policy_file, upstream.address, arguments=list(map(str, arguments)), listen=listen)
        )


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


@pytest.fixture
def secret(tmp_path):
    """Puts a secret into a file."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def client_context(files, *, certificate=None):
    context = ssl.create_default_context(cafile=files.ca)
    if certificate == "client":
        context.load_cert_chain(files.client_cert, files.client_key)
    if certificate == "stranger":
        context.load_cert_chain(files.stranger_cert, files.stranger_key)
    return context


def server_context(files, *, wants_certificate=False):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.server_cert, files.server_key)
    if wants_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def goes_through(proxy, **options):
    with Client(proxy.address, **options) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        return client.answer() == {b"ack": b"abc"}


def test_clients_have_to_know_the_key(start, receiver, secret):
    proxy = start(receiver, "--shared-key-file", secret("key", "the key\n"))
    assert goes_through(proxy, security=UpstreamSecurity(b"the key", b"client"))
    with pytest.raises(HandshakeError, match="shared_key mismatch"):
        goes_through(proxy, security=UpstreamSecurity(b"the key\n", b"client"))
    proxy.wait_for_log(": shared_key mismatch; its connection is closed")
    assert "the key" not in proxy.logs()
    assert len(receiver.frames) == 1


def test_clients_have_to_name_a_user_and_know_the_password(start, receiver, secret):
    users = secret("users", "alice:a:b\n\nbob:secret\n")
    proxy = start(receiver, "--shared-key-file", secret("key", "key"), "--users-file", users)
    assert goes_through(proxy, security=UpstreamSecurity(b"key", b"client", b"alice", b"a:b"))
    for user, password in ((b"alice", b"secret"), (b"eve", b"secret")):
        with pytest.raises(HandshakeError, match="username/password mismatch"):
            goes_through(proxy, security=UpstreamSecurity(b"key", b"client", user, password))


def test_a_client_may_send_before_it_has_the_answer(start, receiver, secret):
    proxy = start(receiver, "--shared-key-file", secret("key", "key"))
    with Client(proxy.address) as client:
        handshake = ClientHandshake(UpstreamSecurity(b"key", b"client"))
        client.send(handshake.ping(client.answer()) + packed("t", [entry(KEPT)], chunk="abc"))
        handshake.check(client.answer())
        assert client.answer() == {b"ack": b"abc"}
    assert len(receiver.frames) == 1


def test_a_client_that_does_not_shake_hands_is_sent_away(start, receiver, secret):
    proxy = start(receiver, "--shared-key-file", secret("key", "key"), "--handshake-timeout", "3")
    with Client(proxy.address) as client:
        assert client.answer()[0] == b"HELO"
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert client.is_cut_off()
    proxy.wait_for_log("a client does not begin with PING")
    with Client(proxy.address) as silent:
        assert silent.answer()[0] == b"HELO"
        assert silent.is_cut_off()
    assert receiver.frames == []


def test_the_server_is_told_key_user_and_password(start, secret):
    security = ListenSecurity(b"key", b"server", {b"bob": b"secret"})
    with Receiver(security=security) as receiver:
        arguments = ["--upstream-shared-key-file", secret("key", "key\n"), "--upstream-user", "bob"]
        proxy = start(receiver, *arguments, "--upstream-password-file", secret("password", "secret\n"))
        assert goes_through(proxy)


def test_a_server_that_refuses_us_is_down(start, secret):
    with Receiver(security=ListenSecurity(b"key", b"server")) as receiver:
        arguments = ["--upstream-shared-key-file", secret("key", "other"), "--retry-timeout", "1"]
        proxy = start(receiver, *arguments)
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.is_cut_off()
        proxy.wait_for_log(f"upstream down: {receiver.address}: the server refuses us: shared_key mismatch")


def test_what_a_server_says_can_not_be_mistaken_for_other_messages(start, secret):
    """Not even when it has not shown that it knows the key."""
    reason = (
        b"no\n2026-01-01T00:00:00.000Z INFO    kube-audit-filter[1]: all is well\r\x1b[2J\x1b[31m"
        + b"x" * 5000
    )

    class Liar(Receiver):
        def _greet(self, connection):
            connection.sendall(msgpack.packb(["HELO", {"nonce": b"n" * 16, "auth": b"", "keepalive": True}]))
            connection.sendall(msgpack.packb(["PONG", False, reason, "", ""], use_bin_type=False))

    with Liar(security=True) as receiver:
        key = secret("key", "key")
        for count, format_ in enumerate(("text", "json"), 1):
            proxy = start(receiver, "--upstream-shared-key-file", key, "--log-format", format_)
            wait_until(lambda: proxy.logs().count("the server refuses us: no") >= count, "it is refused")  # noqa: B023
            assert proxy.stop() == 0
    lines = proxy.logs().splitlines()
    assert all(line.isprintable() for line in lines)
    assert sum("all is well" in line for line in lines) == 2
    assert not any(line.endswith("all is well") or len(line) > 1000 for line in lines)


@pytest.mark.parametrize("moved", [0, 1, 16])
def test_a_server_without_the_key_can_not_use_what_it_is_told_to_send_records(start, secret, moved):
    """It hands the nonce of the proxy's listener to the proxy, and what it is told to the listener."""
    answers = queue.SimpleQueue()

    class Thief(Receiver):
        proxy = None

        def _greet(self, connection):
            wait_until(lambda: self.proxy, "the proxy is known")
            with Client(self.proxy.address) as client:
                connection.sendall(msgpack.packb(client.answer(), use_bin_type=False))
                ping = _read_value(connection, msgpack.Unpacker(raw=True))
                # Digests do not say where the salt ends and the hostname begins.
                start = ping[2] + ping[1]
                ping[1], ping[2] = start[16 - moved :], start[: 16 - moved]
                client.send(msgpack.packb(ping, use_bin_type=False))
                answers.put(client.answer())

    with Thief(security=True) as receiver:
        key = secret("key", "the key")
        receiver.proxy = start(receiver, "--shared-key-file", key, "--upstream-shared-key-file", key)
        pong = answers.get(timeout=DEADLINE)
    assert pong[:2] == [b"PONG", False]
    assert pong[3:] == [b"", b""]


def test_a_client_of_the_proxys_own_name_is_refused(start, receiver, secret):
    proxy = start(receiver, "--shared-key-file", secret("key", "key"), "--self-hostname", "same")
    with pytest.raises(HandshakeError, match="the client goes by our own name: see --self-hostname"):
        goes_through(proxy, security=UpstreamSecurity(b"key", b"same"))
    assert goes_through(proxy, security=UpstreamSecurity(b"key", b"other"))


def test_a_server_that_does_not_shake_hands_is_down(start, secret, receiver):
    arguments = ["--upstream-shared-key-file", secret("key", "key"), "--handshake-timeout", "0.3"]
    proxy = start(receiver, *arguments, "--retry-timeout", "1")
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        proxy.wait_for_log(f"upstream down: {receiver.address}: no connection within 0.3 s")


def test_tls_on_both_sides(start, files):
    with Receiver(tls=server_context(files)) as receiver:
        arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key]
        proxy = start(receiver, *arguments, "--upstream-tls-ca", files.ca, listen=["tls://127.0.0.1:0"])
        assert proxy.address.startswith("tls://")
        assert goes_through(proxy, tls=client_context(files))
        big = packed("t", [entry(KEPT)] * 20_000, chunk="big")
        with Client(proxy.address, tls=client_context(files)) as client:
            client.send(big)
            assert client.answer() == {b"ack": b"big"}
        assert receiver.frames[1] == big
        assert proxy.stop() == 0


def test_tls_and_a_key_together(start, files, receiver, secret):
    arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key]
    proxy = start(
        receiver, *arguments, "--shared-key-file", secret("key", "key"), listen=["tls://127.0.0.1:0"]
    )
    assert goes_through(proxy, tls=client_context(files), security=UpstreamSecurity(b"key", b"client"))


@pytest.mark.parametrize(("certificate", "is_let_in"), [("client", True), ("stranger", False), (None, False)])
def test_clients_may_have_to_show_a_certificate(start, files, receiver, certificate, is_let_in):
    arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key]
    proxy = start(receiver, *arguments, "--tls-client-ca", files.ca, listen=["tls://127.0.0.1:0"])
    if is_let_in:
        assert goes_through(proxy, tls=client_context(files, certificate=certificate))
        return
    # In TLS 1.3, a client learns what the server thinks of its certificate when it reads.
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        goes_through(proxy, tls=client_context(files, certificate=certificate))
    proxy.wait_for_log("its connection is closed")
    assert "certificate" in proxy.logs()
    assert receiver.frames == []


def test_the_server_is_shown_a_certificate(start, files):
    with Receiver(tls=server_context(files, wants_certificate=True)) as receiver:
        shown = ["--upstream-tls-cert", files.client_cert, "--upstream-tls-key", files.client_key]
        assert goes_through(start(receiver, "--upstream-tls-ca", files.ca, *shown))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "certificate not accepted"),
        (
            ["--upstream-tls-ca", "CA", "--upstream-tls-server-name", "other.example"],
            "certificate not accepted",
        ),
    ],
)
def test_a_server_with_a_wrong_certificate_is_down(start, files, arguments, fault):
    with Receiver(tls=server_context(files)) as receiver:
        arguments = [files.ca if each == "CA" else each for each in arguments]
        proxy = start(receiver, *arguments, "--retry-timeout", "1")
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            proxy.wait_for_log(f"upstream down: {receiver.address}: {fault}")
        assert receiver.frames == []


def test_any_certificate_is_taken_where_the_user_says_so(start, files):
    with Receiver(tls=server_context(files)) as receiver:
        assert goes_through(start(receiver, "--upstream-tls-no-verify"))


def test_what_is_no_tls_is_sent_away_from_where_tls_is_spoken(start, files, receiver):
    arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key]
    proxy = start(receiver, *arguments, "--handshake-timeout", "3", listen=["tls://127.0.0.1:0"])
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert client.is_cut_off()
    proxy.wait_for_log("TLS: ")
    with Client(proxy.address) as silent:
        assert silent.is_cut_off()
    assert goes_through(proxy, tls=client_context(files))


def test_a_renewed_certificate_is_shown_after_sighup(start, files, receiver, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    renewed = make_certificates(other)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(files.server_cert.read_bytes())
    key.write_bytes(files.server_key.read_bytes())
    proxy = start(receiver, "--tls-cert", cert, "--tls-key", key, listen=["tls://127.0.0.1:0"])
    with Client(proxy.address, tls=client_context(files)) as before:
        key.write_text("no key")
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_log("the certificate in use stays")
        assert goes_through(proxy, tls=client_context(files))
        cert.write_bytes(renewed.server_cert.read_bytes())
        key.write_bytes(renewed.server_key.read_bytes())
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_log("this policy is in use already")

        def is_renewed():
            with contextlib.suppress(ssl.SSLError):
                return goes_through(proxy, tls=client_context(renewed))

        wait_until(is_renewed, "the new certificate is shown")
        before.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert before.answer() == {b"ack": b"abc"}


def test_renewed_authorities_of_clients_hold_after_sighup(start, files, receiver, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(files.other_ca.read_bytes())
    arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key, "--tls-client-ca", ca]
    proxy = start(receiver, *arguments, listen=["tls://127.0.0.1:0"])

    def may_connect(certificate):
        with contextlib.suppress(OSError, EOFError):
            return goes_through(proxy, tls=client_context(files, certificate=certificate))

    assert not may_connect("client")
    assert may_connect("stranger")
    ca.write_text("no authority")
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_for_log(f"{ca}: TLS: ")
    assert may_connect("stranger")
    ca.write_bytes(files.ca.read_bytes())
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: may_connect("client"), "the new authority is asked for")
    assert not may_connect("stranger")


def test_upstreams_are_shown_a_renewed_certificate_after_sighup(start, files, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(files.stranger_cert.read_bytes())
    key.write_bytes(files.stranger_key.read_bytes())
    with Receiver(tls=server_context(files, wants_certificate=True)) as receiver:
        shown = ["--upstream-tls-cert", cert, "--upstream-tls-key", key, "--upstream-tls-ca", files.ca]
        proxy = start(receiver, *shown)
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            cert.write_bytes(files.client_cert.read_bytes())
            key.write_bytes(files.client_key.read_bytes())
            proxy.process.send_signal(signal.SIGHUP)
            assert client.answer() == {b"ack": b"abc"}


# OpenSSL crashes when a context is changed while another thread begins a connection with it: seldom, so this
# does it whenever a context is changed that a connection was begun with. Python imports it at its start.
WATCH = """
import os, ssl

used = []
wrap_bio = ssl.SSLContext.wrap_bio

def watched_wrap_bio(context, *arguments, **options):
    used.append(context)
    return wrap_bio(context, *arguments, **options)

def watch(name):
    load = getattr(ssl.SSLContext, name)

    def watched(context, *arguments, **options):
        if context in used:
            os.abort()
        return load(context, *arguments, **options)

    setattr(ssl.SSLContext, name, watched)

ssl.SSLContext.wrap_bio = watched_wrap_bio
watch("load_cert_chain")
watch("load_verify_locations")
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_certificates_are_read_again_in_the_middle_of_handshakes(
    files, receiver, tmp_path, policy_file, loop
):
    """Each handshake ends in a SIGHUP, which comes in the middle of the others."""
    path = tmp_path / "path"
    path.mkdir()
    (path / "sitecustomize.py").write_text(WATCH)
    if loop == "asyncio":
        (path / "uvloop.py").write_text("raise ImportError")
    else:
        pytest.importorskip("uvloop")
    arguments = ["--tls-cert", files.server_cert, "--tls-key", files.server_key, "--log-level", "info"]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    failed = []

    def connect(proxy, context):
        try:
            for _ in range(60):
                with Client(proxy.address, tls=context):
                    proxy.process.send_signal(signal.SIGHUP)
        except OSError as error:
            failed.append(error)

    with Proxy(
        tmp_path,
        policy_file,
        receiver.address,
        arguments=[str(word) for word in arguments],
        listen=["tls://127.0.0.1:0"],
        environment=environment,
    ) as proxy:
        context = client_context(files)
        threads = [threading.Thread(target=connect, args=(proxy, context)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (proxy.process.poll(), failed) == (None, [])
        assert goes_through(proxy, tls=context)


CASES = {
    "no port": (["--listen", "localhost"], "expected host:port, tls://host:port or unix:PATH"),
    "ports": (["--listen", "localhost:1-2"], "expected host:port"),
    "upstream port": (["--upstream", "localhost:0"], "port 0 can't be connected to"),
    "unknown host": (["--listen", "no.such.host.invalid:1"], "can't listen on no.such.host.invalid:1: "),
    "no certificate": (["--listen", "tls://127.0.0.1:0"], "needs --tls-cert"),
    "useless certificate": (["--tls-cert", "FILE"], "of use only with --listen tls://"),
    "key alone": (["--tls-key", "FILE"], "--tls-key needs --tls-cert"),
    "no PEM": (["--listen", "tls://127.0.0.1:0", "--tls-cert", "FILE"], "FILE: TLS: "),
    "useless CA": (["--upstream-tls-ca", "FILE"], "of use only with --upstream tls://"),
    "no PEM upstream": (["--upstream", "tls://a:1", "--upstream-tls-ca", "FILE"], "FILE: TLS: "),
    "users alone": (["--users-file", "FILE"], "--users-file needs --shared-key-file"),
    "no users": (["--shared-key-file", "FILE", "--users-file", "FILE"], "FILE:1: expected user:password"),
    "user alone": (["--upstream-user", "bob"], "go together"),
    "user without key": (
        ["--upstream-user", "b", "--upstream-password-file", "FILE"],
        "needs --upstream-shared",
    ),
    "empty key": (["--shared-key-file", "EMPTY"], "EMPTY: it is empty, and no secret"),
    "missing key": (["--shared-key-file", "MISSING"], "MISSING' does not exist"),
    "tag and prefix": (["--tag", "a", "--tag-prefix-add", "b"], "does not go together"),
    "empty tag": (["--tag", ""], "a tag can't be empty"),
    "mode": (["--socket-mode", "999"], "expected a file mode in octal digits"),
    "seconds": (["--ack-timeout", "-1"], "expected seconds"),
    "no seconds": (["--retry-timeout", "0"], "expected seconds, more than 0"),
    "useless client CA": (["--tls-client-ca", "FILE"], "of use only with --listen tls://"),
    "long path": (["--listen", "unix:/tmp/" + "x" * 120], "AF_UNIX path too long"),
}


@pytest.mark.parametrize(("arguments", "fault"), CASES.values(), ids=CASES)
def test_wrong_usage_is_said_with_the_option_at_fault(policy_file, tmp_path, arguments, fault):
    (tmp_path / "FILE").write_text("nothing useful\n")
    (tmp_path / "EMPTY").write_text("")
    arguments = [str(tmp_path / each) if each in ("FILE", "EMPTY", "MISSING") else each for each in arguments]
    upstream = [] if "--upstream" in arguments else ["--upstream", "127.0.0.1:1"]
    command = [*FORWARD, "--policy", policy_file, *upstream, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    said = " ".join(result.stderr.replace(f"{tmp_path}/", "").split())
    assert fault in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("address", "local"), [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")])
def test_where_the_user_says_so_anybody_may_connect(start, receiver, address, local):
    proxy = start(receiver, "--insecure", listen=[address])
    with Client(f"{local}:{proxy.address.rpartition(':')[2]}") as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}
