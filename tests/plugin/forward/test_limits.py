"""What bounds the proxy, whatever clients send or don't send."""

import asyncio
import contextlib
import gzip
import socket

import pytest

from filter_engine import PolicyEvaluator
from plugin.forward.address import Address
from plugin.forward.protocol.entries import PayloadLimits
from plugin.forward.protocol.message_filter import MessageFilter
from plugin.forward.repeats import Repeats
from plugin.forward.route import Upstreams
from plugin.forward.session import Session, SessionContext, SessionSettings
from plugin.forward.upstream import ConnectSettings
from plugin.records.record_filter import RecordFilter
from plugin.service.diagnostics import Diagnostics
from tests.support import DROPPED, KEPT, policy
from tests.support.forward_peers import Client, Proxy, Receiver, entry, forward, packed
from tests.support.processes import status_of

METRICS = ("--metrics-listen", "127.0.0.1:0")


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


@pytest.fixture
def start(tmp_path, policy_file, receiver):
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(
            Proxy(tmp_path, policy_file, receiver.address, arguments=[*METRICS, *arguments])
        )


def goes_through(proxy):
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        return client.answer() == {b"ack": b"abc"}


HUGE = packed("t", [entry({**KEPT, "requestObject": "x" * 100_000})], chunk="abc")
BOMB = packed("t", [gzip.compress(entry(bytes(10_000)) * 1000)], chunk="abc", compressed="gzip")
SMALL = ("--max-message-size", "50000", "--max-decompressed-size", "1M")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (HUGE, "a message is larger than 50000 bytes: see --max-message-size"),
        (BOMB, "is larger than 1048576 bytes when decompressed: see --max-decompressed-size"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "this is not the forward protocol: it starts with b'GET / HTTP/1.1",
        ),
        (b'["tag", 1, {,}]', "a message in JSON that can't be read: JSON is malformed"),
        (b"\xc1", "malformed MessagePack"),
        (b"\x92\xa1t\x91" + b"\x91" * 3000, "a message is nested too deeply to be read"),
    ],
    ids=["huge", "bomb", "HTTP", "JSON", "no MessagePack", "nested"],
)
def test_a_client_that_goes_beyond_a_limit_is_sent_away_and_nobody_else(start, receiver, sent, said):
    proxy = start(*SMALL)
    with Client(proxy.address) as other, Client(proxy.address) as client:
        client.send(sent)
        assert client.is_cut_off()
        proxy.wait_for_log(said)
        assert proxy.metrics()['forward_client_connections_cut_total{reason="protocol"}'] == 1
        other.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert other.answer() == {b"ack": b"abc"}
    assert len(receiver.frames) == 1


def test_what_came_before_something_that_can_not_be_read_is_delivered(start, receiver):
    proxy = start()
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)]) * 3 + b"\xc1")
        assert client.is_cut_off()
    assert len(receiver.wait_for(3)) == 3


def test_a_message_that_comes_in_parts_without_end_takes_no_more_memory_than_may_be(start):
    proxy = start("--max-message-size", "20M")
    before = status_of(proxy.process, "VmRSS")
    with Client(proxy.address) as client, contextlib.suppress(ConnectionError):
        client.send(b"\x92\xa1t\xc6\x7f\xff\xff\xff")
        for _ in range(1000):
            client.send(bytes(1 << 20))
    proxy.wait_for_log("a message is larger than 20971520 bytes")
    assert status_of(proxy.process, "VmHWM") - before < 120 << 10


def test_no_more_clients_than_may_be_are_served(start):
    proxy = start("--max-connections", "3")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(3)]
        proxy.wait_for_metric("forward_client_connections", 3)
        with Client(proxy.address) as fourth:
            assert fourth.is_cut_off()
        proxy.wait_for_log("is refused: there are 3 already, see --max-connections")
        clients[0].close()
        proxy.wait_for_metric("forward_client_connections", 2)
        assert goes_through(proxy)
        assert proxy.metrics()['forward_client_connections_cut_total{reason="refused"}'] == 1


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "nothing came for 0.3 s"),
        (packed("t", [entry(KEPT)])[:-5], "a message has not come whole within 0.3 s"),
    ],
    ids=["nothing", "half a message"],
)
def test_a_client_that_is_silent_is_sent_away(start, sent, said):
    proxy = start("--idle-timeout", "0.3")
    with Client(proxy.address) as client:
        client.send(sent)
        assert client.is_cut_off()
    proxy.wait_for_log(f"{said}; its connection is closed")
    proxy.wait_for_metric("forward_client_connections", 0)


def test_a_client_that_does_not_read_its_acknowledgements_is_sent_away(start):
    proxy = start("--idle-timeout", "0.5")
    with Client(proxy.address) as client, contextlib.suppress(ConnectionError):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while True:
            client.send(packed("t", [entry(DROPPED)], chunk="c" * 4_000))
    proxy.wait_for_log("it has not read acknowledgements for 0.5 s")
    proxy.wait_for_metric("forward_client_connections", 0)


def test_a_client_that_waits_for_a_server_is_not_silent(start, receiver):
    receiver.close()
    proxy = start("--idle-timeout", "1")
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        client.socket.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.answer()


def test_a_connection_that_ends_inside_a_message_is_spoken_of(start):
    proxy = start()
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)])[:-5])
    proxy.wait_for_log("the connection ended inside a message, of which")


def test_a_client_that_is_gone_is_noticed(start, receiver):
    proxy = start()
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        client.answer()
        client.send(b"\x93\xa1t")
        # With this, closing means a reset.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    proxy.wait_for_log("Connection reset by peer")
    proxy.wait_for_metric("forward_client_connections", 0)


def test_a_record_nested_deeper_than_may_be_passes(start, receiver):
    proxy = start("--max-depth", "10")
    nested = {"deeper": 1}
    for _ in range(10):
        nested = {"deeper": nested}
    sent = forward("t", [entry(DROPPED), entry({**DROPPED, "requestObject": nested})], chunk="abc")
    with Client(proxy.address) as client:
        client.send(sent)
        assert client.answer() == {b"ack": b"abc"}
    assert receiver.messages[0][2][b"size"] == 1
    assert proxy.metrics()['undecided_total{reason="too_deep"}'] == 1


def test_only_so_many_chunks_are_remembered():
    repeats, message = Repeats(), memoryview(b"a message")
    for number in range(10_000):
        repeats.note(str(number).encode(), message)
    assert repeats.count == 0
    for number in (9_999, 9_000, 0):
        repeats.note(str(number).encode(), message)
    assert repeats.count == 2
    for _ in range(2):
        repeats.note(b"x" * 1000, message)
    assert repeats.count == 2
    assert len(repeats._seen) <= 4096


class FailingFilter(MessageFilter):
    """A filter with a fault."""

    def work(self, message):
        raise RuntimeError("a fault of ours")
        yield


def test_a_fault_of_the_filter_loses_no_message(capfd):
    sent = packed("t", [entry(KEPT), entry(DROPPED)], chunk="abc")
    records = RecordFilter()
    records.use(records.prepare(PolicyEvaluator(policy())))
    failing = FailingFilter(records, PayloadLimits(1 << 20))

    async def serve(receiver, ours):
        upstreams = Upstreams(
            [Address.parse(receiver.address)],
            ConnectSettings(),
            Diagnostics(),
            ack_timeout=5,
            retry_timeout=5,
        )
        context = SessionContext(
            failing,
            upstreams,
            Diagnostics(),
            SessionSettings(
                security=None,
                max_message_size=1 << 20,
                max_entries=100,
                max_in_flight=1 << 20,
                idle_timeout=5,
                handshake_timeout=5,
            ),
        )
        await Session(context, ours, "test", None).run()
        upstreams.close()

    client, ours = socket.socketpair()
    with Receiver() as receiver, client:
        ours.setblocking(False)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        asyncio.run(serve(receiver, ours))
        assert client.recv(100) == b"\x81\xa3ack\xa3abc"
        assert receiver.frames == [sent]
    assert "went on undecided: RuntimeError('a fault of ours')" in capfd.readouterr().err
    assert records.counters.undecided == {"internal_error": 1}
