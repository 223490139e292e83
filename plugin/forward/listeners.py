"""Where clients connect: TCP, TLS and Unix sockets, and the UDP heartbeat beside them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from ..service.diagnostics import Diagnostics
from .address import Address

# Called with a connection, and with what to begin TLS with where it has to be TLS.
Serve = Callable[[socket.socket, ssl.SSLContext | None], None]

_BACKLOG = 256
# Seconds to wait when a connection can't be accepted, as with too many open files.
_PAUSE = 1.0


class Listeners:
    """Listens on some addresses.

    Args:
        addresses: where.
        serve: called with each connection.
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
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._heartbeats: list[asyncio.DatagramTransport] = []
        self._files: list[tuple[str, os.stat_result]] = []

    async def open(self) -> None:
        """Begin to listen, on all addresses.

        Raises:
            OSError: on one of them that is not possible; its ``filename`` names the address.
        """
        for address in self._addresses:
            try:
                if address.kind == "unix":
                    self._open_unix(address)
                else:
                    await self._open_tcp(address)
            except OSError as error:
                self.close()
                raise OSError(
                    error.errno, error.strerror or str(error), f"can't listen on {address}"
                ) from None

    def close(self) -> None:
        """Take no more connections; those that stand go on."""
        for task in self._accepting:
            task.cancel()
        for listener in self._sockets:
            listener.close()
        for transport in self._heartbeats:
            transport.close()
        for path, created in self._files:
            # Another proxy may have put its own in its place.
            with suppress(OSError):
                if os.path.samestat(os.stat(path), created):  # noqa: PTH116
                    Path(path).unlink()
        self._sockets, self._accepting, self._heartbeats, self._files = [], [], [], []

    async def _open_tcp(self, address: Address) -> None:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, where in dict.fromkeys(found):
            listener = self._socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            host, port = listener.getsockname()[:2]
            await self._open_heartbeat(family, host, port)
            self._listen(listener, Address(address.kind, host, port))

    def _open_unix(self, address: Address) -> None:
        _remove_stale(address.host)
        listener = self._socket(socket.AF_UNIX)
        before = os.umask(0o777 & ~self._socket_mode)  # never open to more than it will be
        try:
            listener.bind(address.host)
        finally:
            os.umask(before)
        self._files.append((address.host, os.stat(address.host)))  # noqa: PTH116
        Path(address.host).chmod(self._socket_mode)
        self._listen(listener, address)

    def _socket(self, family: int) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(listener)
        listener.setblocking(False)
        return listener

    def _listen(self, listener: socket.socket, address: Address) -> None:
        listener.listen(_BACKLOG)
        self._accepting.append(asyncio.ensure_future(self._accept(listener, address)))
        self._diagnostics.info(f"listening on {address}")

    async def _accept(self, listener: socket.socket, address: Address) -> None:
        # Not asyncio's server: it says nothing of a client with which TLS fails.
        loop = asyncio.get_running_loop()
        tls = self._tls if address.kind == "tls" else None
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._diagnostics.rarely(
                        "error", "accept", f"no connection accepted on {address}: {error.strerror}"
                    )
                    await asyncio.sleep(_PAUSE)
                continue
            self._serve(connection, tls)

    async def _open_heartbeat(self, family: int, host: str, port: int) -> None:
        """Answer what Fluentd sends with ``heartbeat_type udp``, on the same port number."""
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                _Heartbeat, local_addr=(host, port), family=family
            )
        except OSError as error:
            self._diagnostics.warning(f"no UDP heartbeat on {host} port {port}: {error.strerror}")
            return
        self._heartbeats.append(transport)


def _remove_stale(path: str) -> None:
    """Take the socket of a proxy away that has ended, however it ended."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with suppress(ConnectionRefusedError):
            probe.connect(path)
            return
    Path(path).unlink(missing_ok=True)


class _Heartbeat(asyncio.DatagramProtocol):
    """Answers each datagram with one byte, as the specification says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._transport.sendto(b"\0", address)
