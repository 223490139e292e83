"""One client's connection: reads messages, has them filtered and delivered, and acknowledges them.

One message at a time: the next is read when the one before has been taken by a server. So a server that
is slow slows the client down, and no more is held than one message and what was read with it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..encoding.codec import Buffer
from ..service.diagnostics import Diagnostics
from .protocol.handshake import HandshakeError, ListenSecurity, ServerHandshake, ValueReader
from .protocol.json_message import JSONMessageReader, is_json
from .protocol.message import MODES, Message, MessageReader, ProtocolError
from .protocol.message_filter import Filtered, MessageFilter, PayloadError, compression_of
from .repeats import Repeats
from .route import Route, UndeliveredError, Upstreams
from .streams import CONNECTION_ERRORS, describe, next_value, write

READ_SIZE = 1 << 18
# Bytes: twice as many are read before they are asked for.
READ_AHEAD = 1 << 17
# Bytes of messages without a chunk that are sent together.
_TOGETHER = 1 << 20
# From so many bytes on, compression is done in another thread; below, handing it over costs more.
_ASIDE = 1 << 15
# Seconds without input after which a client that wants no acknowledgements has nothing more to say,
# when the proxy is to end.
QUIET = 0.3
# Seconds for a client to take what it was sent last.
_LINGER = 5.0

END_REASONS = ("handshake", "idle", "internal_error", "protocol", "refused", "undelivered")

T = TypeVar("T")


@dataclass(frozen=True)
class SessionSettings:
    """What is asked of clients, and granted to them.

    Attributes:
        security: what clients have to know; None: there is no handshake.
        max_message_size: bytes.
        idle_timeout: seconds without input after which a client is gone; 0: it may stay for ever.
        handshake_timeout: seconds for TLS and handshake.
    """

    security: ListenSecurity | None
    max_message_size: int
    idle_timeout: float
    handshake_timeout: float


class SessionContext:
    """What all sessions of a proxy share.

    Args:
        filter_: decides.
        upstreams: where messages go.
        diagnostics: where to complain.
        settings: what is asked of clients, and granted to them.

    Attributes:
        in_flight: bytes of messages that were read and not delivered yet.
        last_read: when input came last, in seconds since the epoch; 0: none came yet.
        messages: how many messages came, by mode; ``signal``: metrics and traces; ``heartbeat``: nils;
            ``ignored``: values that are no messages.
        acks: ``sent``: after a server's; ``at_once``: nothing was left of the message; ``withheld``: no
            server acknowledged it, so the client keeps it.
        ends: why connections were ended by this side.
        repeats: knows messages that came before.
        abandoned: messages without a chunk that had to be given up when the time for the end was over.
    """

    def __init__(
        self,
        filter_: MessageFilter,
        upstreams: Upstreams,
        diagnostics: Diagnostics,
        settings: SessionSettings,
    ) -> None:
        self.filter = filter_
        self.upstreams = upstreams
        self.diagnostics = diagnostics
        self.settings = settings
        self.in_flight = 0
        self.last_read = 0.0
        self.messages: Counter[str] = Counter(dict.fromkeys((*MODES, "signal", "heartbeat", "ignored"), 0))
        self.acks: Counter[str] = Counter(sent=0, at_once=0, withheld=0)
        self.ends: Counter[str] = Counter(dict.fromkeys(END_REASONS, 0))
        self.repeats = Repeats()
        self.abandoned = 0


class Session:
    """Serves one client.

    Args:
        context: what it shares with others.
        connection: from the client.
        name: what to call the client.
        tls: to be begun with; None: the connection is plain, or as good as TLS.

    Attributes:
        is_greeting: whether TLS or the handshake is not done, so that no message can have come.
        waiting_since: since when a message has been waiting for a server, by time.monotonic(); None: none
            is.
    """

    def __init__(
        self,
        context: SessionContext,
        connection: socket.socket,
        name: str,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.waiting_since: float | None = None
        self._context = context
        self._connection = connection
        self._is_open = False
        self.is_greeting = tls is not None or context.settings.security is not None
        self._name = name
        self._tls = tls
        # The first byte may decide that it is JSON.
        self._messages: MessageReader | JSONMessageReader = MessageReader(context.settings.max_message_size)
        self._has_begun = False
        self._route = Route(context.upstreams)
        self._read: asyncio.Future[bytes] | None = None
        self._finishing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wants_acks: bool | None = None  # unknown before the first message
        # Messages that want no acknowledgement, and are not delivered: how many, and what is to be sent.
        self._owed = 0
        self._unsent: list[Buffer] = []
        self._unsent_size = 0

    def finish(self) -> None:
        """End as soon as all that the client has handed over is delivered."""
        if not self._finishing.done():
            self._finishing.set_result(None)

    async def run(self) -> None:
        """Serve the client until it goes away, or has to."""
        context = self._context
        try:
            await self._greet(context.settings.handshake_timeout)
            self.is_greeting = False
            await self._serve()
        except HandshakeError as error:
            self._complain("handshake", str(error))
        except ProtocolError as error:
            self._complain("protocol", str(error))
        except UndeliveredError as error:
            context.acks["withheld"] += 1
            self._complain(
                "undelivered", f"a message was not acknowledged: {error}; the client has to keep it"
            )
        except CONNECTION_ERRORS as error:
            context.diagnostics.rarely("warning", "client lost", f"client {self._name}: {describe(error)}")
        except asyncio.CancelledError:
            # Nobody else has the message that was just coming.
            self._owed += self._wants_acks is False and self._messages.is_amid
            raise
        except Exception as error:  # other clients must not suffer from a fault of ours with this one
            self._complain("internal_error", f"internal error: {error!r}")
        finally:
            context.abandoned += self._owed
            if self._read is not None and not self._read.cancel() and not self._read.cancelled():
                self._read.exception()  # or asyncio complains that nobody has asked for it
            self._route.close()
            self._messages.close()
            if self._is_open:
                self._writer.close()
                # What has been written is still sent, unless the client does not take it.
                asyncio.get_running_loop().call_later(_LINGER, self._writer.transport.abort)
            else:
                self._connection.close()

    def _complain(self, reason: str, message: str) -> None:
        self._context.ends[reason] += 1
        self._context.diagnostics.rarely(
            "warning", f"client {reason}", f"client {self._name}: {message}; its connection is closed"
        )

    async def _greet(self, timeout: float) -> None:
        """Do all that comes before messages, in so many seconds. Raises HandshakeError."""
        try:
            await asyncio.wait_for(self._open(), timeout)
        except asyncio.TimeoutError:
            raise HandshakeError(f"no handshake within {timeout:g} s") from None
        except (ValueError, *CONNECTION_ERRORS) as error:
            raise HandshakeError(describe(error)) from None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(READ_AHEAD)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._connection, ssl=self._tls)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        self._is_open = True
        if self._context.settings.security is not None:
            await self._shake_hands(ServerHandshake(self._context.settings.security))

    async def _shake_hands(self, handshake: ServerHandshake) -> None:
        write(self._writer, [handshake.helo()])
        values = ValueReader()
        pong, fault = handshake.answer(await next_value(self._reader, values))
        write(self._writer, [pong])
        await self._writer.drain()
        if fault is not None:
            raise HandshakeError(fault)
        self._feed(values.rest())  # from a client that does not wait for the answer

    def _feed(self, data: bytes) -> None:
        """Take bytes of messages; the first of them decides how they are encoded."""
        if data and not self._has_begun:
            self._has_begun = True
            if is_json(data):
                self._messages = JSONMessageReader(self._context.settings.max_message_size)
        self._messages.feed(data)

    async def _serve(self) -> None:
        context = self._context
        while True:
            try:
                while (message := self._messages.next_message()) is not None:
                    await self._pass_on(message)
            except Exception:
                await self._flush()  # what came before the fault
                raise
            await self._flush()
            self._note_other_values()
            data = await self._receive()
            if not data:
                break
            context.last_read = time.time()
            self._feed(data)
        if self._messages.is_amid:
            context.diagnostics.rarely(
                "warning",
                "client amid",
                f"client {self._name}: the connection ended inside a message, of which {self._messages.held}"
                " bytes had come",
            )

    def _note_other_values(self) -> None:
        """Count what came beside messages."""
        context, messages = self._context, self._messages
        context.messages["heartbeat"] += messages.heartbeats
        context.messages["ignored"] += messages.ignored
        if messages.ignored:
            context.diagnostics.rarely(
                "warning", "client ignored", f"client {self._name}: a value that is no message is ignored"
            )
        messages.heartbeats = messages.ignored = 0

    async def _receive(self) -> bytes:
        """The next bytes; none at the end of the stream, or when there is no more to wait for."""
        self._begin_to_read()
        assert self._read is not None
        if not self._finishing.done():
            timeout = self._context.settings.idle_timeout or None
            either: set[asyncio.Future[Any]] = {self._read, self._finishing}
            await asyncio.wait(either, timeout=timeout, return_when=FIRST_COMPLETED)
            if not self._read.done() and not self._finishing.done():
                self._complain("idle", f"nothing came for {timeout:g} s")
                return b""
        if not self._read.done():
            if self._wants_acks:
                return b""  # it keeps what is not acknowledged
            if self._wants_acks is False and self._writer.can_write_eof() and not self._writer.is_closing():
                self._writer.write_eof()  # a client that looks sends the rest elsewhere
            await asyncio.wait({self._read}, timeout=None if self._messages.is_amid else QUIET)
            if not self._read.done():
                return b""
        data, self._read = self._read.result(), None
        return data

    def _begin_to_read(self) -> None:
        if self._read is None:
            self._read = asyncio.ensure_future(self._reader.read(READ_SIZE))

    def _is_gone(self) -> bool:
        """Whether the client has ended the connection, and nothing came before that."""
        read = self._read
        return read is not None and read.done() and (read.exception() is not None or not read.result())

    async def _pass_on(self, message: Message) -> None:
        context, size, chunk = self._context, len(message.frame), message.option.chunk
        context.messages["signal" if message.option.signal else message.mode] += 1
        context.in_flight += size
        try:
            if chunk is None:
                self._wants_acks = False
                self._owed += 1
                left = await self._filter(message)
                self._owed -= not left
                self._unsent += left
                self._unsent_size += size
                size = 0  # what waits is counted until it is handed over
                if self._unsent_size >= _TOGETHER:
                    await self._flush()
                return
            self._wants_acks = self._wants_acks is not False
            left = await self._filter(message)
            await self._flush()
            context.repeats.note(chunk, message.frame)
            if left:
                await self._deliver(left, chunk)
            context.acks["sent" if left else "at_once"] += 1
            # In one piece: Fluent Bit reads an acknowledgement in one.
            write(self._writer, [message.acknowledgement()])
            if self._writer.transport.get_write_buffer_size():
                await self._wait_until_taken()
        finally:
            context.in_flight -= size

    async def _wait_until_taken(self) -> None:
        """Wait until the client takes acknowledgements, if many wait for that. Raises ProtocolError."""
        timeout = self._context.settings.idle_timeout or None
        try:
            await asyncio.wait_for(self._writer.drain(), timeout)
        except asyncio.TimeoutError:
            raise ProtocolError(f"it has not read acknowledgements for {timeout:g} s") from None

    async def _flush(self) -> None:
        """Hand over messages that want no acknowledgement."""
        unsent, size = self._unsent, self._unsent_size
        self._unsent, self._unsent_size = [], 0
        try:
            if unsent:
                await self._deliver(unsent, None)
            self._owed = 0
        finally:
            self._context.in_flight -= size

    async def _deliver(self, buffers: list[Buffer], chunk: bytes | None) -> None:
        self.waiting_since = time.monotonic()
        if chunk is not None:
            self._begin_to_read()  # to notice if the client goes away
        try:
            await self._route.deliver(buffers, chunk, self._is_gone if chunk is not None else _never)
        finally:
            self.waiting_since = None

    async def _filter(self, message: Message) -> list[Buffer]:
        """What is left of a message; nothing where that is none of its records."""
        filter_, size = self._context.filter, len(message.frame)
        filter_.counters.bytes_in += size
        is_large = size >= _ASIDE and compression_of(message) is not None
        left: Filtered | None
        try:
            payload = await _run(partial(filter_.open, message), aside=is_large)
            left = filter_.filter(message, payload)
            sealed = [] if left is None else await _run(left.seal, aside=is_large)
        except ProtocolError:
            raise
        except Exception as error:  # whatever goes wrong here must not lose the message
            reason = error.reason if isinstance(error, PayloadError) else "internal_error"
            self._context.diagnostics.rarely(
                "warning" if isinstance(error, PayloadError) else "error",
                f"message {reason}",
                f"client {self._name}: a message of {size} bytes went on undecided: {error!r}",
            )
            sealed = filter_.pass_on(message, reason).seal()
        self._context.upstreams.sends_metadata |= filter_.sends_metadata
        filter_.counters.bytes_out += sum(len(memoryview(buffer)) for buffer in sealed)
        return sealed


def _never() -> bool:
    return False


async def _run(work: Callable[[], T], *, aside: bool) -> T:
    return await asyncio.to_thread(work) if aside else work()
