"""What hostile and unlucky clients can make the proxy cost: memory, time, places for others, its end."""

import contextlib
import signal
import socket
import threading
from pathlib import Path

import pytest

from plugin.forward.protocol.handshake import UpstreamSecurity
from tests.support import KEPT
from tests.support.bombs import compressed, small_bombs
from tests.support.forward_peers import Client, Proxy, Receiver, entry, packed
from tests.support.processes import DEADLINE, status_of, wait_until

METRICS = ("--metrics-listen", "127.0.0.1:0")
BOMBS = small_bombs()
MiB = 1 << 20


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


@pytest.fixture
def start(tmp_path, policy_file, receiver):
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            Proxy(tmp_path, policy_file, receiver.address, arguments=[*METRICS, *arguments], **options)
        )


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("secret")
    return ("--shared-key-file", str(path))


def goes_through(proxy, **options):
    with Client(proxy.address, **options) as client:
        client.send(packed("t", [entry(KEPT)], chunk="abc"))
        return client.answer() == {b"ack": b"abc"}


def cpu_of(process):
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def in_background(function, *arguments):
    def run():
        with contextlib.suppress(OSError):
            function(*arguments)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def ask(client, message):
    """Send a message, and wait until the proxy answers it or ends the connection."""
    with contextlib.suppress(EOFError):
        client.send(message)
        client.answer()


@pytest.mark.parametrize("name", BOMBS)
def test_small_messages_take_no_more_memory_than_the_bounds_say(start, name):
    proxy = start("--max-message-size", "32M", "--max-in-flight", "16M")
    assert goes_through(proxy)
    before = status_of(proxy.process, "VmRSS")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(6)]
        ends = [in_background(ask, client, BOMBS[name]) for client in clients]
        assert goes_through(proxy)
        wait_until(
            lambda: cpu_of(proxy.process) > 2 or not all(end.is_alive() for end in ends), "the proxy works"
        )
    assert goes_through(proxy)
    # What is in flight, four times the largest message, what (de)compressing takes, and what is read ahead.
    assert status_of(proxy.process, "VmHWM") - before < (16 + 4 * 32 + 32 + 6) << 10


def test_others_are_served_while_a_message_is_worked_on(start):
    proxy = start()
    with Client(proxy.address) as attacker, Client(proxy.address) as other:
        attacker.send(compressed(entry({"log": "{}"}) * 100_000, chunk="b"))
        answered = in_background(attacker.answer)
        count = 0
        while answered.is_alive():
            other.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert other.answer() == {b"ack": b"abc"}
            count += 1
        attacker.socket.settimeout(0)
    # Some seconds of work.
    assert count > 20


def test_what_is_in_flight_in_all_connections_together_is_bounded(start, receiver):
    proxy = start("--max-in-flight", "32M")
    assert goes_through(proxy)
    before = status_of(proxy.process, "VmRSS")
    half = packed("t", [entry({**KEPT, "requestObject": "x" * (60 * MiB)})], chunk="big")[:-MiB]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(12)]
        for client in clients:
            in_background(client.send, half)
        proxy.wait_for_metric("forward_clients_waiting", 11)
        assert goes_through(proxy)
        metrics = proxy.metrics()
        assert metrics["forward_in_flight_limit_bytes"] == 32 * MiB
        assert metrics["forward_in_flight_bytes"] <= 32 * MiB + 4 * 64 * MiB + 32 * MiB
        assert status_of(proxy.process, "VmHWM") - before < (32 + 64 + 40) << 10
    proxy.wait_for_metric("forward_client_connections", 0)
    proxy.wait_for_metric("forward_in_flight_bytes", 0)


def test_many_large_messages_at_once_all_arrive(start, receiver):
    proxy = start("--max-in-flight", "4M", "--max-message-size", "4M")
    record = {**KEPT, "requestObject": "x" * (3 * MiB)}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(40)]
        for number, client in enumerate(clients):
            in_background(client.send, packed("t", [entry(record)], chunk=str(number)))
        for number, client in enumerate(clients):
            assert client.answer() == {b"ack": str(number).encode()}
    assert len(receiver.frames) == 40
    assert proxy.metrics()['forward_client_connections_cut_total{reason="stalled"}'] == 0


def test_clients_that_stop_amid_messages_do_not_stop_others(start):
    proxy = start("--max-in-flight", "1M", "--max-message-size", "1M")
    half = packed("t", [entry({**KEPT, "requestObject": "x" * 900_000})], chunk="half")[:-10]
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            in_background(stack.enter_context(Client(proxy.address)).send, half)
        for _ in range(5):
            assert goes_through(proxy)


def test_strangers_do_not_keep_those_out_who_know_the_key(start, key):
    proxy = start(*key, "--max-connections", "10")
    security = UpstreamSecurity(b"secret", b"client")
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(socket.socket()) for _ in range(1000)]
        address = tuple(proxy.address.rsplit(":", 1))
        for number, stranger in enumerate(strangers):
            stranger.connect((address[0], int(address[1])))
            if number % 50 == 0:
                assert goes_through(proxy, security=security)
        for _ in range(20):
            assert goes_through(proxy, security=security)
        metrics = proxy.metrics()
        assert metrics["forward_client_handshakes"] <= 128
        assert metrics['forward_client_connections_cut_total{reason="crowded_out"}'] >= 1000 - 128
        assert metrics['forward_client_connections_cut_total{reason="refused"}'] == 0


def test_those_who_know_the_key_have_a_bound_of_their_own(start, key):
    proxy = start(*key, "--max-connections", "2")
    security = UpstreamSecurity(b"secret", b"client")
    with Client(proxy.address, security=security), Client(proxy.address, security=security):
        third = Client(proxy.address, security=security)
        with third:
            assert third.is_cut_off()
        proxy.wait_for_log("is refused: there are 2 already, see --max-connections")
    proxy.wait_for_metric("forward_client_connections", 0)
    assert goes_through(proxy, security=security)


def trickle(connection, data, done):
    """Send a byte now and then, until the other side ends it; returns whether it has."""
    with contextlib.suppress(OSError):
        for at in range(len(data)):
            connection.send(data[at : at + 1])
            if done.wait(0.02):
                return False
    return True


@pytest.mark.parametrize("before", [True, False], ids=["before the handshake", "after it"])
def test_who_sends_a_byte_now_and_then_is_sent_away(start, key, before):
    proxy = start(*key, "--handshake-timeout", "0.5", "--idle-timeout", "0.5")
    security = UpstreamSecurity(b"secret", b"client")
    client = Client(proxy.address, security=None if before else security)
    with client:
        sent = b"\x96\xa4PING\xda\x10\x00" if before else b"\x93\xa1t\xc5\x10\x00"
        assert trickle(client.socket, sent + bytes(4096), threading.Event())
    proxy.wait_for_log("no handshake within 0.5 s" if before else "a message has not come whole within 0.5 s")
    proxy.wait_for_metric("forward_client_connections", 0)
    proxy.wait_for_metric("forward_client_handshakes", 0)


@pytest.mark.parametrize("name", ["zstd of many entries", "empty zstd frames", "many small messages"])
def test_the_end_does_not_wait_for_work_on_a_message(start, name):
    proxy = start("--shutdown-grace", "0.2")
    with Client(proxy.address) as client:
        in_background(client.send, BOMBS[name] * 20)
        wait_until(lambda: cpu_of(proxy.process) > 0.6, "the proxy works")
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(DEADLINE) in (0, 1)
    assert "no more connections" in proxy.logs()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_whatever_it_does(start, second):
    proxy = start("--shutdown-grace", "600")
    with Client(proxy.address) as client:
        in_background(client.send, BOMBS["empty zstd frames"] * 20)
        wait_until(lambda: cpu_of(proxy.process) > 0.6, "the proxy works")
        proxy.process.send_signal(signal.SIGTERM)
        proxy.wait_for_log("SIGTERM: no more connections")
        proxy.process.send_signal(second)
        assert proxy.process.wait(DEADLINE) == 0


def test_a_message_whose_client_has_gone_is_given_up(start):
    proxy = start()
    with Client(proxy.address) as client:
        client.send(BOMBS["zstd of many entries"])
        proxy.wait_for_metric('forward_messages_total{mode="packed"}', 1)
    proxy.wait_for_log("a message was not acknowledged: the client has gone")
    proxy.wait_for_metric("forward_in_flight_bytes", 0)
