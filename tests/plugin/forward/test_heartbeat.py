"""UDP heartbeats: who is answered, how often, and that no two servers go on answering each other."""

import contextlib
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.forward.heartbeat import INTERVAL, MAX_SENDERS, MAX_SENDERS_OF_A_HOST, Senders
from tests.support.agents import free_port
from tests.support.forward_peers import FORWARD, Proxy, Receiver
from tests.support.processes import DEADLINE, wait_until


@pytest.fixture
def start(tmp_path, policy_file):
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())

        def run(*arguments):
            proxy = stack.enter_context(Proxy(tmp_path, policy_file, receiver.address, arguments=arguments))
            return proxy.address.rpartition(":")[0], int(proxy.address.rpartition(":")[2])

        yield run


@pytest.fixture
def udp():
    """Makes sockets."""
    with contextlib.ExitStack() as stack:

        def make():
            made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.bind(("127.0.0.1", 0))
            made.settimeout(DEADLINE)
            return made

        yield make


def has_nothing(sock):
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(10)
    sock.settimeout(DEADLINE)
    return True


@pytest.mark.parametrize("key", [False, True])
def test_nobody_is_answered_unless_that_is_asked_for(start, udp, tmp_path, key):
    (tmp_path / "key").write_text("the key")
    address = start(*(["--shared-key-file", str(tmp_path / "key")] if key else []))
    sender = udp()
    sender.connect(address)
    sender.send(b"\0")
    # Nobody has the port.
    with pytest.raises(ConnectionRefusedError):
        sender.recv(10)


def test_a_heartbeat_is_answered_and_nothing_else(start, udp):
    address = start("--udp-heartbeat")
    sender, other = udp(), udp()
    for data in (b"", b"x", b"\0\0", b"\x93" * 100, b"\0"):
        sender.sendto(data, address)
    assert sender.recv(10) == b"\0"
    other.sendto(b"\0", address)
    assert other.recv(10) == b"\0"
    assert has_nothing(sender)


def test_two_servers_do_not_go_on_answering_each_other(start, udp):
    """A forged sender is all that it takes to begin: this socket answers as another proxy would."""
    address = start("--udp-heartbeat")
    server, last = udp(), udp()
    server.sendto(b"\0", address)
    assert server.recv(10) == b"\0"
    server.sendto(b"\0", address)  # its answer to the answer
    last.sendto(b"\0", address)
    assert last.recv(10) == b"\0"
    assert has_nothing(server)

    def is_answered():
        """After a while, heartbeats of the same sender are answered again."""
        server.sendto(b"\0", address)
        server.settimeout(INTERVAL / 5)
        with contextlib.suppress(TimeoutError):
            return server.recv(10) == b"\0"

    wait_until(is_answered, "the next heartbeat is answered")


def test_a_proxy_does_not_answer_itself(start, udp):
    """What comes from the very port number that it has is an answer."""
    address = start("--udp-heartbeat")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.2", address[1]))
        server.sendto(b"\0", address)
        last = udp()
        last.sendto(b"\0", address)
        assert last.recv(10) == b"\0"
        assert has_nothing(server)


def test_a_port_that_is_taken_is_an_error(policy_file, udp):
    taken = udp().getsockname()[1]
    command = [*FORWARD, "--policy", policy_file, "--upstream", f"127.0.0.1:{free_port()}", "--udp-heartbeat"]
    result = subprocess.run(
        [*command, "--listen", f"127.0.0.1:{taken}"], capture_output=True, timeout=DEADLINE, check=False
    )
    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{taken}: Address already in use".encode() in result.stderr


def test_answers_and_memory_are_bounded_whoever_asks():
    senders = Senders()
    answered = [senders.may_be_answered(f"h{number % 500}", number, 0.0) for number in range(50_000)]
    assert sum(answered) == len(senders) == MAX_SENDERS
    assert senders.may_be_answered("h", 1, INTERVAL)
    assert len(senders) == 1
    assert [senders.may_be_answered("h", port, INTERVAL) for port in range(100)].count(True) == (
        MAX_SENDERS_OF_A_HOST - 1
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.floats(0, 2 * INTERVAL, allow_nan=False)),
        max_size=200,
    )
)
def test_no_sender_gets_two_answers_within_the_interval(datagrams):
    senders, now, last = Senders(), 0.0, {}
    for host, port, pause in datagrams:
        now += pause
        if senders.may_be_answered(host, port, now):
            assert now - last.get((host, port), -INTERVAL) >= INTERVAL
            last[host, port] = now
        recent = [sender for sender, at in last.items() if now - at < INTERVAL]
        assert all(sum(sender[0] == host for sender in recent) <= MAX_SENDERS_OF_A_HOST for host in "abc")
