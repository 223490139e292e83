"""Which server a client's messages go to, and what happens when it does not take them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ..encoding.codec import Buffer
from ..service.diagnostics import Diagnostics
from .address import Address
from .backoff import pause
from .connection import ConnectionEndedError, UpstreamConnection, UpstreamError
from .upstream import ConnectSettings, Upstream

# Seconds between looks whether a client that waits is still there.
_LOOK = 1.0


class UndeliveredError(Exception):
    """No server has acknowledged a message in the time for it. Says what the last one did."""


class Upstreams:
    """The servers, the one to be preferred first.

    Args:
        addresses: where they are.
        settings: how to connect to them.
        diagnostics: where to complain.
        ack_timeout: seconds for a message to be taken and acknowledged.
        retry_timeout: seconds for all attempts to have a message acknowledged.

    Attributes:
        all: the servers.
        resent: how many messages were sent again because a server had not acknowledged them, or went
            away: it may have had them already.
        sends_metadata: whether they are sent records that a Fluentd may not read.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        settings: ConnectSettings,
        diagnostics: Diagnostics,
        *,
        ack_timeout: float,
        retry_timeout: float,
    ) -> None:
        self.resent = 0
        self.sends_metadata = False
        self.ack_timeout, self.retry_timeout = ack_timeout, retry_timeout
        self.diagnostics = diagnostics
        self._waiting: set[asyncio.Future[None]] = set()
        self.all = [Upstream(address, settings, diagnostics, self._wake) for address in addresses]

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for_change(self, timeout: float) -> None:
        """Wait until a server comes up, or for some seconds."""
        # Not an Event with wait_for(), which begins to wait only later, and may miss it until then.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self._waiting.discard(waiter)

    def close(self) -> None:
        """Close all connections that nobody uses."""
        for upstream in self.all:
            upstream.close()


class Route:
    """The way of one client's messages: one connection, so that they stay in order.

    The first server that is up gets the messages. One that is up but does not take a message is left
    alone for a while, by this client: the fault may lie in the message.

    Args:
        upstreams: the servers.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._connection: UpstreamConnection | None = None
        self._server: Upstream | None = None  # that it leads to
        self._failures: dict[Upstream, int] = {}
        self._shunned_until: dict[Upstream, float] = {}

    async def deliver(
        self, buffers: Sequence[Buffer], chunk: bytes | None, is_given_up: Callable[[], bool]
    ) -> None:
        """Hand a message over.

        Args:
            buffers: its bytes; without a chunk, those of any number of messages.
            chunk: its identifier, encoded; None: it wants no acknowledgement. Then this tries on for
                ever, because nobody else has the message.
            is_given_up: whether the client has gone and will send the message again, so that a further
                attempt would only make it arrive twice.

        Raises:
            UndeliveredError: no server has acknowledged it.
        """
        deadline = None if chunk is None else time.monotonic() + self._upstreams.retry_timeout
        fault: UpstreamError | None = None
        while True:
            connection, upstream = await self._connect(deadline, fault, is_given_up)
            if self._upstreams.sends_metadata:
                upstream.warn_of_metadata()
            try:
                if chunk is None or deadline is None:
                    await connection.send(buffers)
                else:
                    remaining = max(0.0, deadline - time.monotonic())
                    timeout = min(self._upstreams.ack_timeout, remaining)
                    await connection.deliver(buffers, chunk, timeout)
            except UpstreamError as error:
                fault = error
                self._note_failure(connection, upstream, error)
            except BaseException:
                connection.abort()
                raise
            else:
                self._failures.pop(upstream, None)
                return

    def close(self) -> None:
        """Leave the connection to others."""
        if self._connection is not None and self._server is not None:
            self._server.give_back(self._connection)
            self._connection = self._server = None

    def _note_failure(self, connection: UpstreamConnection, upstream: Upstream, error: UpstreamError) -> None:
        self._connection = self._server = None
        self._upstreams.resent += 1
        if connection.has_delivered and isinstance(error, ConnectionEndedError):
            return  # it may just have been closed because it was idle
        self._upstreams.diagnostics.rarely("warning", f"undelivered {upstream}", str(error))
        self._failures[upstream] = self._failures.get(upstream, 0) + 1
        self._shunned_until[upstream] = time.monotonic() + pause(self._failures[upstream])

    async def _connect(
        self, deadline: float | None, fault: UpstreamError | None, is_given_up: Callable[[], bool]
    ) -> tuple[UpstreamConnection, Upstream]:
        """A connection to the best server, and that server, as soon as there is one."""
        has_waited = False
        while True:
            now = time.monotonic()
            up = [upstream for upstream in self._upstreams.all if upstream.is_up]
            best = next((upstream for upstream in up if self._shunned_until.get(upstream, 0) <= now), None)
            held, server = self._connection, self._server
            if held is not None and server is not None and best in (server, None) and held.is_usable:
                return held, server
            self.close()
            if deadline is not None and now >= deadline:
                raise UndeliveredError(str(fault) if fault else "no upstream is up")
            if (fault is not None or has_waited) and is_given_up():
                raise UndeliveredError(f"the client has gone; {fault or 'no upstream is up'}")
            if best is not None:
                try:
                    held = await best.connection()
                except UpstreamError as error:
                    fault = error
                    continue
                self._connection, self._server = held, best
                # Even if it has ended already: then that is a failure, after which there is a pause.
                return held, best
            until = min((self._shunned_until[upstream] for upstream in up), default=None)
            ends = [end - now for end in (until, deadline) if end is not None]
            await self._upstreams.wait_for_change(min([*ends, _LOOK]))
            has_waited = True
