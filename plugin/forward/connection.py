"""One connection to a server."""

from __future__ import annotations

import asyncio
import contextlib
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from msgpack.exceptions import OutOfData

from ..encoding.codec import Buffer
from .protocol.handshake import ValueReader
from .protocol.message import acknowledged, comparable
from .streams import CONNECTION_ERRORS, describe, pieces, write

# Seconds between checks whether the system has taken all encrypted bytes.
_LOOK = 0.01
WANTS_KEY = "wants a shared key: see --upstream-shared-key-file"


class UpstreamError(Exception):
    """A server can't be reached, or violates the protocol. The text says how."""


class ConnectionEndedError(UpstreamError):
    """The connection has ended. That is usual for a connection that was not used for a while."""


class Channel(NamedTuple):
    """The two directions of a connection.

    Attributes:
        reader: reads from the server.
        writer: writes to the server.
        wire: the transport that gives bytes to the system: the one beneath TLS, or the writer's own.
        values: parses the server's answers. It may hold bytes that came in the handshake.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    wire: asyncio.WriteTransport
    values: ValueReader


class Observer(Protocol):
    """Is notified of what happens on a connection."""

    def note_end(self) -> None:
        """The connection has ended."""

    def note_helo(self) -> None:
        """The server has begun a handshake that nobody expected."""

    def complain(self, fault: str) -> None:
        """The server did something wrong while nobody waited for its answer."""


class UpstreamConnection:
    """One connection, used by one client at a time.

    Args:
        name: the server's name in messages.
        channel: the two directions of the connection.
        observer: is notified of what happens.
        keeps_alive: whether the server takes more than one message on the connection.

    Attributes:
        has_delivered: whether a message was delivered.
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
        self._reader, self._writer, self._wire, self._values = channel
        self._fault: UpstreamError | None = None
        self._awaited: Any = None
        self._answer: asyncio.Future[bool] | None = None  # True for an acknowledgement
        self._nils = 0  # how many nils came while an acknowledgement was awaited
        self._came = b""  # the last bytes that came
        self._listener = asyncio.ensure_future(self._listen())
        self._listener.add_done_callback(lambda _: observer.note_end())

    @property
    def is_usable(self) -> bool:
        """Whether the connection works, as far as is known, and takes another message."""
        return self._fault is None and (self._keeps_alive or not self.has_delivered)

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send messages without acknowledgements. Wait until the system has taken all bytes, however long.

        Raises:
            UpstreamError: the bytes were not all taken.
        """
        await self._write(buffers)
        # With TLS, drain() returns while encrypted bytes still wait in the transport beneath.
        while self._fault is None and self._wire.get_write_buffer_size():
            await asyncio.sleep(_LOOK)
        if self._fault is None and self._wire.is_closing():
            # A connection that is reset empties its buffer a moment before it reports the error.
            self._fail("has closed the connection", ConnectionEndedError)
        if self._fault is not None:
            raise self._fault
        self.has_delivered = True

    async def deliver(self, buffers: Sequence[Buffer], chunk: bytes, timeout: float) -> None:
        """Send a message, and wait until it is acknowledged.

        Args:
            buffers: the bytes of the message.
            chunk: the identifier of its chunk, encoded.
            timeout: seconds.

        Raises:
            UpstreamError: the message may not have arrived.
        """
        self._awaited = comparable(chunk)
        self._answer = asyncio.get_running_loop().create_future()
        self._nils = 0
        try:
            await asyncio.wait_for(self._write_and_wait(buffers, self._answer), timeout)
        except asyncio.TimeoutError:
            but = f", and has answered {_shown(self._came)}" if self._nils else ""
            raise self._fail(f"has not acknowledged a message within {timeout:.3g} s{but}") from None
        finally:
            self._answer = None
        self.has_delivered = True

    async def _write_and_wait(self, buffers: Sequence[Buffer], answer: asyncio.Future[bool]) -> None:
        await self._write(buffers)
        # The connection may have ended meanwhile. What was acknowledged stays acknowledged.
        if not await answer:
            assert self._fault is not None
            raise self._fault

    async def _write(self, buffers: Sequence[Buffer]) -> None:
        """Write. If the connection fails meanwhile, this may return without an error."""
        if self._fault is not None:
            raise self._fault
        try:
            for some in pieces(buffers):
                write(self._writer, some)
                await self._writer.drain()
        except CONNECTION_ERRORS as error:
            raise self._fail(describe(error), ConnectionEndedError) from None

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
                self._came = data
                self._values.feed(data)
        except UpstreamError as error:
            self._fail(str(error), is_news=True)
        except ValueError as error:
            came = f": it has answered {_shown(self._came)}" if self._came else ""
            self._fail(f"does not speak the forward protocol: {error}{came}", is_news=True)
        except CONNECTION_ERRORS as error:
            self._fail(describe(error), ConnectionEndedError)
        self._fail("has closed the connection", ConnectionEndedError)

    def _take(self, value: Any) -> None:
        if isinstance(value, list) and value[:1] == [b"HELO"]:
            self._observer.note_helo()
            raise UpstreamError(WANTS_KEY)
        chunk = acknowledged(value)
        if chunk is None:
            self._take_other(value)
        elif self._answer is None:
            raise UpstreamError(f"has acknowledged what it was not sent: {_shown(chunk)}")
        elif chunk != self._awaited:
            raise UpstreamError(
                f"has acknowledged another message: {_shown(chunk)} in place of {_shown(self._awaited)}"
            )
        elif not self._answer.done():
            self._answer.set_result(True)

    def _take_other(self, value: Any) -> None:
        """Handle a value that is not an acknowledgement. While one is awaited, only heartbeats may come."""
        if self._answer is None or self._answer.done():
            return
        if value is None:
            self._nils += 1
            return
        advice = ": that is JSON, and not MessagePack" if self._came.lstrip()[:1] in (b"{", b"[") else ""
        raise UpstreamError(f"has answered a message with {_shown(self._came or value)}{advice}")

    def abort(self) -> None:
        """End the connection at once: nobody knows how much of a message was sent."""
        self._fail("was left in the middle of a message")

    def _fail(
        self, reason: str, kind: type[UpstreamError] = UpstreamError, *, is_news: bool = False
    ) -> UpstreamError:
        """Give the connection up. With ``is_news``, report it if nobody waits. Returns the first fault."""
        if self._fault is None:
            self._fault = kind(f"{self._name}: {reason}")
            if is_news and self._answer is None:
                # Nobody waits for an answer, so nobody else would report the fault.
                self._observer.complain(str(self._fault))
            self._writer.transport.abort()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(False)
        return self._fault

    def close(self) -> None:
        """End the connection in good order: what was sent is still delivered."""
        self._listener.cancel()
        self._writer.close()


def _shown(value: Any) -> str:
    """A server's answer, for a message: short, and without anything that controls a terminal."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxother = 80  # bytes are "other"
