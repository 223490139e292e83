"""One connection to a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from msgpack import unpackb
from msgpack.exceptions import OutOfData

from ..encoding.codec import Buffer
from .protocol.handshake import ValueReader
from .protocol.message import acknowledged
from .streams import CONNECTION_ERRORS, describe, write

# Seconds between looks whether the system has taken what TLS has encrypted.
_LOOK = 0.01
WANTS_KEY = "wants a shared key: see --upstream-shared-key-file"


class UpstreamError(Exception):
    """A server can't be reached, or does not do what it should. Says why."""


class ConnectionEndedError(UpstreamError):
    """The connection has ended, as one may that was not used for a while."""


class Channel(NamedTuple):
    """The two ways of a connection.

    Attributes:
        reader: from the server.
        writer: to the server.
        values: reads what came, and may have begun to.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    values: ValueReader


class Observer(Protocol):
    """Is told what happens on a connection."""

    def note_end(self) -> None:
        """The connection has ended."""

    def note_helo(self) -> None:
        """The server has begun a handshake that nobody expected."""

    def complain(self, fault: str) -> None:
        """The server did something wrong while nobody waited for its answer."""


class UpstreamConnection:
    """One connection, of which one client at a time makes use.

    Args:
        name: of the server, for messages.
        channel: from it and to it.
        observer: is told what happens.
        keeps_alive: whether the server takes more than one message on it.

    Attributes:
        has_delivered: whether anything has gone through.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        observer: Observer,
        *,
        keeps_alive: bool = True,
    ) -> None:
        self.has_delivered = False
        self._name = name
        self._observer = observer
        self._keeps_alive = keeps_alive
        self._reader, self._writer, self._values = channel
        self._fault: UpstreamError | None = None
        self._awaited: Any = None
        self._answer: asyncio.Future[bool] | None = None  # whether it is an acknowledgement
        self._listener = asyncio.ensure_future(self._listen())
        self._listener.add_done_callback(lambda _: observer.note_end())

    @property
    def is_usable(self) -> bool:
        """Whether it stands, as far as can be known."""
        is_used_up = self.has_delivered and not self._keeps_alive
        return self._fault is None and not is_used_up and not self._writer.is_closing()

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send messages that want no acknowledgement. Wait until the system has all bytes, however long.

        Raises:
            UpstreamError: they were not all taken.
        """
        await self._write(buffers)
        # Of asyncio's TLS, drain() does not wait for what it has encrypted; uvloop's does.
        beneath = getattr(getattr(self._writer.transport, "_ssl_protocol", None), "_transport", None)
        while self._fault is None and beneath is not None and beneath.get_write_buffer_size():
            await asyncio.sleep(_LOOK)
        if self._fault is not None:
            raise self._fault
        self.has_delivered = True

    async def deliver(self, buffers: Sequence[Buffer], chunk: bytes, timeout: float) -> None:
        """Send a message, and wait until it is acknowledged.

        Args:
            buffers: the bytes.
            chunk: its identifier, encoded.
            timeout: seconds.

        Raises:
            UpstreamError: it may not have arrived.
        """
        self._awaited = unpackb(chunk, raw=True)
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._write_and_wait(buffers, self._answer), timeout)
        except asyncio.TimeoutError:
            raise self._fail(f"has not acknowledged a message within {timeout:.3g} s") from None
        finally:
            self._answer = None
        self.has_delivered = True

    async def _write_and_wait(self, buffers: Sequence[Buffer], answer: asyncio.Future[bool]) -> None:
        await self._write(buffers, answer)
        # The connection may have ended since: what was acknowledged stays acknowledged.
        if not await answer:
            assert self._fault is not None
            raise self._fault

    async def _write(self, buffers: Sequence[Buffer], answer: asyncio.Future[bool] | None = None) -> None:
        if self._fault is None:
            try:
                write(self._writer, buffers)
                await self._writer.drain()
            except CONNECTION_ERRORS as error:
                raise self._fail(describe(error), ConnectionEndedError) from None
        # drain() says nothing when the connection was given up in the meantime.
        is_acknowledged = answer is not None and answer.done() and answer.result()
        if self._fault is not None and not is_acknowledged:
            raise self._fault

    async def _listen(self) -> None:
        """Read the server's answers, and notice when it goes away."""
        try:
            while True:
                with contextlib.suppress(OutOfData):
                    while True:
                        self._take(self._values.next_value())
                data = await self._reader.read(4096)
                if not data:
                    break
                self._values.feed(data)
        except UpstreamError as error:
            self._fail(str(error), is_news=True)
        except ValueError as error:
            self._fail(f"does not speak the forward protocol: {error}", is_news=True)
        except CONNECTION_ERRORS as error:
            self._fail(describe(error), ConnectionEndedError)
        self._fail("has closed the connection", ConnectionEndedError)

    def _take(self, value: Any) -> None:
        if isinstance(value, list) and value[:1] == [b"HELO"]:
            self._observer.note_helo()
            raise UpstreamError(WANTS_KEY)
        chunk = acknowledged(value)
        if chunk is None:
            return  # nothing that the specification knows
        if self._answer is None or chunk != self._awaited:
            raise UpstreamError("has acknowledged what it was not sent")
        if not self._answer.done():
            self._answer.set_result(True)

    def abort(self) -> None:
        """End it at once: nobody knows how much of a message was sent."""
        self._fail("was left in the middle of a message")

    def _fail(
        self, reason: str, kind: type[UpstreamError] = UpstreamError, *, is_news: bool = False
    ) -> UpstreamError:
        """Give the connection up; with ``is_news``, say so if nobody waits. Returns the first fault."""
        if self._fault is None:
            self._fault = kind(f"{self._name}: {reason}")
            if is_news and self._answer is None:
                # Nobody waits for an answer, and so nobody else would say it.
                self._observer.complain(str(self._fault))
            self._writer.transport.abort()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(False)
        return self._fault

    def close(self) -> None:
        """End it in good order: what was sent is still delivered."""
        self._listener.cancel()
        self._writer.close()
