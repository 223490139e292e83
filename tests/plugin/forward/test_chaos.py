"""What survives when the proxy, its servers or its clients fail at any moment.

The first test goes on for CHAOS_SECONDS; ``make chaos`` has it do so for longer, and say what happened.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.support import DROPPED, KEPT
from tests.support.forward_chaos import Chaos, abort, pass_time
from tests.support.forward_peers import Client, Proxy, Receiver, entry, packed
from tests.support.processes import status_of, wait_until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "10"))
KILLS, KILLING = 25, 15.0
# Connections until memory is about what it stays, and then; KiB by which it may grow in the course of these.
WARM_UP, CONNECTIONS, GROWTH = 1500, 3000, 16 << 10


@pytest.fixture
def seed():
    """Another one each time, unless CHAOS_SEED says which; a test that fails shows it."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"\nCHAOS_SEED={seed}")
    return seed


def assert_nothing_is_lost(chaos):
    print(chaos.report())
    assert chaos.ledger.faults == []
    assert chaos.ledger.lost() == []
    assert chaos.ledger.acknowledged


def test_nothing_is_lost_while_everything_is_restarted_at_random(tmp_path, policy_file, seed):
    with Chaos(tmp_path, policy_file, seed) as chaos:
        chaos.run(SECONDS)
        chaos.finish()
        assert_nothing_is_lost(chaos)


def test_no_kill_of_the_proxy_loses_an_acknowledged_record(tmp_path, policy_file, seed):
    end = time.monotonic() + KILLING
    with Chaos(tmp_path, policy_file, seed, moods=False) as chaos:
        while chaos.events["proxy killed"] < KILLS and time.monotonic() < end:
            chaos.wait_for_acknowledgements(chaos.chance.randrange(40))
            pass_time(chaos.chance.uniform(0, 0.02))
            chaos.kill_proxy()
        chaos.finish()
        assert_nothing_is_lost(chaos)


def test_connections_that_go_wrong_leave_nothing_behind(tmp_path, policy_file, seed):
    chance = random.Random(seed)
    metrics = ["--metrics-listen", "127.0.0.1:0"]
    with Receiver() as receiver, Proxy(tmp_path, policy_file, receiver.address, arguments=metrics) as proxy:
        directory = Path(f"/proc/{proxy.process.pid}/fd")

        def descriptors():
            return len(list(directory.iterdir()))

        def settle():
            receiver.cut()  # some of these connections are held ready
            for name in (
                "forward_client_connections",
                f'forward_upstream_connections{{upstream="{receiver.address}"}}',
            ):
                proxy.wait_for_metric(name, 0)

        go_wrong(proxy, chance, WARM_UP)
        settle()
        before, memory = descriptors(), status_of(proxy.process, "VmRSS")
        go_wrong(proxy, chance, CONNECTIONS)
        settle()
        wait_until(lambda: descriptors() <= before, f"no more than {before} descriptors stay open")
        growth = status_of(proxy.process, "VmRSS") - memory
        print(f"{before} descriptors, {memory} KiB, {growth:+} KiB")
        assert growth < GROWTH
        assert proxy.metrics()['forward_client_connections_cut_total{reason="internal_error"}'] == 0


def go_wrong(proxy, chance, count):
    """Connect so often, and end the connections in all the ways there are."""
    message = packed("test", [entry(KEPT), entry(DROPPED)] * 20, chunk="x" * 24)
    ways = {
        "says nothing": lambda client: None,
        "sends garbage": lambda client: client.send(chance.randbytes(chance.randrange(1, 200))),
        "breaks off": lambda client: client.send(message[: chance.randrange(1, len(message))]),
        "does not wait": lambda client: client.send(message * 3),
        "behaves": lambda client: assert_is_served(client, message),
    }
    for _ in range(count // 10):
        clients = [Client(proxy.address) for _ in range(10)]
        for client in clients:
            ways[chance.choice(list(ways))](client)
        for client in clients:
            if chance.random() < 0.5:
                abort(client.socket)
            client.close()
    with Client(proxy.address) as client:
        assert_is_served(client, message)


def assert_is_served(client, message):
    client.send(message)
    assert client.answer() == {b"ack": b"x" * 24}
