"""Connections to the servers that filtered messages go to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..service.diagnostics import Diagnostics
from .address import Address
from .backoff import pause
from .connection import WANTS_KEY, Channel, UpstreamConnection, UpstreamError
from .own_addresses import OwnAddresses
from .protocol.handshake import ClientHandshake, HandshakeError, UpstreamSecurity, ValueReader
from .streams import CONNECTION_ERRORS, describe, keep_alive, next_value, open_tls, write
from .tls import TLS

# How many unused connections are kept for the next client, and for how many seconds.
_IDLE_CONNECTIONS = 16
_IDLE_TIME = 20.0
# Seconds in which a server that has a shared key says so.
_HELO_WITHIN = 1.0
# Seconds for looking up the names of upstreams at the start. Connections are checked again later.
_LOOK_UP_WITHIN = 2.0
_LEADS_BACK = "this upstream leads back to this proxy: messages would go round for ever"


@dataclass(frozen=True)
class ConnectSettings:
    """How to connect to servers.

    Attributes:
        security: what the handshake needs; None for no handshake.
        tls: the TLS context for ``tls`` addresses.
        server_name: the name that the servers' certificates have to be for; None for the host of the address.
        connect_timeout: seconds for connection, TLS and handshake together.
        own: the addresses that the proxy itself listens on. No upstream may lead there.
    """

    security: UpstreamSecurity | None = None
    tls: TLS | None = None
    server_name: str | None = None
    connect_timeout: float = 10.0
    own: OwnAddresses = field(default_factory=OwnAddresses)


class Upstream:
    """A server, and what is known about it.

    Args:
        address: the server's address.
        settings: how to connect to it.
        diagnostics: where messages go when the server is down, or up again.
        on_change: called when the server comes up.

    Attributes:
        settings: how to connect to the server.
        is_up: whether the last attempt to connect succeeded; True before the first attempt.
        connections: how many connections to the server there are.
        attempts: how many attempts to connect ended with ``connected`` and with ``failed``.
    """

    def __init__(
        self,
        address: Address,
        settings: ConnectSettings,
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
        self._may_be_fluentd = True  # as far as is known
        self._has_warned = False
        self._idle: list[tuple[UpstreamConnection, asyncio.TimerHandle]] = []
        self._probe: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._address)

    async def connection(self) -> UpstreamConnection:
        """A connection that nobody uses, or a new one.

        Raises:
            UpstreamError: no connection could be made. The server counts as down from now on and is tried
                again in the background.
        """
        while self._idle:
            # Take the last one that was given back: then the messages of one client use one connection.
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

    async def refuse_loop(self) -> None:
        """Check whether the server is the proxy itself, as far as is known before the first connection.

        Raises:
            OSError: it is the proxy itself. The ``filename`` names the upstream.
        """
        address, own = self._address, self.settings.own
        if address.kind == "unix":
            is_own = own.has_path(address.host)
        else:
            found = asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
            try:
                is_own = any(
                    own.include(where) for *_, where in await asyncio.wait_for(found, _LOOK_UP_WITHIN)
                )
            except (OSError, asyncio.TimeoutError):
                return
        if is_own:
            raise OSError(errno.ELOOP, _LEADS_BACK, f"--upstream {self}")

    def complain(self, fault: str) -> None:
        """Report a fault of the server."""
        self._diagnostics.rarely("warning", f"undelivered {self}", fault)

    def note_end(self) -> None:
        """Note that one of the server's connections has ended."""
        self.connections -= 1

    def note_helo(self) -> None:
        """Note that the server has begun a handshake that nobody expected."""
        self.wants_key = True

    def warn_of_metadata(self) -> None:
        """Warn, once, that the server may lose all records with metadata, unless it is known not to."""
        if self._may_be_fluentd and not self._has_warned:
            self._has_warned = True
            self._diagnostics.warning(
                f"records go to {self} as [[time, metadata], record], as Fluent Bit 5 sends them: Fluentd up"
                " to 1.19 acknowledges such records and throws them away. If that server is Fluentd, use"
                " --compat fluentd; if it is not, --compat fluent-bit says so, and this is not said again"
            )

    async def greet(self) -> None:
        """Connect for the first time, to know before the first message whether that works."""
        with contextlib.suppress(UpstreamError):
            self.give_back(await self.connection())

    def give_back(self, connection: UpstreamConnection) -> None:
        """Take back a connection that its user does not need any more."""
        if not connection.is_usable or len(self._idle) >= _IDLE_CONNECTIONS:
            connection.close()
            return
        timer = asyncio.get_running_loop().call_later(_IDLE_TIME, self._drop, connection)
        self._idle.append((connection, timer))

    def close(self) -> None:
        """Close unused connections, and stop trying to connect."""
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
        """Try to connect until the server is up. If the reason of the failure changes, report it."""
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
        reader, writer, wire = await self._open_stream()
        try:
            # With these limits, drain() waits until the system has taken everything. TLS pauses at the limit,
            # other transports beyond it: with a limit of 0, TLS would pause with nothing to send.
            writer.transport.set_write_buffer_limits(high=int(self._address.kind == "tls"), low=0)
            channel, keeps_alive = Channel(reader, writer, wire, ValueReader()), True
            if self.settings.security is not None:
                handshake = await _shake_hands(channel, self.settings.security)
                keeps_alive, self._may_be_fluentd = handshake.keeps_alive, handshake.may_be_fluentd
            elif self.wants_key:
                await self._look_for_helo(channel)
        except BaseException:
            writer.transport.abort()
            raise
        self.connections += 1
        return UpstreamConnection(str(self), channel, self, keeps_alive=keeps_alive)

    async def _look_for_helo(self, channel: Channel) -> None:
        """Check whether a server that began with a handshake still does. If so, raise HandshakeError."""
        try:
            await asyncio.wait_for(next_value(channel.reader, channel.values), _HELO_WITHIN)
        except asyncio.TimeoutError:
            self.wants_key = False
            return
        raise HandshakeError(WANTS_KEY)

    async def _open_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.WriteTransport]:
        """The reader, the writer, and the transport that gives bytes to the system."""
        address, settings = self._address, self.settings
        if address.kind == "tls":
            assert settings.tls is not None
            name = settings.server_name or address.host
            return await open_tls(
                await self._connected_socket(), settings.tls.context, name, settings.connect_timeout
            )
        if address.kind == "unix":
            if settings.own.has_path(address.host):
                raise ValueError(_LEADS_BACK)
            reader, writer = await asyncio.open_unix_connection(address.host)
        else:
            reader, writer = await asyncio.open_connection(sock=await self._connected_socket())
        return reader, writer, writer.transport

    def _refuse_own(self, connection: socket.socket) -> None:
        """Raise ValueError if a connection leads to the proxy itself."""
        if self.settings.own.include(connection.getpeername()):
            raise ValueError(_LEADS_BACK)

    async def _connected_socket(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers. Each gets its share of the time.

        Raises ValueError if the connection leads to the proxy itself.
        """
        loop, (_, host, port) = asyncio.get_running_loop(), self._address
        deadline = loop.time() + self.settings.connect_timeout
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, where) in zip(range(len(found), 0, -1), found, strict=True):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.setblocking(False)
                keep_alive(connection)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                share = (deadline - loop.time()) / left
                await asyncio.wait_for(loop.sock_connect(connection, where), share)
                self._refuse_own(connection)
            except BaseException as error:
                connection.close()
                if left == 1 or not isinstance(error, CONNECTION_ERRORS):
                    raise
            else:
                return connection
        raise AssertionError("no address and no error")


async def _shake_hands(channel: Channel, security: UpstreamSecurity) -> ClientHandshake:
    reader, writer, values = channel.reader, channel.writer, channel.values
    handshake = ClientHandshake(security)
    write(writer, [handshake.ping(await next_value(reader, values))])
    try:
        pong = await next_value(reader, values)
    except (OSError, EOFError):
        raise HandshakeError(
            "the server closed the connection when it was told the shared key: Fluent Bit does so if its own"
            " key is another one"
        ) from None
    handshake.check(pong)
    return handshake
