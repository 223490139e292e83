"""Where clients connect: TCP, TLS and Unix sockets, and the UDP heartbeat beside them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from plugin.diagnostics import Diagnostics
from plugin.forward.address import Address

Serve = Callable[
    [ssl.SSLContext | None, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]
]

# Bytes: twice as many are read before a session has asked for them.
READ_AHEAD = 1 << 17
_BACKLOG = 256


class Listeners:
    """Listens on some addresses.

    Args:
        addresses: where.
        serve: called with what to begin TLS with, if it has to be TLS, and with each connection.
        tls: for ``tls`` addresses.
        socket_mode: who may connect to a Unix socket: the mode of its file.
        diagnostics: where to say on which addresses this listens, and what does not work.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        serve: Serve,
        *,
        tls: ssl.SSLContext | None,
        socket_mode: int,
        diagnostics: Diagnostics,
    ) -> None:
        self._addresses = addresses
        self._serve = serve
        self._tls = tls
        self._socket_mode = socket_mode
        self._diagnostics = diagnostics
        self._servers: list[asyncio.AbstractServer] = []
        self._heartbeats: list[asyncio.DatagramTransport] = []
        self._files: list[tuple[str, os.stat_result]] = []

    async def open(self) -> None:
        """Begin to listen, on all addresses.

        Raises:
            OSError: on one of them that is not possible; its ``filename`` is the address.
        """
        for address in self._addresses:
            try:
                if address.kind == "unix":
                    await self._open_unix(address)
                else:
                    await self._open_tcp(address)
            except OSError as error:
                self.close()
                raise OSError(error.errno, _reason(error), f"can't listen on {address}") from None

    def close(self) -> None:
        """Take no more connections; those that stand go on."""
        for server in self._servers:
            server.close()
        for transport in self._heartbeats:
            transport.close()
        for path, created in self._files:
            # Another proxy may have put its own in its place.
            with suppress(OSError):
                if os.path.samestat(os.stat(path), created):  # noqa: PTH116
                    Path(path).unlink()
        self._servers, self._heartbeats, self._files = [], [], []

    async def _open_tcp(self, address: Address) -> None:
        # asyncio would do TLS by itself, but say nothing of a client with which that fails.
        tls = self._tls if address.kind == "tls" else None
        server = await asyncio.start_server(
            partial(self._serve, tls), address.host, address.port, limit=READ_AHEAD, backlog=_BACKLOG
        )
        self._servers.append(server)
        for bound in server.sockets:
            host, port = bound.getsockname()[:2]
            self._diagnostics.info(f"listening on {Address(address.kind, host, port)}")
            await self._open_heartbeat(bound.family, host, port)

    async def _open_heartbeat(self, family: int, host: str, port: int) -> None:
        """Answer what Fluentd sends with ``heartbeat_type udp``, on the same port number."""
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                _Heartbeat, local_addr=(host, port), family=family
            )
        except OSError as error:
            self._diagnostics.warning(f"no UDP heartbeat on {host} port {port}: {_reason(error)}")
            return
        self._heartbeats.append(transport)

    async def _open_unix(self, address: Address) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(address.host)
            before = os.umask(0o777 & ~self._socket_mode)  # never open to more than it will be
            try:
                listener.bind(address.host)
            finally:
                os.umask(before)
            Path(address.host).chmod(self._socket_mode)
            server = await asyncio.start_unix_server(
                partial(self._serve, None), sock=listener, limit=READ_AHEAD, backlog=_BACKLOG
            )
        except BaseException:
            listener.close()
            raise
        self._servers.append(server)
        self._files.append((address.host, os.stat(address.host)))  # noqa: PTH116
        self._diagnostics.info(f"listening on {address}")


async def start_tls(
    writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Go on in TLS, as its server, with a connection of which nothing has been read.

    Raises:
        OSError: the client does not do TLS, or not as it has to.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(READ_AHEAD)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = await loop.start_tls(writer.transport, protocol, context, server_side=True)
    if transport is None:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _remove_stale(path: str) -> None:
    """Take the socket of a proxy away that has ended, however it ended."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        else:
            raise OSError(errno.EADDRINUSE, "another process listens there")


def _reason(error: OSError) -> str:
    # asyncio puts the address, and the text, into the text.
    known = error.errno in errno.errorcode
    return os.strerror(error.errno) if known and error.errno is not None else str(error.strerror or error)


class _Heartbeat(asyncio.DatagramProtocol):
    """Answers each datagram with one byte, as the specification says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._transport.sendto(b"\0", address)
