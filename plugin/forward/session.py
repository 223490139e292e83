"""One client's connection: reads messages, has them filtered and delivered, and acknowledges them.

One message at a time: the next is read when the one before has been taken by a server. So a server that
is slow slows the client down, and no more is held than one message and what was read with it. All clients
together hold no more than the budget allows: what is beyond is not read (``budget``). And however much work
a message is, the others go on meanwhile (``turns``).
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
from typing import Any

from ..encoding.codec import Buffer
from ..service.diagnostics import Diagnostics
from .budget import SMALL, Budget
from .protocol.entries import PayloadError
from .protocol.handshake import HandshakeError, ListenSecurity, ServerHandshake, ValueReader
from .protocol.json_message import JSONMessageReader, is_json
from .protocol.message import MODES, Message, MessageReader, ProtocolError
from .protocol.message_filter import MessageFilter
from .repeats import Repeats
from .route import Route, UndeliveredError, Upstreams
from .streams import CONNECTION_ERRORS, describe, next_value, write
from .turns import Turn, Turns

READ_SIZE = SMALL
# Bytes: twice as many are read before they are asked for.
READ_AHEAD = 1 << 16
# Messages without a chunk are sent together, up to so many bytes or buffers: buffers cost something too.
_TOGETHER, _BUFFERS_TOGETHER = 1 << 20, 1 << 11
# Clients at a time that may be about to shake hands.
MAX_HANDSHAKES = 128
# Seconds of work on a message, after which it is looked whether the client still waits for it.
_PATIENCE = 0.5
# What one message may take, in its largest size: its bytes, those of an entry that is told apart, and what is
# left of it. And what decompressing and compressing take beside that.
_MESSAGES, _BESIDE = 4, 32 << 20
# Seconds without input after which a client that wants no acknowledgements has nothing more to say,
# when the proxy is to end.
QUIET = 0.3
# Seconds for a client to take what it was sent last.
_LINGER = 5.0

END_REASONS = (
    "crowded_out", "handshake", "idle", "internal_error", "protocol", "refused", "stalled", "undelivered"
)  # fmt: skip


@dataclass(frozen=True)
class SessionSettings:
    """What is asked of clients, and granted to them.

    Attributes:
        security: what clients have to know; None: there is no handshake.
        max_message_size: bytes.
        max_entries: entries of a message in mode ``forward``.
        max_in_flight: bytes that all clients together may have in messages that are not delivered, beside
            a message that is to be completed.
        idle_timeout: seconds without input after which a client is gone, and for a message to come whole;
            0: it may stay for ever.
        handshake_timeout: seconds for TLS and handshake.
        max_handshakes: clients at a time that have not finished them.
    """

    security: ListenSecurity | None
    max_message_size: int
    max_entries: int
    max_in_flight: int
    idle_timeout: float
    handshake_timeout: float
    max_handshakes: int = MAX_HANDSHAKES


class SessionContext:
    """What all sessions of a proxy share.

    Args:
        filter_: decides.
        upstreams: where messages go.
        diagnostics: where to complain.
        settings: what is asked of clients, and granted to them.

    Attributes:
        budget: bounds what is held for messages that were read, wholly or not, and are not delivered yet.
        turns: sees to it that nobody waits for the end of others' work.
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
        self.budget = Budget(settings.max_in_flight, _MESSAGES * settings.max_message_size + _BESIDE)
        self.turns = Turns()
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
        admit: called when TLS and handshake are done: whether there is room for one more client.

    Attributes:
        name: likewise.
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
        admit: Callable[[Session], bool] = lambda _: True,
    ) -> None:
        self.waiting_since: float | None = None
        self._context = context
        self._connection = connection
        self._is_open = False
        self.is_greeting = tls is not None or context.settings.security is not None
        self.name = name
        self._tls = tls
        self._admit = admit
        # The first byte may decide that it is JSON.
        self._messages: MessageReader | JSONMessageReader = MessageReader(
            context.settings.max_message_size, context.settings.max_entries
        )
        self._has_begun = False
        self._message_began: float | None = None  # by time.monotonic(), less the time of waiting for memory
        self._account = context.budget.account(self._give_up)
        self._turn = Turn(context.turns)
        self._task: asyncio.Task[None] | None = None
        self._end: str | None = None  # why somebody else has ended it
        self._route = Route(context.upstreams)
        self._read: asyncio.Future[bytes] | None = None
        self._finishing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wants_acks: bool | None = None  # unknown before the first message
        # Messages that want no acknowledgement, and are not delivered: how many, and what is to be sent.
        self._owed = 0
        self._unsent: list[Buffer] = []
        self._unsent_size = 0
        self._working_on = 0  # bytes of the message that is filtered or delivered

    def finish(self) -> None:
        """End as soon as all that the client has handed over is delivered."""
        if not self._finishing.done():
            self._finishing.set_result(None)

    def turn_out(self) -> None:
        """Make room for another client: this one has not shaken hands."""
        self._end_because("crowded_out")

    def discard(self) -> None:
        """Let go of everything, if :meth:`run` never came to that."""
        self._context.budget.close(self._account)
        if not self._is_open:
            self._connection.close()

    def _give_up(self) -> None:
        self._end_because("stalled")

    def _end_because(self, reason: str) -> None:
        if self._end is None:
            self._end = reason
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> None:
        """Serve the client until it goes away, or has to."""
        context = self._context
        self._task = asyncio.current_task()
        try:
            if self._end is None:
                await self._greet(context.settings.handshake_timeout)
            if self._end is None and (not self.is_greeting or self._admit(self)):
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
            context.diagnostics.rarely("warning", "client lost", f"client {self.name}: {describe(error)}")
        except asyncio.CancelledError:
            if self._end is None:
                # Nobody else has the message that was just coming.
                self._owed += self._wants_acks is False and self._messages.is_amid
                raise
        except Exception as error:  # other clients must not suffer from a fault of ours with this one
            self._complain("internal_error", f"internal error: {error!r}")
        finally:
            self._close()

    def _close(self) -> None:
        context = self._context
        if self._end == "crowded_out":
            self._complain(self._end, "it has not shaken hands yet, and others want to")
        elif self._end == "stalled":
            self._complain(
                self._end,
                f"{self._messages.held} bytes of a message have come, too slowly, while others wait for"
                " memory: see --max-in-flight",
            )
        context.abandoned += self._owed
        if self._read is not None and not self._read.cancel() and not self._read.cancelled():
            self._read.exception()  # or asyncio complains that nobody has asked for it
        self._turn.end()
        self._route.close()
        self._messages.close()
        context.budget.close(self._account)
        if not self._is_open:
            self._connection.close()
        elif self._end is not None:
            self._writer.transport.abort()
        else:
            self._writer.close()
            # What has been written is still sent, unless the client does not take it.
            asyncio.get_running_loop().call_later(_LINGER, self._writer.transport.abort)

    def _complain(self, reason: str, message: str) -> None:
        self._context.ends[reason] += 1
        self._context.diagnostics.rarely(
            "warning", f"client {reason}", f"client {self.name}: {message}; its connection is closed"
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
        self._account.settle(self._held())

    def _feed(self, data: bytes) -> None:
        """Take bytes of messages; the first of them decides how they are encoded."""
        if data and not self._has_begun:
            self._has_begun = True
            if is_json(data):
                settings = self._context.settings
                self._messages = JSONMessageReader(settings.max_message_size, settings.max_entries)
        self._messages.feed(data)

    async def _serve(self) -> None:
        context = self._context
        self._turn.begin()
        while True:
            try:
                while (message := self._messages.step()) is not None or self._messages.is_busy:
                    if message is not None:
                        self._message_began = None
                        await self._pass_on(message)
                        del message
                    await self._turn.rest_if_due()
            except Exception:
                await self._flush()  # what came before the fault
                raise
            await self._flush()
            self._note_other_values()
            self._account.settle(self._held())
            self._turn.end()
            data = await self._receive()
            if not data:
                break
            context.last_read = time.time()
            await self._make_room(len(data))
            self._feed(data)
            self._turn.begin()
        if self._messages.is_amid:
            context.diagnostics.rarely(
                "warning",
                "client amid",
                f"client {self.name}: the connection ended inside a message, of which {self._messages.held}"
                " bytes had come",
            )

    async def _make_room(self, size: int) -> None:
        """Wait until so many bytes more of messages may be held."""
        messages = self._messages
        began = time.monotonic()
        if not messages.is_amid or self._message_began is None:
            self._message_began = began
        await self._account.grow(messages.cost(size), max(1, messages.missing - size))
        self._message_began += time.monotonic() - began

    def _held(self) -> int:
        """Bytes of messages that are held."""
        return self._messages.memory + self._working_on + self._unsent_size

    def _note_other_values(self) -> None:
        """Count what came beside messages."""
        context, messages = self._context, self._messages
        context.messages["heartbeat"] += messages.heartbeats
        context.messages["ignored"] += messages.ignored
        if messages.ignored:
            context.diagnostics.rarely(
                "warning", "client ignored", f"client {self.name}: a value that is no message is ignored"
            )
        messages.heartbeats = messages.ignored = 0

    async def _receive(self) -> bytes:
        """The next bytes; none at the end of the stream, or when there is no more to wait for."""
        self._begin_to_read()
        assert self._read is not None
        if not self._finishing.done():
            timeout, complaint = self._patience()
            either: set[asyncio.Future[Any]] = {self._read, self._finishing}
            await asyncio.wait(either, timeout=timeout, return_when=FIRST_COMPLETED)
            if not self._read.done() and not self._finishing.done():
                self._complain("idle", complaint)
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

    def _patience(self) -> tuple[float | None, str]:
        """For how many seconds to wait for input, and what to say after that."""
        timeout = self._context.settings.idle_timeout
        if not timeout:
            return None, ""
        if self._messages.is_amid and self._message_began is not None:
            left = self._message_began + timeout - time.monotonic()
            return max(0.0, left), f"a message has not come whole within {timeout:g} s"
        return timeout, f"nothing came for {timeout:g} s"

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
        self._working_on = size
        try:
            if chunk is None:
                self._wants_acks = False
                self._owed += 1
                left = await self._filter(message)
                self._owed -= not left
                self._unsent += left
                self._unsent_size += self._working_on if left else 0
                self._working_on = 0  # what waits is counted until it is handed over
                if self._unsent_size >= _TOGETHER or len(self._unsent) >= _BUFFERS_TOGETHER:
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
                self._turn.end()
                await self._wait_until_taken()
                self._turn.begin()
        finally:
            self._working_on = 0
            self._account.settle(self._held())
            self._account.done()

    async def _wait_until_taken(self) -> None:
        """Wait until the client takes acknowledgements, if many wait for that. Raises ProtocolError."""
        timeout = self._context.settings.idle_timeout or None
        try:
            await asyncio.wait_for(self._writer.drain(), timeout)
        except asyncio.TimeoutError:
            raise ProtocolError(f"it has not read acknowledgements for {timeout:g} s") from None

    async def _flush(self) -> None:
        """Hand over messages that want no acknowledgement."""
        unsent, self._unsent = self._unsent, []
        if unsent:
            await self._deliver(unsent, None)
        self._owed = 0
        self._unsent_size = 0
        self._account.settle(self._held())

    async def _deliver(self, buffers: list[Buffer], chunk: bytes | None) -> None:
        self._turn.end()
        self.waiting_since = time.monotonic()
        if chunk is not None:
            self._begin_to_read()  # to notice if the client goes away
        try:
            await self._route.deliver(buffers, chunk, self._is_gone if chunk is not None else _never)
        finally:
            self.waiting_since = None
            self._turn.begin()

    async def _filter(self, message: Message) -> list[Buffer]:
        """What is left of a message; nothing where that is none of its records."""
        filter_, size = self._context.filter, len(message.frame)
        filter_.counters.bytes_in += size
        try:
            left = await self._turn.carry_out(
                filter_.work(message), self._hold, self._look_for_client if message.option.chunk else _ignore
            )
        except (ProtocolError, UndeliveredError):
            raise
        except Exception as error:  # whatever goes wrong here must not lose the message
            reason = error.reason if isinstance(error, PayloadError) else "internal_error"
            what = str(error) if isinstance(error, PayloadError) else repr(error)
            self._context.diagnostics.rarely(
                "warning" if isinstance(error, PayloadError) else "error",
                f"message {reason}",
                f"client {self.name}: a message of {size} bytes went on undecided: {what}",
            )
            left = filter_.pass_on(message, reason)
        self._context.upstreams.sends_metadata |= filter_.sends_metadata
        filter_.counters.bytes_out += sum(len(memoryview(buffer)) for buffer in left)
        # Views are parts of the message, which stays as long as they do.
        self._working_on = size + sum(len(buffer) for buffer in left if isinstance(buffer, bytes))
        self._account.settle(self._held())
        return left

    async def _hold(self, holds: int) -> None:
        """Wait until the work on a message may hold some bytes beside it."""
        more = self._held() + holds - self._account.held
        if more > 0:
            await self._account.grow(more)
        else:
            self._account.settle(self._account.held + more)

    def _look_for_client(self, spent: float) -> None:
        """Give a message up that has taken long, if its client has gone: it will send it again."""
        if spent > _PATIENCE:
            self._begin_to_read()
            if self._is_gone():
                raise UndeliveredError("the client has gone")


def _ignore(_: float) -> None:
    """Nobody else has the message: it is worked on to the end."""


def _never() -> bool:
    return False
