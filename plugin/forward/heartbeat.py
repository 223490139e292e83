"""The answers to Fluentd's UDP heartbeats (``heartbeat_type udp`` in its ``out_forward``).

Fluentd sends one zero byte each ``heartbeat_interval`` (1 s) to the port that it forwards to, from any free
port; ``in_forward`` answers with the same byte. So a heartbeat and an answer differ only in their sender and
their time, and a forged sender can make two servers answer each other. The rules of :class:`Senders` prevent
that.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, OrderedDict
from contextlib import suppress

HEARTBEAT = b"\0"
# Each sender gets at most one answer in these seconds. Fluentd sends one heartbeat per second. Two servers
# that answer each other do so much faster, and so they stop at once.
INTERVAL = 0.5
# How many senders are remembered, in all and for one host. The most answers per second are twice as many.
MAX_SENDERS = 1024
MAX_SENDERS_OF_A_HOST = 32
# How many datagrams are read before other tasks get their turn.
_AT_ONCE = 64


class Senders:
    """Decides which senders get an answer. Remembers at most ``MAX_SENDERS`` of them."""

    def __init__(self) -> None:
        self._answered: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._of_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._answered)

    def may_be_answered(self, host: str, port: int, now: float) -> bool:
        """Whether a sender gets an answer now. If it does, the sender is remembered.

        Args:
            host: the sender's IP address.
            port: the sender's port.
            now: the time, in seconds of any clock that never goes back.
        """
        while self._answered:
            (oldest_host, _), since = next(iter(self._answered.items()))
            if now - since < INTERVAL:
                break
            self._answered.popitem(last=False)
            self._of_host[oldest_host] -= 1
            if not self._of_host[oldest_host]:
                del self._of_host[oldest_host]
        is_new = (host, port) not in self._answered
        if not is_new or len(self) >= MAX_SENDERS or self._of_host[host] >= MAX_SENDERS_OF_A_HOST:
            return False
        self._answered[host, port] = now
        self._of_host[host] += 1
        return True


class Heartbeats:
    """Answers the heartbeats that come to a socket.

    Args:
        udp: the socket, bound.
    """

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        self._port = udp.getsockname()[1]
        self._senders = Senders()

    def start(self) -> None:
        """Begin to answer."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def stop(self) -> None:
        """Stop answering, and close the socket."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._socket.recvfrom(len(HEARTBEAT) + 1)
            except OSError:
                return  # nothing is left, or nothing can be read
            host, port = sender[:2]
            # A sender with the same port number is a server, and no server sends heartbeats.
            if data != HEARTBEAT or port == self._port:
                continue
            if self._senders.may_be_answered(host, port, time.monotonic()):
                with suppress(OSError):  # an answer that can't be sent now is not sent
                    self._socket.sendto(HEARTBEAT, sender)
