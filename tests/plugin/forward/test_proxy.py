"""The forward proxy as a process between a client and servers: what arrives, and what is acknowledged."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import msgpack
import pytest

from plugin.forward.protocol.handshake import ListenSecurity
from tests.plugin.forward.test_message_filter import put_through
from tests.support import CAPTURES, DROPPED, KEPT, POLICY, event
from tests.support.agents import free_port
from tests.support.forward_peers import FORWARD, Client, Proxy, Receiver, decode, entry, forward, packed
from tests.support.processes import DEADLINE, wait_for_line, wait_until

KEEP_ALL = POLICY.partition("rules:")[0] + "rules: [{level: Metadata}]\n"
METRICS = ("--metrics-listen", "127.0.0.1:0")


@pytest.fixture
def start(tmp_path, policy_file):
    """Starts proxies with the usual policy; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *upstreams, **options: stack.enter_context(
            Proxy(tmp_path, policy_file, *(each.address for each in upstreams), **options)
        )


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


class Gate:
    """How a receiver reacts that acknowledges nothing before it is opened."""

    def __init__(self):
        self._open = threading.Event()

    def __call__(self, _, message):
        assert self._open.wait(DEADLINE)
        return Receiver._acknowledge(None, message)

    def open(self):
        self._open.set()


def says_nothing(client, proxy):
    """Whether there is nothing for a client, when another one that came later has its answer."""
    with Client(proxy.address) as other:
        other.send(packed("t", [entry(DROPPED)], chunk="later"))
        assert other.answer() == {b"ack": b"later"}
    return not select.select([client.socket], [], [], 0)[0]


def test_what_is_kept_goes_on_and_is_acknowledged(start, receiver):
    with Client(start(receiver).address) as client:
        client.send(packed("kube.audit", [entry(KEPT), entry(DROPPED), entry(KEPT)], chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}
    assert receiver.messages == [[b"kube.audit", entry(KEPT) * 2, {b"size": 2, b"chunk": b"abc"}]]


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.bin")), ids=lambda path: path.stem)
def test_what_agents_send_goes_through(start, receiver, path):
    sent = path.read_bytes()
    option = decode(sent)[-1]
    with Client(start(receiver).address) as client:
        client.send(sent)
        if isinstance(option, dict) and b"chunk" in option:
            assert client.answer() == {b"ack": option[b"chunk"]}
        receiver.wait_for(1)
    assert receiver.frames == [put_through(sent)]


def test_a_message_may_come_byte_by_byte_and_many_at_once(start, receiver):
    sent = (CAPTURES / "fluentd-1.18.0-compressed-gzip-ack.bin").read_bytes()
    with Client(start(receiver).address) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(sent)):
            client.send(sent[at : at + 1])
        client.answer()
        client.send(sent * 50)
        for _ in range(50):
            client.answer()
    assert receiver.frames == [put_through(sent)] * 51


def test_a_message_is_acknowledged_only_after_the_servers_acknowledgement(start):
    gate = Gate()
    with Receiver(gate) as receiver:
        proxy = start(receiver)
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            receiver.wait_for(1)
            assert says_nothing(client, proxy)
            gate.open()
            assert client.answer() == {b"ack": b"abc"}


@pytest.mark.parametrize("chunk", [b"\xa3abc", b"\xd9\x04abc\n", b"\xc4\x03abc", b"\x07", b"\x91\x01"])
def test_a_chunk_is_echoed_byte_for_byte_and_type_for_type(start, receiver, chunk):
    sent = b"\x93\xa1t\x91" + entry(KEPT) + b"\x82\xa4size\x01\xa5chunk" + chunk
    with Client(start(receiver).address) as client:
        client.send(sent)
        assert client.socket.recv(100) == b"\x81\xa3ack" + chunk
    assert receiver.frames == [sent]


def test_of_what_is_dropped_whole_nothing_is_sent_and_it_is_acknowledged(start, receiver):
    with Client(start(receiver).address) as client:
        client.send(packed("t", [entry(DROPPED)] * 3, chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}
    assert receiver.frames == []


def test_messages_without_a_chunk_stay_in_order_with_those_that_have_one(start, receiver):
    events = [event(auditID=str(number)) for number in range(300)]
    options = [{"chunk": str(number)} if number % 50 == 49 else {} for number in range(300)]
    sent = [packed("t", [entry(each)], **option) for each, option in zip(events, options, strict=True)]
    with Client(start(receiver).address) as client:
        client.send(b"".join(sent))
        assert [client.answer()[b"ack"] for _ in range(6)] == [b"49", b"99", b"149", b"199", b"249", b"299"]
    assert receiver.frames == sent


def test_clients_that_come_one_after_the_other_use_one_connection(start, receiver):
    proxy = start(receiver, arguments=METRICS)
    for number in range(5):
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk=str(number)))
            client.answer()
        proxy.wait_for_metric("forward_client_connections", 0)
    # The proxy may just have been looking whether the server is there when the first client came.
    assert receiver.connections <= 2


def test_what_a_server_did_not_acknowledge_is_sent_again(start):
    answers = iter([None, None])

    def hang_up_twice(_, message):
        return next(answers, Receiver._acknowledge(None, message))

    with Receiver(hang_up_twice) as receiver:
        proxy = start(receiver, arguments=METRICS)
        sent = packed("t", [entry(KEPT)], chunk="abc")
        with Client(proxy.address) as client:
            client.send(sent)
            assert client.answer() == {b"ack": b"abc"}
        assert receiver.frames == [sent] * 3
        assert proxy.metrics()["forward_resent_total"] == 2
        assert "has closed the connection" in proxy.logs()


def test_a_connection_that_the_server_has_closed_in_the_meantime_is_not_used(start, receiver):
    proxy = start(receiver)
    with Client(proxy.address) as client:
        for number in range(3):
            client.send(packed("t", [entry(KEPT)], chunk=str(number)))
            assert client.answer() == {b"ack": str(number).encode()}
            receiver.cut()
    assert len(receiver.frames) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x81\xa3ack\xa3xyz", "has acknowledged another message: b'xyz' in place of b'abc'"),
        (b"\x81\xa3ack\xc0", "has answered a message with b'\\x81\\xa3ack\\xc0'"),
        (
            b'{"ack":"abc"}',
            'has answered a message with b\'{"ack":"abc"}\': that is JSON, and not MessagePack',
        ),
        (b"\xa4fine", "has answered a message with b'\\xa4fine'"),
        (b"\xdb\0\0\x0f\0" + b"x" * 3840, "with b'\\xdb\\x00\\x00\\x0f\\x00xxx"),
        (b"\xc0", "has not acknowledged a message within 0.3 s, and has answered b'\\xc0'"),
        (b"\xc1", "does not speak the forward protocol: malformed MessagePack: it has answered b'\\xc1'"),
        (b"\x92\xa4HELO\x80", "wants a shared key"),
    ],
)
def test_a_wrong_answer_is_no_acknowledgement_and_the_proxy_says_what_came(start, answer, said):
    with Receiver(lambda *_: answer) as receiver:
        proxy = start(receiver, arguments=["--retry-timeout", "2", "--ack-timeout", "0.3"])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.is_cut_off()
        assert receiver.frames
        proxy.wait_for_log("a message was not acknowledged: 127.0.0.1:")
        assert f"{receiver.address}: " in proxy.logs()
        assert said in proxy.logs()
        assert max(map(len, proxy.logs().splitlines())) < 400


def test_a_nil_before_the_acknowledgement_does_no_harm(start):
    with Receiver(lambda *each: b"\xc0" + Receiver._acknowledge(*each)) as receiver:
        with Client(start(receiver).address) as client:
            for number in "123":
                client.send(packed("t", [entry(KEPT)], chunk=number))
                assert client.answer() == {b"ack": number.encode()}
        assert len(receiver.frames) == 3


def test_what_was_acknowledged_is_not_sent_again_because_the_connection_ends(start):
    def acknowledge_and_go(connection, message):
        connection.sendall(Receiver._acknowledge(None, message))

    with Receiver(acknowledge_and_go) as receiver, Client(start(receiver).address) as client:
        for number in range(20):
            client.send(packed("t", [entry(KEPT)], chunk=str(number)))
            assert client.answer() == {b"ack": str(number).encode()}
        assert len(receiver.frames) == 20


def test_a_server_that_ends_every_connection_at_once_is_not_besieged(start):
    with Receiver() as receiver:
        receiver._serve = lambda connection: connection.close()
        arguments = ["--retry-timeout", "2", *METRICS]
        proxy = start(receiver, arguments=arguments)
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.is_cut_off()
        connects = f'forward_upstream_connects_total{{result="connected",upstream="{receiver.address}"}}'
        assert proxy.metrics()[connects] < 20


def test_messages_without_a_chunk_wait_for_a_server_that_wants_a_key_we_do_not_have(start):
    with Receiver(security=ListenSecurity(b"key", b"server")) as receiver:
        proxy = start(receiver, arguments=["--shutdown-grace", "0.2"])
        proxy.wait_for_log("wants a shared key: see --upstream-shared-key-file")
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)]))
            proxy.wait_for_log(f"upstream down: {receiver.address}: wants a shared key")
            assert proxy.stop() == 1


def test_a_server_that_wants_one_message_for_each_connection_gets_it_so(start, tmp_path):
    (tmp_path / "key").write_text("key")
    with Receiver(security=ListenSecurity(b"key", b"server")) as receiver:
        receiver._helo = lambda handshake: handshake.helo().replace(b"keepalive\xc3", b"keepalive\xc2")
        proxy = start(receiver, arguments=["--upstream-shared-key-file", str(tmp_path / "key")])
        with Client(proxy.address) as client:
            for number in "1234":
                client.send(packed("t", [entry(KEPT)], chunk=number))
                assert client.answer() == {b"ack": number.encode()}
        assert receiver.connections >= 4


def test_a_server_that_wants_a_key_is_named_and_so_is_the_option(start):
    with Receiver(lambda *_: b"\x92\xa4HELO\x80") as receiver:
        proxy = start(receiver, arguments=["--retry-timeout", "1"])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            proxy.wait_for_log(f"{receiver.address}: wants a shared key: see --upstream-shared-key-file")


def test_a_client_is_sent_away_when_no_server_acknowledges(start):
    with Receiver(lambda *_: b"") as receiver:
        proxy = start(receiver, arguments=["--retry-timeout", "2", "--ack-timeout", "0.3", *METRICS])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.is_cut_off()
        proxy.wait_for_log("has not acknowledged a message within")
        assert proxy.metrics()['forward_acks_total{result="withheld"}'] == 1
        assert proxy.metrics()['forward_acks_total{result="sent"}'] == 0


def test_what_a_client_will_send_again_is_not_tried_any_longer(start):
    port = free_port()
    with Receiver() as other:
        other.address = f"127.0.0.1:{port}"
        proxy = start(other, arguments=METRICS)
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="gone"))
            proxy.wait_for_metric("forward_in_flight_bytes", len(packed("t", [entry(KEPT)], chunk="gone")))
        proxy.wait_for_log("a message was not acknowledged: the client has gone; ")
        with Receiver(port=port) as receiver, Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="again"))
            assert client.answer() == {b"ack": b"again"}
            assert [message[2][b"chunk"] for message in receiver.messages] == [b"again"]


def test_messages_wait_for_a_server_that_is_down(start, tmp_path):
    port = free_port()
    with Receiver() as other:
        other.address = f"127.0.0.1:{port}"
        proxy = start(other)
        with Client(proxy.address) as acked, Client(proxy.address) as not_acked:
            acked.send(packed("t", [entry(KEPT)], chunk="abc"))
            not_acked.send(packed("t", [entry(KEPT)]))
            proxy.wait_for_log(f"upstream down: 127.0.0.1:{port}: Connection refused")
            assert says_nothing(acked, proxy)
            with Receiver(port=port) as receiver:
                assert acked.answer() == {b"ack": b"abc"}
                receiver.wait_for(2)
                proxy.wait_for_log(f"upstream up: 127.0.0.1:{port}")


def test_the_first_server_that_is_up_gets_the_messages(start, receiver):
    def send(number):
        client.send(packed("t", [entry(KEPT)], chunk=number))
        assert client.answer() == {b"ack": number.encode()}

    with Receiver() as first:
        proxy = start(first, receiver, arguments=METRICS)
        with Client(proxy.address) as client:
            send("1")
            first.close()
            send("2")
            send("3")
            up = f'forward_upstream_up{{upstream="{first.address}"}}'
            assert proxy.metrics()[up] == 0
            with Receiver(port=first.port) as again:
                proxy.wait_for_metric(up, 1)
                send("4")
                assert (len(first.frames), len(receiver.frames), len(again.frames)) == (1, 2, 1)


def test_a_server_that_takes_connections_but_no_messages_is_passed_over(start, receiver):
    with Receiver(lambda *_: None) as first:
        proxy = start(first, receiver)
        with Client(proxy.address) as client:
            for number in range(20):
                client.send(packed("t", [entry(KEPT)], chunk=str(number)))
                assert client.answer() == {b"ack": str(number).encode()}
    assert len(receiver.frames) == 20
    # It is tried again now and then, but not with each message.
    assert 1 <= len(first.frames) < 20


def test_a_server_that_stops_acknowledging_is_spoken_of(start):
    silent = iter([False, True])

    def be_silent_once(_, message):
        return b"" if next(silent, False) else Receiver._acknowledge(None, message)

    with Receiver(be_silent_once) as receiver:
        proxy = start(receiver, arguments=["--ack-timeout", "2"])
        with Client(proxy.address) as client:
            for number in "12":
                client.send(packed("t", [entry(KEPT)], chunk=number))
                assert client.answer() == {b"ack": number.encode()}
        assert [message[2][b"chunk"] for message in receiver.messages] == [b"1", b"2", b"2"]
        assert receiver.connections == 2
        assert "has not acknowledged a message within 2 s" in proxy.logs()


def test_nothing_is_read_faster_than_the_server_takes_it(start):
    stuck = threading.Event()
    with Receiver(lambda *_: stuck.wait(DEADLINE) and b"") as receiver:
        proxy = start(receiver)
        with Client(proxy.address) as client:
            client.socket.setblocking(False)
            message = packed("t", [entry(KEPT)] * 1000)
            sent = 0
            while select.select([], [client.socket], [], 1.0)[1]:
                sent += client.socket.send(message)
                assert sent < 100 << 20
        stuck.set()


def test_a_client_that_does_not_read_its_acknowledgements_holds_up_nobody_else(start, receiver):
    proxy = start(receiver)
    with Client(proxy.address) as deaf, Client(proxy.address) as other:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.send(packed("t", [entry(DROPPED)], chunk="c" * 60) * 2000)
        other.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert other.answer() == {b"ack": b"abc"}


WITH_METADATA = msgpack.packb([[1_700_000_000, {}], KEPT])
SKIPPED = "Fluentd up to 1.19 acknowledges such records and throws them away"


@pytest.mark.parametrize("message", [packed, forward])
def test_records_that_a_fluentd_may_throw_away_are_warned_of_once(start, receiver, message):
    proxy = start(receiver)
    with Client(proxy.address) as client:
        for number, entries in enumerate([[entry(KEPT)], [WITH_METADATA], [WITH_METADATA] * 2]):
            assert (SKIPPED in proxy.logs()) == (number > 1)
            client.send(message("t", entries, chunk=str(number)))
            assert client.answer() == {b"ack": str(number).encode()}
    assert proxy.logs().count(SKIPPED) == 1
    assert f"records go to {receiver.address} as [[time, metadata], record]" in proxy.logs()
    assert decode(receiver.frames[1])[2][b"size"] == 1


@pytest.mark.parametrize("compat", ["fluentd", "fluent-bit"])
def test_where_the_user_has_said_what_the_server_is_nothing_is_warned_of(start, receiver, compat):
    proxy = start(receiver, arguments=["--compat", compat])
    sent = forward("t", [WITH_METADATA], chunk="abc")
    with Client(proxy.address) as client:
        client.send(sent)
        client.answer()
    assert receiver.frames == [sent if compat == "fluent-bit" else forward("t", [entry(KEPT)], chunk="abc")]
    assert SKIPPED not in proxy.logs()


def test_of_records_that_are_dropped_nothing_is_warned(start, receiver):
    proxy = start(receiver)
    with Client(proxy.address) as client:
        client.send(forward("t", [msgpack.packb([[1_700_000_000, {}], DROPPED])], chunk="abc"))
        client.answer()
    assert SKIPPED not in proxy.logs()


@pytest.mark.parametrize("is_fluent_bit", [True, False])
def test_a_server_that_is_fluent_bit_by_its_handshake_is_not_warned_of(start, tmp_path, is_fluent_bit):
    (tmp_path / "key").write_text("key")
    with Receiver(security=ListenSecurity(b"key", b"server")) as receiver:
        if is_fluent_bit:
            receiver._helo = lambda handshake: (
                handshake.helo().replace(b"HELO\x83", b"HELO\x82").replace(b"\xa9keepalive\xc3", b"")
            )
        proxy = start(receiver, arguments=["--upstream-shared-key-file", str(tmp_path / "key")])
        with Client(proxy.address) as client:
            client.send(forward("t", [WITH_METADATA], chunk="abc"))
            client.answer()
        assert (SKIPPED in proxy.logs()) != is_fluent_bit


def test_heartbeats_are_taken_and_not_sent_on(start, receiver):
    proxy = start(receiver, arguments=METRICS)
    with Client(proxy.address) as client:
        client.send(b"\xc0" + packed("t", [entry(KEPT)], chunk="abc") + b"\xc0\xc0")
        assert client.answer() == {b"ack": b"abc"}
        proxy.wait_for_metric('forward_messages_total{mode="heartbeat"}', 3)
    assert len(receiver.frames) == 1


def test_messages_that_come_again_are_counted_and_sent_again(start, receiver):
    proxy = start(receiver, arguments=METRICS)
    for chunks in ("aba", "a"):  # agents send again through a new connection
        with Client(proxy.address) as client:
            for chunk in chunks:
                client.send(packed("t", [entry(KEPT)], chunk=chunk))
                client.answer()
    assert len(receiver.frames) == 4
    assert proxy.metrics()["forward_repeated_chunks_total"] == 2


def test_a_client_that_counts_its_chunks_from_the_start_repeats_nothing(start, receiver):
    proxy = start(receiver, arguments=METRICS)
    for run in range(3):
        with Client(proxy.address) as client:
            for chunk in range(5):
                record = event(auditID=f"run {run}, event {chunk}")
                client.send(packed("t", [entry(KEPT)] * 20 + [entry(record)], chunk=chunk))
                client.answer()
    assert proxy.metrics()["forward_repeated_chunks_total"] == 0


def test_tags_are_changed_for_the_way_back(start, receiver):
    proxy = start(receiver, arguments=["--tag-prefix-remove", "raw.", "--tag-prefix-add", "filtered."])
    with Client(proxy.address) as client:
        client.send(packed("raw.audit", [entry(KEPT)], chunk="abc"))
        client.answer()
    assert receiver.messages[0][0] == b"filtered.audit"


def test_the_policy_is_read_again_while_clients_are_connected(start, receiver, policy_file):
    proxy = start(receiver, arguments=["--reload-interval", "0"])
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(DROPPED)], chunk="1"))
        client.answer()
        Path(policy_file).write_text(KEEP_ALL)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_log("a new policy is in use")
        client.send(packed("t", [entry(DROPPED)], chunk="2"))
        client.answer()
    assert [message[2][b"chunk"] for message in receiver.messages] == [b"2"]


def test_nobody_can_connect_before_there_is_a_policy(tmp_path, receiver):
    policy = tmp_path / "policy.yaml"
    policy.write_text("no policy")
    port = free_port()
    command = [*FORWARD, "--policy", str(policy), "--wait-for-policy", "--reload-interval", "0.05"]
    addresses = ["--listen", f"127.0.0.1:{port}", "--upstream", receiver.address]
    with subprocess.Popen([*command, *addresses], stderr=subprocess.PIPE) as child:
        try:
            said = b""
            while b"nothing is read until there is a policy" not in said:
                said += os.read(child.stderr.fileno(), 4096)
            with pytest.raises(ConnectionRefusedError):
                Client(f"127.0.0.1:{port}")
            policy.write_text(POLICY)
            while b"listening on" not in said:
                said += os.read(child.stderr.fileno(), 4096)
            with Client(f"127.0.0.1:{port}") as client:
                client.send(packed("t", [entry(KEPT), entry(DROPPED)], chunk="1"))
                client.answer()
        finally:
            child.kill()
    assert len(receiver.frames) == 1


def test_it_ends_while_it_waits_for_a_policy(tmp_path):
    (tmp_path / "policy.yaml").write_text("no policy")
    command = [*FORWARD, "--policy", str(tmp_path / "policy.yaml"), "--wait-for-policy", "--upstream"]
    with subprocess.Popen([*command, "127.0.0.1:1"], stderr=subprocess.PIPE) as child:
        try:
            wait_for_line(child.stderr, b"nothing is read until there is a policy")
            child.send_signal(signal.SIGTERM)
            assert child.wait(DEADLINE) == 0
        finally:
            child.kill()


def test_it_tells_how_it_is(start):
    gate = Gate()

    def answer(path):
        try:
            with urllib.request.urlopen(url + path, timeout=DEADLINE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    with Receiver(gate) as receiver:
        proxy = start(receiver, arguments=METRICS)
        proxy.wait_for_log("metrics: ")
        url = proxy.logs().partition("metrics: ")[2].split("/metrics")[0]
        assert answer("/healthz") == answer("/readyz") == (200, b"ok\n")
        with Client(proxy.address) as client:
            sent = packed("t", [entry(KEPT)], chunk="abc")
            client.send(sent)
            receiver.wait_for(1)
            metrics = proxy.metrics()
            assert metrics["forward_in_flight_bytes"] == len(sent)
            assert metrics["forward_client_connections"] == 1
            assert metrics["output_blocked_seconds"] > 0
            gate.open()
            client.answer()
            wait_until(lambda: proxy.metrics()["forward_in_flight_bytes"] == 0, "nothing is in flight")
            metrics = proxy.metrics()
            assert metrics['forward_acks_total{result="sent"}'] == 1
            assert metrics['forward_messages_total{mode="packed"}'] == 1
            assert metrics["records_in_total"] == metrics["events_kept_total"] == 1
            assert metrics["bytes_in_total"] == metrics["bytes_out_total"] == len(sent)
            assert metrics["output_blocked_seconds"] == 0
        proxy.wait_for_metric("forward_client_connections", 0)
        receiver.close()
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)]))
            wait_until(lambda: answer("/readyz") == (503, b"no upstream is up\n"), "it is not ready")
            assert answer("/healthz") == (200, b"ok\n")


def test_a_server_that_is_down_is_known_before_the_first_message(start):
    with Receiver() as receiver:
        receiver.close()
        start(receiver).wait_for_log(f"upstream down: {receiver.address}: Connection refused")


def test_when_told_to_end_it_finishes_what_is_in_flight(start):
    gate = Gate()
    with Receiver(gate) as receiver:
        proxy = start(receiver)
        with Client(proxy.address) as busy, Client(proxy.address) as idle:
            busy.send(packed("t", [entry(KEPT)], chunk="abc"))
            receiver.wait_for(1)
            proxy.process.send_signal(signal.SIGTERM)
            assert idle.is_cut_off()
            with pytest.raises(ConnectionRefusedError):
                Client(proxy.address)
            gate.open()
            assert busy.answer() == {b"ack": b"abc"}
            assert busy.is_cut_off()
        assert proxy.process.wait(DEADLINE) == 0
        assert "records in=1 kept=1 dropped=0" in proxy.logs()


def test_however_often_it_is_told_to_end_it_ends_in_order(start, receiver):
    """timeout(1) sends a signal to the process and to its group: one may come when the loop has ended."""
    proxy = start(receiver)
    while proxy.process.poll() is None:
        proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.returncode == 0
    assert "records in=0" in proxy.logs()


@pytest.mark.parametrize("size", [1, 20_000])
def test_when_told_to_end_it_reads_what_a_client_without_acknowledgements_has_sent(start, receiver, size):
    proxy = start(receiver)
    with Client(proxy.address) as client:
        message = packed("t", [entry(KEPT)] * size)
        client.send(message)
        receiver.wait_for(1)
        client.send(message * 3)
        assert proxy.stop() == 0
    assert receiver.frames == [message] * 4


def test_when_the_time_is_over_clients_are_left_with_what_is_not_acknowledged(start):
    with Receiver(lambda *_: b"") as receiver:
        proxy = start(receiver, arguments=["--shutdown-grace", "0.2"])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            receiver.wait_for(1)
            assert proxy.stop() == 0
            assert client.is_cut_off()
        assert "1 connections were cut: what was not acknowledged, their clients have to keep" in proxy.logs()


def test_when_the_time_is_over_messages_that_nobody_else_has_are_lost_and_it_says_so(start):
    with Receiver() as receiver:
        receiver.close()
        proxy = start(receiver, arguments=["--shutdown-grace", "0.2"])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)]) * 3)
            proxy.wait_for_log("upstream down")
            assert proxy.stop() == 1
        assert "3 messages that want no acknowledgement were not delivered: they are lost" in proxy.logs()


def test_half_a_message_that_nobody_else_has_is_spoken_of_as_lost(start, receiver):
    proxy = start(receiver, arguments=["--shutdown-grace", "0.2"])
    with Client(proxy.address) as client:
        message = packed("t", [entry(KEPT)])
        client.send(message + message[:20])
        receiver.wait_for(1)
        assert proxy.stop() == 1
    assert "1 messages that want no acknowledgement were not delivered" in proxy.logs()


def test_what_was_dropped_is_not_spoken_of_as_lost(start):
    with Receiver() as receiver:
        receiver.close()
        proxy = start(receiver, arguments=["--shutdown-grace", "0.2", *METRICS])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(DROPPED)]) * 3 + packed("t", [entry(KEPT)]))
            proxy.wait_for_metric("records_in_total", 4)
            assert proxy.stop() == 1
        assert "1 messages that want no acknowledgement were not delivered" in proxy.logs()


def test_a_client_that_has_not_shaken_hands_does_not_hold_up_the_end(start, receiver, tmp_path):
    (tmp_path / "key").write_text("key")
    patience = ["--handshake-timeout", "600", "--shutdown-grace", "600"]
    proxy = start(receiver, arguments=["--shared-key-file", str(tmp_path / "key"), *patience])
    with Client(proxy.address) as client:
        assert client.answer()[0] == b"HELO"
        assert proxy.stop() == 0
    assert "connections were cut" not in proxy.logs()


def test_told_again_it_ends_at_once(start):
    with Receiver(lambda *_: b"") as receiver:
        proxy = start(receiver, arguments=["--shutdown-grace", "600"])
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            receiver.wait_for(1)
            proxy.process.send_signal(signal.SIGINT)
            proxy.wait_for_log("SIGINT: no more connections")
            assert proxy.stop(signal.SIGINT) == 0


def test_a_unix_socket_serves_those_who_may_and_is_taken_away_at_the_end(start, tmp_path):
    path, upstream = tmp_path / "proxy.sock", tmp_path / "server.sock"
    with Receiver(path=upstream) as receiver:
        proxy = start(receiver, listen=[f"unix:{path}"], arguments=["--socket-mode", "0600"])
        assert path.stat().st_mode & 0o777 == 0o600
        with Client(proxy.address) as client:
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.answer() == {b"ack": b"abc"}
        assert len(receiver.frames) == 1
        assert proxy.stop() == 0
        assert not path.exists()


def test_a_unix_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    start, receiver, tmp_path, policy_file
):
    address = f"unix:{tmp_path / 'proxy.sock'}"
    start(receiver, listen=[address]).kill()
    proxy = start(receiver, listen=[address])
    command = [*FORWARD, "--policy", policy_file, "--listen", address, "--upstream", receiver.address]
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert second.returncode == 1
    assert f"can't listen on {address}: Address already in use" in second.stderr
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}


def test_it_listens_on_several_addresses(start, receiver, tmp_path):
    proxy = start(receiver, listen=["127.0.0.1:0", f"unix:{tmp_path / 's'}", "[::1]:0"])
    for address in proxy.addresses:
        with Client(address) as client:
            client.send(packed("t", [entry(KEPT)], chunk=address))
            assert client.answer() == {b"ack": address.encode()}
    assert len(receiver.frames) == 3


def test_without_uvloop_it_does_the_same(start, receiver, tmp_path):
    (tmp_path / "uvloop.py").write_text("raise ImportError\n")
    path = f"{tmp_path}{os.pathsep}{Path.cwd()}"
    proxy = start(receiver, environment={**os.environ, "PYTHONPATH": path})
    with Client(proxy.address) as client:
        client.send(packed("t", [entry(KEPT), entry(DROPPED)], chunk="abc"))
        assert client.answer() == {b"ack": b"abc"}
        client.send(forward("t", [entry(KEPT)]))
        receiver.wait_for(2)
        assert proxy.stop() == 0
    assert receiver.messages[0] == [b"t", entry(KEPT), {b"size": 1, b"chunk": b"abc"}]


def test_a_record_that_can_not_be_read_passes_and_is_counted(start, receiver):
    proxy = start(receiver, arguments=METRICS)
    broken = msgpack.packb(["t", b"\x92\x01", {"chunk": "abc", "size": 1}])
    with Client(proxy.address) as client:
        client.send(broken)
        assert client.answer() == {b"ack": b"abc"}
    assert receiver.frames == [broken]
    assert proxy.metrics()['undecided_total{reason="undecodable"}'] == 1
    assert "went on undecided" in proxy.logs()
