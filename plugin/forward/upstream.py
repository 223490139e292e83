"""Connections to the servers that filtered messages go to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgpack import unpackb
from msgpack.exceptions import OutOfData

from plugin.encoding.codec import Buffer
from plugin.forward.address import Address
from plugin.forward.backoff import pause
from plugin.forward.handshake import ClientHandshake, HandshakeError, UpstreamSecurity, ValueReader
from plugin.forward.message import acknowledged
from plugin.forward.tls import describe
from plugin.service.diagnostics import Diagnostics

# Unused connections that are held ready for the next client, and for how many seconds.
_IDLE_CONNECTIONS = 16
_IDLE_TIME = 20.0
# Seconds in which a server that has a shared key says so.
_HELO_WITHIN = 1.0
# Seconds between looks whether the system has taken what TLS has encrypted.
_LOOK = 0.01
_WANTS_KEY = "wants a shared key: see --upstream-shared-key-file"
# What a lost connection raises, in all its forms. Before Python 3.11, asyncio has a TimeoutError of its own.
CONNECTION_ERRORS = (OSError, EOFError, asyncio.TimeoutError)


class UpstreamError(Exception):
    """A server can't be reached, or does not do what it should. Says why."""


class ConnectionEndedError(UpstreamError):
    """The connection has ended, as one may that was not used for a while."""


@dataclass(frozen=True)
class UpstreamSettings:
    """How to talk to servers.

    Attributes:
        security: for the handshake; None: there is none.
        tls: for ``tls`` addresses.
        server_name: the name that their certificates have to show; None: that of the address.
        connect_timeout: seconds for connection, TLS and handshake, together.
    """

    security: UpstreamSecurity | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    connect_timeout: float = 10.0


class UpstreamConnection:
    """One connection, of which one client at a time makes use.

    Args:
        upstream: the server.
        reader: from it.
        writer: to it.
        values: the reader of its answers, which may have begun to read.
        on_end: called when it has ended.
        keeps_alive: whether the server takes more than one message on it.

    Attributes:
        upstream: likewise.
        has_delivered: whether anything has gone through.
    """

    def __init__(
        self,
        upstream: Upstream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        values: ValueReader,
        on_end: Callable[[], None],
        *,
        keeps_alive: bool = True,
    ) -> None:
        self.upstream = upstream
        self.has_delivered = False
        self._keeps_alive = keeps_alive
        self._reader, self._writer, self._values = reader, writer, values
        self._fault: UpstreamError | None = None
        self._awaited: Any = None
        self._answer: asyncio.Future[bool] | None = None  # whether it is an acknowledgement
        self._listener = asyncio.ensure_future(self._listen())
        self._listener.add_done_callback(lambda _: on_end())

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
            self.upstream.wants_key = True
            raise UpstreamError(_WANTS_KEY)
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
            self._fault = kind(f"{self.upstream}: {reason}")
            if is_news and self._answer is None:
                # Nobody waits for an answer, and so nobody else would say it.
                self.upstream.complain(str(self._fault))
            self._writer.transport.abort()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(False)
        return self._fault

    def close(self) -> None:
        """End it in good order: what was sent is still delivered."""
        self._listener.cancel()
        self._writer.close()


class Upstream:
    """A server, and what is known of it.

    Args:
        address: where it is.
        settings: how to talk to it.
        diagnostics: where to say that it is down, or up again.
        on_change: called when it comes up.

    Attributes:
        settings: likewise.
        is_up: whether the last attempt to connect succeeded; at first, none failed.
        connections: how many connections to it there are.
        attempts: how those to connect ended, ``connected`` or ``failed``.
    """

    def __init__(
        self,
        address: Address,
        settings: UpstreamSettings,
        diagnostics: Diagnostics,
        on_change: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.is_up = True
        self.wants_key = False  # as far as is known
        self.connections = 0
        self.attempts: Counter[str] = Counter(connected=0, failed=0)
        self._address = address
        self._diagnostics = diagnostics
        self._on_change = on_change
        self._idle: list[tuple[UpstreamConnection, asyncio.TimerHandle]] = []
        self._probe: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._address)

    async def connection(self) -> UpstreamConnection:
        """A connection that nobody uses, or a new one.

        Raises:
            UpstreamError: there can be none. From now on it is looked whether there can.
        """
        while self._idle:
            # The last one given back: with one client after the other, all messages take the same way.
            connection, timer = self._idle.pop()
            timer.cancel()
            if connection.is_usable:
                return connection
        try:
            return await self._connect()
        except UpstreamError as error:
            if self._probe is None:
                self.is_up = False
                self._diagnostics.error(f"upstream down: {error}")
                self._probe = asyncio.ensure_future(self._look(str(error)))
            raise

    def complain(self, fault: str) -> None:
        """Say what is wrong with it."""
        self._diagnostics.rarely("warning", f"undelivered {self}", fault)

    async def greet(self) -> None:
        """Connect for the first time, so that it is known before the first message whether that works."""
        with contextlib.suppress(UpstreamError):
            self.give_back(await self.connection())

    def give_back(self, connection: UpstreamConnection) -> None:
        """Take a connection that its user needs no more."""
        if not connection.is_usable or len(self._idle) >= _IDLE_CONNECTIONS:
            connection.close()
            return
        timer = asyncio.get_running_loop().call_later(_IDLE_TIME, self._drop, connection)
        self._idle.append((connection, timer))

    def close(self) -> None:
        """Close unused connections, and look no more."""
        if self._probe is not None:
            self._probe.cancel()
        for connection, timer in self._idle:
            timer.cancel()
            connection.close()
        self._idle.clear()

    def _drop(self, unused: UpstreamConnection) -> None:
        self._idle = [entry for entry in self._idle if entry[0] is not unused]
        unused.close()

    async def _look(self, fault: str) -> None:
        """Look again and again whether the server is there, and say so when it is not for another reason."""
        failures = 1
        while not self.is_up:
            await asyncio.sleep(pause(failures))
            failures += 1
            try:
                self.give_back(await self._connect())
                self.is_up = True
            except UpstreamError as error:
                if str(error) != fault:
                    fault = str(error)
                    self._diagnostics.error(f"upstream down: {fault}")
        self._probe = None
        self._diagnostics.info(f"upstream up: {self}")
        self._on_change()

    async def _connect(self) -> UpstreamConnection:
        timeout = self.settings.connect_timeout
        try:
            connection = await asyncio.wait_for(self._open(), timeout)
        except asyncio.TimeoutError:
            self.attempts["failed"] += 1
            raise UpstreamError(f"{self}: no connection within {timeout:g} s") from None
        except (HandshakeError, ValueError, *CONNECTION_ERRORS) as error:
            self.attempts["failed"] += 1
            raise UpstreamError(f"{self}: {describe(error)}") from None
        self.attempts["connected"] += 1
        return connection

    async def _open(self) -> UpstreamConnection:
        reader, writer = await self._open_stream()
        try:
            # What drain() waits for is that the system has taken everything.
            writer.transport.set_write_buffer_limits(0)
            values, keeps_alive = ValueReader(), True
            if self.settings.security is not None:
                keeps_alive = await _shake_hands(reader, writer, values, self.settings.security)
            elif self.wants_key:
                await self._look_for_helo(reader, values)
        except BaseException:
            writer.transport.abort()
            raise
        self.connections += 1
        return UpstreamConnection(self, reader, writer, values, self._count_end, keeps_alive=keeps_alive)

    async def _look_for_helo(self, reader: asyncio.StreamReader, values: ValueReader) -> None:
        """See whether a server that has begun with a handshake still does. Raises HandshakeError."""
        try:
            await asyncio.wait_for(next_value(reader, values), _HELO_WITHIN)
        except asyncio.TimeoutError:
            self.wants_key = False
            return
        raise HandshakeError(_WANTS_KEY)

    def _count_end(self) -> None:
        self.connections -= 1

    async def _open_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address, settings = self._address, self.settings
        if address.kind == "unix":
            return await asyncio.open_unix_connection(address.host)
        connection = await self._connected_socket()
        try:
            keep_alive(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.kind != "tls":
                return await asyncio.open_connection(sock=connection)
            return await asyncio.open_connection(
                sock=connection,
                ssl=settings.tls,
                server_hostname=settings.server_name or address.host,
                ssl_handshake_timeout=settings.connect_timeout,
            )
        except BaseException:
            connection.close()
            raise

    async def _connected_socket(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers; each has its share of the time."""
        loop, (_, host, port) = asyncio.get_running_loop(), self._address
        deadline = loop.time() + self.settings.connect_timeout
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, where) in zip(range(len(found), 0, -1), found, strict=True):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.setblocking(False)
                share = (deadline - loop.time()) / left
                await asyncio.wait_for(loop.sock_connect(connection, where), share)
            except BaseException as error:
                connection.close()
                if left == 1 or not isinstance(error, CONNECTION_ERRORS):
                    raise
            else:
                return connection
        raise AssertionError("no address and no error")


async def _shake_hands(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    values: ValueReader,
    security: UpstreamSecurity,
) -> bool:
    handshake = ClientHandshake(security)
    write(writer, [handshake.ping(await next_value(reader, values))])
    try:
        pong = await next_value(reader, values)
    except (OSError, EOFError):
        raise HandshakeError(
            "the server closed the connection when it was told the shared key: Fluent Bit does so if its own"
            " is another one"
        ) from None
    handshake.check(pong)
    return handshake.keeps_alive


async def next_value(reader: asyncio.StreamReader, values: ValueReader) -> Any:
    """The next value of a handshake. Raises ValueError or one of CONNECTION_ERRORS."""
    while True:
        with contextlib.suppress(OutOfData):
            return values.next_value()
        data = await reader.read(4096)
        if not data:
            raise EOFError("the connection was closed in the handshake")
        values.feed(data)


def write(writer: asyncio.StreamWriter, buffers: Sequence[Buffer]) -> None:
    """Hand over what is to be sent. Raises ConnectionResetError where the connection has ended."""
    # Of this, asyncio says nothing, and uvloop raises RuntimeError.
    if writer.is_closing():
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    writer.writelines([memoryview(buffer) for buffer in buffers])


def keep_alive(connection: socket.socket) -> None:
    """Have the system notice, within some minutes, that the other machine of a TCP connection is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
