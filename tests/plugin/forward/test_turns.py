"""Work in turns: how long others wait, by the processor's time, whatever else the machine does."""

import asyncio
import contextlib
import gc
import gzip
import socket
import time

import pytest

from filter_engine import PolicyEvaluator
from plugin.forward.address import Address
from plugin.forward.protocol.entries import PayloadLimits, Step
from plugin.forward.protocol.message_filter import MessageFilter
from plugin.forward.route import Upstreams
from plugin.forward.session import Session, SessionContext, SessionSettings
from plugin.forward.turns import Turn, Turns
from plugin.forward.upstream import ConnectSettings
from plugin.records.record_filter import RecordFilter
from plugin.service.diagnostics import Diagnostics
from tests.support import KEPT, policy
from tests.support.bombs import compressed, small_bombs
from tests.support.forward_peers import Receiver, entry, packed

BOMBS = small_bombs()
# Seconds of the loop's thread between two looks at all connections. An acknowledgement takes four or five.
LONGEST_PAUSE = 0.025
# The neighbours of a processor take time from it too, which one try in a few does not have to show.
TRIES = 4


def copy_time():
    """Seconds for a copy of as much as a message may have: memory is slow on some machines."""
    whole = bytearray(64 << 20)
    began = time.thread_time()
    bytes(whole)
    return time.thread_time() - began


@pytest.fixture(autouse=True)
def no_garbage_collection():
    """The proxy collects garbage seldom, and has less of it than the tests."""
    gc.disable()
    yield
    gc.enable()


class Pauses:
    """Measures how long the loop does not come round."""

    def __init__(self):
        self.longest = 0.0

    async def watch(self):
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.thread_time() - began)


@contextlib.asynccontextmanager
async def watched():
    pauses = Pauses()
    watching = asyncio.ensure_future(pauses.watch())
    yield pauses
    watching.cancel()


def make_context(upstreams):
    records = RecordFilter()
    records.use(records.prepare(PolicyEvaluator(policy())))
    return SessionContext(
        MessageFilter(records, PayloadLimits(256 << 20)),
        upstreams,
        Diagnostics(),
        SessionSettings(
            security=None,
            max_message_size=64 << 20,
            max_entries=1 << 18,
            max_in_flight=64 << 20,
            idle_timeout=60,
            handshake_timeout=5,
        ),
    )


async def serve(receiver, clients):
    """Serve connections, of each of which the other end has sent all; returns the longest pause."""
    upstreams = Upstreams(
        [Address.parse(receiver.address)], ConnectSettings(), Diagnostics(), ack_timeout=60, retry_timeout=60
    )
    context = make_context(upstreams)
    async with watched() as pauses:
        tasks = []
        for client, sent in clients:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            tasks.append(asyncio.ensure_future(Session(context, ours, client, None).run()))
            tasks.append(asyncio.ensure_future(talk(theirs, sent)))
        await asyncio.wait_for(asyncio.gather(*tasks), 100)
    upstreams.close()
    context.turns.close()
    assert context.budget.held == 0
    return pauses.longest


async def talk(connection, sent):
    """Send everything, wait for one acknowledgement if there will be one, and go."""
    loop = asyncio.get_running_loop()
    with connection, contextlib.suppress(ConnectionError):
        for start in range(0, len(sent), 1 << 16):
            await loop.sock_sendall(connection, sent[start : start + (1 << 16)])
        await loop.sock_recv(connection, 100)


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in ("wide values",)])
def test_whatever_a_client_sends_the_loop_comes_round(name):
    end = b"" if b"chunk" in BOMBS[name] else packed("t", [entry(KEPT)], chunk="end")
    with Receiver() as receiver:
        assert any(
            asyncio.run(serve(receiver, [("a client", BOMBS[name] + end)])) < LONGEST_PAUSE + copy_time()
            for _ in range(TRIES)
        )


def test_however_many_clients_send_such_messages_the_loop_comes_round():
    entries = compressed(entry({"log": "{}"}) * 10_000, chunk="b")
    members = packed("t", [gzip.compress(b"") * 10_000], chunk="b")
    clients = [(f"client {number}", each) for number, each in enumerate([entries, members] * 6)]
    with Receiver() as receiver:
        assert asyncio.run(serve(receiver, clients)) < 2 * LONGEST_PAUSE


def busy(seconds):
    """Work in small steps."""
    left = seconds
    while left > 0:
        began = time.thread_time()
        while (spent := time.thread_time() - began) < min(left, 0.0002):
            pass
        left -= spent
        yield Step(False, 0)
    return seconds


async def no_limit(_):
    pass


def test_who_takes_little_goes_before_those_who_take_much():
    """However many they are, of those who take much only one has a turn in between."""

    async def main():
        turns = Turns()
        many = [
            asyncio.ensure_future(Turn(turns).carry_out(busy(0.2), no_limit, lambda _: None))
            for _ in range(20)
        ]
        async with watched() as pauses:
            await asyncio.sleep(0)
            turn = Turn(turns)
            for _ in range(20):
                turn.begin()
                await turn.carry_out(busy(0.0001), no_limit, lambda _: None)
                turn.end()
                await asyncio.sleep(0)
            left = sum(not task.done() for task in many)
            await asyncio.gather(*many)
        turns.close()
        return left, pauses.longest

    left, _ = asyncio.run(main())
    assert left == 20


def test_work_that_is_given_up_gives_its_turn_to_others():
    async def main():
        turns = Turns()

        def look(_):
            raise KeyError

        turn = Turn(turns)
        with pytest.raises(KeyError):
            await turn.carry_out(busy(10), no_limit, look)
        turn.end()
        cancelled = [
            asyncio.ensure_future(Turn(turns).carry_out(busy(10), no_limit, lambda _: None)) for _ in range(3)
        ]
        for _ in range(50):
            await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        result = await asyncio.wait_for(Turn(turns).carry_out(busy(0.05), no_limit, lambda _: None), 10)
        turns.close()
        return result

    assert asyncio.run(main()) == 0.05
