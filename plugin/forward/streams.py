"""Helpers for both kinds of connections: from clients and to servers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

from msgpack.exceptions import OutOfData

from ..encoding.codec import Buffer
from .protocol.handshake import ValueReader

# The errors that a lost connection may raise. Before Python 3.11, asyncio has a TimeoutError of its own.
CONNECTION_ERRORS = (OSError, EOFError, asyncio.TimeoutError)

# The most bytes that are written together.
_TOGETHER = 1 << 20


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
    """Hand over bytes to send. Raises ConnectionResetError if the connection has ended."""
    # On a closing writer, asyncio drops the bytes silently and uvloop raises RuntimeError.
    if writer.is_closing():
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    # An empty buffer at the end would stay in asyncio's list for ever (Python 3.12 and 3.13): its loop then
    # tries to send it without a pause, and never closes the connection.
    views = [memoryview(buffer) for buffer in buffers if len(buffer)]
    if views:
        writer.writelines(views)


async def open_tls(
    connection: socket.socket, context: ssl.SSLContext, server_name: str, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.WriteTransport]:
    """Begin TLS, as the client, on a socket that is connected.

    Returns:
        The reader, the writer, and the transport beneath TLS. The transport holds the encrypted bytes that
        the system has not taken yet; the writer does not know about them.

    Raises:
        OSError: the server does not speak TLS, or its certificate is not accepted.
    """
    loop = asyncio.get_running_loop()
    wire, _ = await loop.create_connection(_Waiting, sock=connection)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = await loop.start_tls(
        wire, protocol, context, server_hostname=server_name, ssl_handshake_timeout=timeout
    )
    assert transport is not None
    protocol.connection_made(transport)  # start_tls() leaves that to its caller
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop), wire


class _Waiting(asyncio.Protocol):
    """Reads nothing, so that all bytes are left to the protocol that takes its place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()


def pieces(buffers: Sequence[Buffer]) -> Iterator[list[Buffer]]:
    """Buffers in portions of bounded size, as asyncio copies what is written together. Large ones are cut."""
    portion: list[Buffer] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), _TOGETHER):
            part = view[start : start + _TOGETHER]
            if size + len(part) > _TOGETHER and portion:
                yield portion
                portion, size = [], 0
            portion.append(part)
            size += len(part)
    if portion:
        yield portion


def keep_alive(connection: socket.socket) -> None:
    """Have the system notice, within some minutes, if the machine at the other end has gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def describe(error: BaseException) -> str:
    """A short text about an error of a connection or its certificates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.strerror:
        # asyncio puts the address into the text.
        if error.errno is not None and error.errno in errno.errorcode:
            return os.strerror(error.errno)
        return error.strerror
    return str(error) or type(error).__name__
