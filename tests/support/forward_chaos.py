"""Load on a proxy while it and its servers come and go, and an account of where every record went."""

import base64
import gzip
import hashlib
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

import msgpack

from plugin.forward.protocol.message import MessageReader
from tests.support import KEPT, event, event_time
from tests.support.agents import free_port
from tests.support.forward_peers import Client, Proxy, Receiver, entry
from tests.support.processes import wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS = {"gzip": lambda data: gzip.compress(data, 1), "zstd": zstd.compress}
DECOMPRESSORS = {b"gzip": gzip.decompress, b"zstd": zstd.decompress}
# Seconds that a client waits for an acknowledgement before it sends a message again.
PATIENCE = 6.0
# What the proxy gets, so that what takes minutes in use takes seconds here.
HURRY = ("--ack-timeout", "0.7", "--retry-timeout", "3", "--shutdown-grace", "2")


@dataclass
class Chunk:
    """A message, and what has to come of it.

    Attributes:
        identifier: what its acknowledgement has to repeat.
        frame: all of it.
        records: how many are in it.
        kept: how many of them the policy keeps.
        digest: of those, encoded, in order.
    """

    identifier: bytes
    frame: bytes
    records: int
    kept: int
    digest: bytes

    @classmethod
    def make(cls, chance):
        """Some records, each with an ``auditID`` of its own."""
        mode = chance.choices(("message", "forward", "packed", "gzip", "zstd"), (1, 3, 4, 2, 1))[0]
        count = 1 if mode == "message" else chance.choice((1, 2, 10, 40))
        entries, kept = [], []
        for _ in range(count):
            record, is_kept = _record(chance)
            entries.append(entry(record, chance.choice((1_700_000_000, event_time(1_700_000_000, 7)))))
            if is_kept:
                kept.append(entries[-1])
        identifier = base64.b64encode(chance.randbytes(16))
        payload = b"".join(entries)
        option = {"chunk": identifier.decode()}
        if mode != "message":
            option["size"] = count
        if mode in COMPRESSORS:
            option["compressed"] = mode
            payload = COMPRESSORS[mode](payload)
        if mode == "message":
            body = b"\x94\xa4test" + payload[1:]
        elif mode == "forward":
            body = b"\x93\xa4test" + msgpack.Packer().pack_array_header(count) + payload
        else:
            body = b"\x93\xa4test" + msgpack.packb(payload)
        digest = hashlib.sha256(b"".join(kept)).digest()
        return cls(identifier, body + msgpack.packb(option), count, len(kept), digest)


def _record(chance):
    """A record, and whether tests.support.POLICY keeps it."""
    identifier = f"{chance.getrandbits(128):032x}"
    padding = chance.choices((0, 300, 3000, 200_000), (60, 30, 9, 1))[0]
    fate = chance.choices(("kept", "dropped", "foreign"), (5, 5, 1))[0]
    if fate == "foreign":
        return {"message": identifier + "x" * padding}, True
    user = KEPT["user"] if fate == "kept" else {"username": "system:kube-proxy"}
    return event(auditID=identifier, user=user, annotations={"padding": "x" * padding}), fate == "kept"


class Ledger:
    """What was sent, acknowledged and received.

    Attributes:
        acknowledged: messages that their sender may forget.
        arrivals: how often each message came to a server, by identifier.
        faults: what must not have happened.
    """

    def __init__(self):
        self.acknowledged = []
        self.arrivals = Counter()
        self.faults = []
        self.resent = 0
        self._sent = {}
        self._lock = threading.Lock()

    def send(self, chunk):
        with self._lock:
            self._sent[chunk.identifier] = chunk

    def acknowledge(self, chunk, answer):
        if answer != {b"ack": chunk.identifier}:
            self.faults.append(f"{answer!r} came in place of the acknowledgement of {chunk.identifier!r}")
            return
        chunk.frame = b""
        with self._lock:
            self.acknowledged.append(chunk)

    def arrive(self, message):
        """Take a message that came to a server; compares it with what had to come."""
        _, *values = msgpack.unpackb(message.frame, raw=True, strict_map_key=False)
        option = values[-1]
        chunk = self._sent.get(option.get(b"chunk"))
        if chunk is None:
            self.faults.append(f"a message came that nobody sent: {option!r}")
            return
        if not chunk.kept:
            self.faults.append(f"{chunk.identifier!r} came, of which nothing is to be kept")
        payload = {"message": b"\x92"}.get(message.mode, b"") + bytes(message.body)
        if message.mode == "packed":
            payload = DECOMPRESSORS.get(option.get(b"compressed"), bytes)(values[0])
        if hashlib.sha256(payload).digest() != chunk.digest:
            self.faults.append(f"{chunk.identifier!r} came with other records, or in another order")
        if option.get(b"size", chunk.kept) != chunk.kept:
            self.faults.append(f"{chunk.identifier!r} of {chunk.kept} records says: {option[b'size']}")
        with self._lock:
            self.arrivals[chunk.identifier] += 1

    def lost(self):
        """Messages that were acknowledged, and of which not everything arrived that had to."""
        return [chunk for chunk in self.acknowledged if chunk.kept and not self.arrivals[chunk.identifier]]

    def summary(self):
        """What came of the records, in words."""
        with self._lock:
            records = sum(chunk.records for chunk in self.acknowledged)
            kept = sum(chunk.kept for chunk in self.acknowledged)
            arrived = sum(self._sent[identifier].kept for identifier in self.arrivals)
            twice = sum(
                (times - 1) * self._sent[identifier].kept for identifier, times in self.arrivals.items()
            )
        return (
            f"messages acknowledged={len(self.acknowledged)} sent again={self.resent}\n"
            f"records acknowledged={records} of these to be kept={kept}\n"
            f"records arrived={arrived} duplicates={twice} lost={sum(chunk.kept for chunk in self.lost())}"
        )


class Sender(threading.Thread):
    """Sends messages one after the other, each until it is acknowledged.

    Args:
        port: where.
        ledger: keeps account.
        seed: what it sends, and where it breaks off.
        at_a_time: how many messages are sent before the first one's acknowledgement is waited for.
    """

    def __init__(self, port, ledger, seed, at_a_time=1):
        super().__init__(daemon=True)
        self._port, self._ledger = port, ledger
        self._chance = random.Random(seed)
        self._at_a_time = at_a_time
        self._stopping = threading.Event()
        self._has_given_up = False
        self._client = None
        self.start()

    def stop(self):
        """Send no more messages; those that were sent are still to be acknowledged."""
        self._stopping.set()

    def give_up(self):
        """Send nothing more."""
        self._stopping.set()
        self._has_given_up = True

    def run(self):
        while not self._stopping.is_set():
            chunks = [Chunk.make(self._chance) for _ in range(self._at_a_time)]
            for chunk in chunks:
                self._ledger.send(chunk)
            while chunks and not self._has_given_up:
                try:
                    self._send(chunks)
                except (OSError, EOFError):
                    self._ledger.resent += len(chunks)
                    self._disconnect()
                    pass_time(0.02)
        self._disconnect()

    def _send(self, chunks):
        """Send some messages, and take those from the list that are acknowledged."""
        if self._client is None:
            self._client = Client(f"127.0.0.1:{self._port}")
            self._client.socket.settimeout(PATIENCE)
            if self._client.socket.getsockname() == self._client.socket.getpeername():
                raise EOFError  # nobody listens: it is connected to itself
        data = b"".join(chunk.frame for chunk in chunks)
        if self._chance.random() < 0.03:
            self._client.send(data[: self._chance.randrange(len(data))])
            if self._chance.random() < 0.5:
                abort(self._client.socket)
            raise EOFError
        self._client.send(data)
        while chunks:
            self._ledger.acknowledge(chunks[0], self._client.answer())
            chunks.pop(0)

    def _disconnect(self):
        if self._client is not None:
            self._client.close()
            self._client = None


def abort(connection):
    """Close a connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Server(Receiver):
    """A server that behaves on most connections for some messages, and then does not.

    Args:
        ledger: keeps account.
        seed: what it does.
        calm: as soon as this is set, it behaves.
        port: where to listen.
    """

    def __init__(self, ledger, seed, calm, port=0):
        self._ledger, self._calm = ledger, calm
        self._chance = random.Random(seed)
        self.moods = Counter()
        super().__init__(port=port)

    def _read(self, connection):
        chance = random.Random(self._chance.getrandbits(64))
        mood = "behaves" if self._calm.is_set() else chance.choices(list(MOODS), list(MOODS.values()))[0]
        patience = chance.choice((0, 1, 5, 30))
        self.moods[mood] += 1
        reader = MessageReader(1 << 30)
        while data := connection.recv(1 << 16):
            struck = patience <= 0 and not self._calm.is_set()
            if struck and mood == "breaks off":
                return
            if struck and mood == "is slow":
                self._calm.wait(0.02)
            reader.feed(data)
            while (message := reader.next_message()) is not None:
                patience -= 1
                struck = patience <= 0 and not self._calm.is_set()
                answer = b"\x81\xa3ack" + message.option.chunk
                if struck and mood == "loses":
                    return
                if struck and mood == "errs":
                    answer = b"\x81\xa3ack\xa5other"
                elif not (struck and mood == "is silent"):
                    self._ledger.arrive(message)
                if struck and mood == "forgets":
                    return
                if struck and mood == "is silent":
                    continue
                if struck and mood == "stutters":
                    for at in range(len(answer)):
                        connection.sendall(answer[at : at + 1])
                    continue
                connection.sendall(answer)


# How a server behaves, and how often, from a certain message of a connection on: it closes the connection
# amid a message, before it has seen to one, or without an acknowledgement; it takes messages without
# acknowledging them; acknowledges what it was not sent; reads slowly; or acknowledges byte by byte.
MOODS = {
    "behaves": 10,
    "breaks off": 2,
    "loses": 2,
    "forgets": 2,
    "is silent": 1,
    "errs": 1,
    "is slow": 2,
    "stutters": 2,
}


class Chaos:
    """Senders, a proxy and two servers. Proxy and servers can be ended, and are started again.

    Args:
        directory: for the proxy's files.
        policy_file: tests.support.POLICY.
        seed: of all that is random, but for the moments at which things happen.
        moods: whether servers may misbehave by themselves.
    """

    def __init__(self, directory, policy_file, seed, *, moods=True):
        self.ledger = Ledger()
        self.events = Counter()
        self.chance = random.Random(seed)
        self._directory, self._policy_file = directory, policy_file
        self._calm = threading.Event()
        if not moods:
            self._calm.set()
        # A proxy that finds this does without uvloop.
        without = directory / "without_uvloop"
        without.mkdir()
        (without / "uvloop.py").write_text("raise ImportError\n")
        self._environments = [None, {**os.environ, "PYTHONPATH": str(without)}]
        self._servers = [self._server() for _ in range(2)]
        self._moods = [server.moods for server in self._servers]
        self._addresses = [server.address for server in self._servers]
        self._port = free_port()
        self.start_proxy()
        self._senders = [
            Sender(self._port, self.ledger, self.chance.getrandbits(64), at_a_time)
            for at_a_time in (1, 1, 1, 3)
        ]

    def _server(self, port=0):
        return Server(self.ledger, self.chance.getrandbits(64), self._calm, port)

    def start_proxy(self):
        """Start the proxy, with one event loop or the other."""
        self.proxy = Proxy(
            self._directory,
            self._policy_file,
            *self._addresses,
            arguments=HURRY,
            listen=[f"127.0.0.1:{self._port}"],
            environment=self.chance.choice(self._environments),
        )

    def kill_proxy(self):
        self.events["proxy killed"] += 1
        self.proxy.kill()
        self.proxy.process.stderr.close()
        self.start_proxy()

    def _end_proxy(self):
        self.events["proxy ended"] += 1
        status = self.proxy.stop()
        self.proxy.process.stderr.close()
        if status != 0:
            self.ledger.faults.append(f"the proxy ended with exit status {status}")

    def _restart_proxy(self):
        self._end_proxy()
        self.start_proxy()

    def _reload_policy(self):
        self.events["policy read again"] += 1
        self.proxy.process.send_signal(signal.SIGHUP)

    def _cut_server(self):
        self.events["connections of a server cut"] += 1
        for server in self.chance.sample(self._servers, 1):
            if server is not None:
                server.cut()

    def _turn_server(self):
        """Close a server's listener and connections, or start it again."""
        closed = [at for at, server in enumerate(self._servers) if server is None]
        if closed and self.chance.random() < 0.7:
            self._start_server(closed[0])
            return
        at = self.chance.randrange(len(self._servers))
        if self._servers[at] is not None:
            self.events["server closed"] += 1
            self._servers[at].close()
            self._servers[at] = None

    def _start_server(self, at):
        self.events["server started again"] += 1
        self._servers[at] = self._server(int(self._addresses[at].rpartition(":")[2]))
        self._moods.append(self._servers[at].moods)

    def run(self, seconds):
        """Let things happen for so long."""
        acts = {
            self.kill_proxy: 3,
            self._restart_proxy: 2,
            self._reload_policy: 1,
            self._cut_server: 3,
            self._turn_server: 6,
        }
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            pass_time(min(left, self.chance.uniform(0, 0.5)))
            self.chance.choices(list(acts), list(acts.values()))[0]()

    def wait_for_acknowledgements(self, count):
        """Let things go on until so many more messages are acknowledged."""
        acknowledged = self.ledger.acknowledged
        wanted = len(acknowledged) + count
        wait_until(lambda: len(acknowledged) >= wanted, f"{count} messages more are acknowledged")

    def finish(self):
        """Have everything behave, all messages that were sent acknowledged, and end."""
        self._calm.set()
        for at, server in enumerate(self._servers):
            if server is None:
                self._start_server(at)
        for sender in self._senders:
            sender.stop()
        wait_until(lambda: not any(map(Sender.is_alive, self._senders)), "all messages are acknowledged")
        self._end_proxy()
        self.ledger.faults += re.findall(
            r".*internal error.*|.* ERROR +(?!.*upstream down).*", self.proxy.logs()
        )

    def report(self):
        """What happened, in words."""
        moods = sum(self._moods, Counter())
        return (
            f"{', '.join(f'{event}: {count}' for event, count in sorted(self.events.items()))}\n"
            f"connections by server: {', '.join(f'{mood}: {moods[mood]}' for mood in MOODS)}\n"
            f"{self.ledger.summary()}"
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for sender in self._senders:
            sender.give_up()
        self.proxy.kill()
        for server in self._servers:
            if server is not None:
                server.close()


def pass_time(seconds):
    """Let everything else go on for a while."""
    select.select([], [], [], seconds)
