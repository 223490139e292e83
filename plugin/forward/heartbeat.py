"""The answers to Fluentd's UDP heartbeats (``heartbeat_type udp`` in its ``out_forward``).

Fluentd sends one zero byte each ``heartbeat_interval`` (1 s) to the port that it forwards to, from a port
that its system has given it; ``in_forward`` answers with the same byte. So nothing but sender and moment
tells a heartbeat from an answer, and a forged sender can make two servers answer each other. Hence the rules
of :class:`Senders`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, OrderedDict
from contextlib import suppress

HEARTBEAT = b"\0"
# Seconds in which one sender gets one answer. Fluentd sends a heartbeat a second; an answer comes back
# within less, so that two servers that answer each other stop at once.
INTERVAL = 0.5
# Senders that are remembered, in all and of one host: both times two, the most answers a second.
MAX_SENDERS = 1024
MAX_SENDERS_OF_A_HOST = 32
# Datagrams that are read before something else gets its turn.
_AT_ONCE = 64


class Senders:
    """Decides who gets an answer. Holds no more than ``MAX_SENDERS``."""

    def __init__(self) -> None:
        self._answered: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._of_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._answered)

    def may_be_answered(self, host: str, port: int, now: float) -> bool:
        """Whether a sender gets an answer now; if so, that is remembered.

        Args:
            host: its IP address.
            port: its port.
            now: the moment, in seconds of any clock that never goes back.
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
        """Answer from now on."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def stop(self) -> None:
        """Answer no more, and close the socket."""
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
            # What comes from this very port number comes from a server, and no server sends heartbeats.
            if data != HEARTBEAT or port == self._port:
                continue
            if self._senders.may_be_answered(host, port, time.monotonic()):
                with suppress(OSError):  # an answer that can't be sent now is not sent
                    self._socket.sendto(HEARTBEAT, sender)
