"""Connections to servers that end, or never come to be: nothing is lost, and nothing is left behind."""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import ssl
import threading
import warnings
from pathlib import Path

import pytest

from plugin.forward.address import Address
from plugin.forward.connection import UpstreamError
from plugin.forward.protocol.handshake import ListenSecurity
from plugin.forward.upstream import ConnectSettings, Upstream
from plugin.service.diagnostics import Diagnostics
from tests.support import KEPT, event
from tests.support.certificates import make_certificates
from tests.support.forward_peers import Client, Proxy, Receiver, decode, entry, forward, packed
from tests.support.processes import DEADLINE, wait_until

METRICS = ("--metrics-listen", "127.0.0.1:0")


@pytest.fixture
def start(tmp_path, policy_file):
    with contextlib.ExitStack() as stack:
        yield lambda upstream, *arguments, **options: stack.enter_context(
            Proxy(tmp_path, policy_file, upstream.address, arguments=[*METRICS, *arguments], **options)
        )


@pytest.fixture
def key(tmp_path):
    (tmp_path / "key").write_text("key")
    return str(tmp_path / "key")


@pytest.fixture(params=["uvloop", "asyncio"])
def environment(request, tmp_path):
    """The environment of a proxy whose event loop is the one or the other."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        return dict(os.environ)
    (tmp_path / "uvloop.py").write_text("raise ImportError\n")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}


def connections(receiver):
    return f'forward_upstream_connections{{upstream="{receiver.address}"}}'


# The handshake.


@pytest.mark.parametrize(
    "helo", [b"", b"\x92\xa4HELO\x81\xa5non"], ids=["before a word", "inside the server's HELO"]
)
def test_a_server_that_goes_away_in_the_handshake_is_down_and_the_proxy_works_on(start, key, helo):
    with Receiver() as receiver:

        def serve(connection):
            with connection:
                connection.sendall(helo)

        receiver._serve = serve
        proxy = start(receiver, "--upstream-shared-key-file", key)
        proxy.wait_for_log(f"upstream down: {receiver.address}: the connection was closed in the handshake")
        assert proxy.stop() == 0


def test_a_server_that_goes_away_when_it_is_told_the_key_is_down_and_the_reason_is_guessed(start, key):
    with Receiver() as receiver:

        def serve(connection):
            with connection:
                connection.sendall(b"\x92\xa4HELO\x81\xa5nonce\xa1n")
                connection.recv(1 << 10)

        receiver._serve = serve
        proxy = start(receiver, "--upstream-shared-key-file", key)
        proxy.wait_for_log("the server closed the connection when it was told the shared key")
        assert proxy.stop() == 0


def test_a_client_that_goes_away_in_the_handshake_holds_up_nobody(start, key):
    with Receiver() as receiver:
        proxy = start(receiver, "--shared-key-file", key)
        with Client(proxy.address) as client:
            client.answer()
            client.send(b"\x96\xa4PING\xa6cli")
        proxy.wait_for_log("the connection was closed in the handshake")
        assert proxy.stop() == 0


@pytest.mark.parametrize("helo", [b"\x92\xa4HELO", b"\x92\xa4HELO\x01", b"\xc1"])
def test_of_a_failed_handshake_no_connection_is_left(start, key, helo):
    ended = threading.Event()
    with Receiver() as receiver:

        def serve(connection):
            with connection:
                connection.sendall(helo)
                connection.settimeout(DEADLINE)
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(1) == b""
                ended.set()

        receiver._serve = serve
        proxy = start(receiver, "--upstream-shared-key-file", key, "--handshake-timeout", "0.5")
        assert ended.wait(DEADLINE)
        proxy.wait_for_log(f"upstream down: {receiver.address}: ")


def test_a_failed_connect_leaves_no_socket():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def fail():
        upstream = Upstream(
            Address.parse(f"127.0.0.1:{port}"), ConnectSettings(), Diagnostics(), lambda: None
        )
        with pytest.raises(UpstreamError, match="Connection refused"):
            await upstream.connection()
        upstream.close()

    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(fail())
        gc.collect()
    assert [str(each.message) for each in caught if each.category is ResourceWarning] == []


# Connections that have ended.


@pytest.mark.parametrize("is_held", [True, False], ids=["by a client", "by nobody"])
def test_a_connection_that_has_ended_is_not_tried(start, is_held):
    with Receiver() as receiver, contextlib.ExitStack() as stack:
        proxy = start(receiver)
        client = stack.enter_context(Client(proxy.address))
        for number in "123":
            client.send(packed("t", [entry(KEPT)], chunk=number))
            assert client.answer() == {b"ack": number.encode()}
            if not is_held:
                client.close()
                proxy.wait_for_metric("forward_client_connections", 0)
                client = stack.enter_context(Client(proxy.address))
            receiver.cut()
            proxy.wait_for_metric(connections(receiver), 0)
        assert len(receiver.frames) == 3
        assert proxy.metrics()["forward_resent_total"] == 0


def test_a_connection_for_one_message_gets_one(start, key):
    counts = {}

    def count(connection, message):
        counts[connection] = counts.get(connection, 0) + 1
        return Receiver._acknowledge(None, message)

    with Receiver(count, security=ListenSecurity(b"key", b"server")) as receiver:
        receiver._helo = lambda handshake: handshake.helo().replace(b"keepalive\xc3", b"keepalive\xc2")
        proxy = start(receiver, "--upstream-shared-key-file", key)
        proxy.wait_for_metric(connections(receiver), 1)  # which the first message takes
        for _ in range(2):
            with Client(proxy.address) as client:
                for number in "123":
                    client.send(packed("t", [entry(KEPT)], chunk=number))
                    assert client.answer() == {b"ack": number.encode()}
        assert list(counts.values()) == [1] * 6
        assert receiver.connections == 6
        assert proxy.metrics()["forward_resent_total"] == 0


# Messages without a chunk are delivered when the system has taken them, and not before.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def stuck(files):
    """Makes servers whose first connection reads nothing: what comes after ``has_begun`` is cut off."""
    with contextlib.ExitStack() as stack:

        def make(*, tls):
            context = None
            if tls:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(files.server_cert, files.server_key)
            receiver = stack.enter_context(Receiver(tls=context))
            receiver.has_begun, go_on, read = threading.Event(), threading.Event(), receiver._read
            seen = []

            def read_or_not(connection):
                seen.append(connection)
                if len(seen) > 1:
                    read(connection)
                    return
                select.select([connection], [], [], DEADLINE)
                receiver.has_begun.set()
                assert go_on.wait(DEADLINE)

            receiver._read = read_or_not
            receiver.go_on = go_on
            return receiver

        yield make


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_what_the_system_has_not_taken_when_the_connection_ends_is_sent_again(
    start, stuck, files, environment, tls
):
    receiver = stuck(tls=tls)
    arguments = ["--upstream-tls-ca", str(files.ca)] if tls else []
    proxy = start(receiver, *arguments, environment=environment)
    # More than the buffers of the system hold.
    record = event(requestObject="x" * (1 << 20))
    sent = forward("t", [entry(record)] * 16)
    with Client(proxy.address) as client:
        client.send(sent)
        assert receiver.has_begun.wait(DEADLINE)
        assert proxy.metrics()["output_blocked_seconds"] > 0
        receiver.go_on.set()
        receiver.wait_for(1)
    assert receiver.frames == [sent]
    assert proxy.metrics()["forward_resent_total"] == 1
    assert proxy.stop() == 0


# The end.


def test_a_client_that_wants_no_acknowledgement_sees_the_end_and_may_still_finish_its_message(start):
    with Receiver() as receiver:
        proxy = start(receiver)
        first, second = (packed("t", [entry(event(auditID=name))]) for name in ("first", "second"))
        with Client(proxy.address) as client:
            client.send(first + second[:20])
            receiver.wait_for(1)
            proxy.process.send_signal(signal.SIGTERM)
            assert client.socket.recv(1) == b""  # it is told to send what comes next elsewhere
            client.send(second[20:])
            assert proxy.process.wait(DEADLINE) == 0
        assert receiver.frames == [first, second]


def test_one_connection_follows_the_other_without_any_left_over(start):
    with Receiver(lambda *_: None) as receiver:
        proxy = start(receiver, "--retry-timeout", "2")
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.is_cut_off()
        wait_until(lambda: proxy.metrics()[connections(receiver)] == 0, "no connection is left")
        assert all(decode(frame)[2][b"chunk"] == b"abc" for frame in receiver.frames)
