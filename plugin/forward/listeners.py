"""Where clients connect: TCP, TLS and Unix sockets, and who may listen where."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..service.diagnostics import Diagnostics
from ..service.listen import is_local
from .address import Address
from .heartbeat import Heartbeats
from .own_addresses import OwnAddresses
from .tls import TLS

# Called with a connection, and with the TLS context if the connection has to use TLS.
Serve = Callable[[socket.socket, ssl.SSLContext | None], None]

_BACKLOG = 256
# Seconds to wait when a connection can't be accepted, for example because too many files are open.
_PAUSE = 1.0


@dataclass(frozen=True)
class ListenerSettings:
    """Where to listen, and for whom.

    Attributes:
        addresses: the addresses to listen on.
        tls: the TLS context for ``tls`` addresses.
        has_key: whether clients have to know a shared key.
        insecure: whether clients on other machines may connect without a key or a certificate.
        udp_heartbeat: whether to answer Fluentd's UDP heartbeats, on the same ports.
        socket_mode: who may connect to a Unix socket: the mode of its file.
    """

    addresses: Sequence[Address]
    tls: TLS | None = None
    has_key: bool = False
    insecure: bool = False
    udp_heartbeat: bool = False
    socket_mode: int = 0o660


class Listeners:
    """Listens on some addresses.

    Args:
        settings: where, and for whom.
        serve: called with each connection.
        own: remembers the addresses that this listens on.
        diagnostics: where messages go: about each address, and about failures.
    """

    def __init__(
        self, settings: ListenerSettings, serve: Serve, own: OwnAddresses, diagnostics: Diagnostics
    ) -> None:
        self._settings = settings
        self._serve = serve
        self._own = own
        self._diagnostics = diagnostics
        self._bound: dict[Address, list[tuple[socket.socket, Address]]] = {}
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._heartbeats: list[Heartbeats] = []
        self._files: list[tuple[str, os.stat_result]] = []

    async def bind(self) -> None:
        """Bind the sockets. Nobody can connect yet.

        Raises:
            OSError: an address can't be used, or other machines could connect to it without a key or a
                certificate. The ``filename`` names the address.
        """
        for address in self._settings.addresses:
            with self._naming(address):
                if address.kind == "unix":
                    self._own.add_path(address.host)  # open() binds it: see _remove_stale
                else:
                    await self._bind_tcp(address)

    def open(self) -> None:
        """Begin to listen on all addresses.

        Raises:
            OSError: an address can't be used. The ``filename`` names it.
        """
        for address in self._settings.addresses:
            with self._naming(address):
                if address.kind == "unix":
                    self._bind_unix(address)
        # In the order of the options, because somebody may rely on the order of the messages.
        in_order = dict.fromkeys(self._settings.addresses)
        for listener, address in (pair for asked in in_order for pair in self._bound[asked]):
            with self._naming(address):
                listener.listen(_BACKLOG)
            self._accepting.append(asyncio.ensure_future(self._accept(listener, address)))
            self._diagnostics.info(f"listening on {address}")
        for heartbeats in self._heartbeats:
            heartbeats.start()

    def close(self) -> None:
        """Accept no more connections. Existing connections stay."""
        for task in self._accepting:
            task.cancel()
        for heartbeats in self._heartbeats:
            heartbeats.stop()
        for bound in self._sockets:
            bound.close()
        for path, created in self._files:
            # Another proxy may have put its own socket in this place.
            with suppress(OSError):
                if os.path.samestat(os.stat(path), created):  # noqa: PTH116
                    Path(path).unlink()
        self._bound = {}
        self._sockets, self._accepting, self._heartbeats, self._files = [], [], [], []

    @contextmanager
    def _naming(self, address: Address) -> Iterator[None]:
        """If an address can't be used, close everything and name the address in the error."""
        try:
            yield
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror or str(error), f"can't listen on {address}") from None

    async def _bind_tcp(self, address: Address) -> None:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, where in dict.fromkeys(found):
            listener = self._socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            self._refuse_exposure(listener, address)
            name = listener.getsockname()
            self._bound.setdefault(address, []).append((listener, Address(address.kind, *name[:2])))
            self._own.add(listener)
            if self._settings.udp_heartbeat:
                udp = self._socket(family, socket.SOCK_DGRAM)
                udp.bind(name)
                self._heartbeats.append(Heartbeats(udp))

    def _refuse_exposure(self, listener: socket.socket, address: Address) -> None:
        """Refuse to listen where anybody could send anything. Raises OSError."""
        if self._settings.insecure or self._settings.has_key or is_local(listener):
            return
        tls = self._settings.tls.context if address.kind == "tls" and self._settings.tls is not None else None
        if tls is not None and tls.verify_mode == ssl.CERT_REQUIRED:
            return
        alone = "; TLS alone keeps nobody out" if address.kind == "tls" else ""
        raise PermissionError(
            errno.EACCES,
            f"other machines can connect there, and anybody on them could send records{alone}. Have clients"
            " know a key (--shared-key-file) or show a certificate (--tls-client-ca with tls://), or say"
            " --insecure",
        )

    def _bind_unix(self, address: Address) -> None:
        _remove_stale(address.host)
        listener = self._socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~self._settings.socket_mode)  # never more open than afterwards
        try:
            listener.bind(address.host)
        finally:
            os.umask(before)
        self._files.append((address.host, os.stat(address.host)))  # noqa: PTH116
        Path(address.host).chmod(self._settings.socket_mode)
        self._bound[address] = [(listener, address)]

    def _socket(self, family: int, kind: int) -> socket.socket:
        made = socket.socket(family, kind)
        self._sockets.append(made)
        made.setblocking(False)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made

    async def _accept(self, listener: socket.socket, address: Address) -> None:
        # asyncio's own server does not report a client whose TLS handshake fails.
        loop = asyncio.get_running_loop()
        tls = self._settings.tls if address.kind == "tls" else None
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
            self._serve(connection, None if tls is None else tls.context)


def _remove_stale(path: str) -> None:
    """Remove the Unix socket of a proxy that has ended without removing it."""
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
