"""Compressed entries: gzip (RFC 1952), of any number of members, and zstd (RFC 8878), of any of frames."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from typing import Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Algorithm = Literal["gzip", "zstd"]

_MAGIC: dict[bytes, Algorithm] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_GZIP = 16 + zlib.MAX_WBITS
# Half the time of the default, 6, which the agents take, for a quarter more bytes of an audit log.
_GZIP_LEVEL = 3
# Bytes to hand to a decompressor: what it does not take it copies, and a member may be a few bytes long.
_FIRST_PIECE, _LARGEST_PIECE = 1 << 10, 1 << 18


class TooLargeError(Exception):
    """Decompressed, it would be larger than allowed."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def algorithm_of(data: memoryview) -> Algorithm | None:
    """How data is compressed, by its first bytes: Fluent Bit goes by them, whatever the option says.

    No list of entries starts like that: an entry is an array.
    """
    return next((name for magic, name in _MAGIC.items() if data[: len(magic)] == magic), None)


def decompress(data: memoryview, algorithm: Algorithm, limit: int) -> bytearray:
    """Decompress, without ever holding more than the limit.

    Raises:
        ValueError: the data is not what it claims to be, or not all of it.
        TooLargeError: there would be more than ``limit`` bytes.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(data):
            at = _decompress_one(data, at, algorithm, limit, out)
    except (zlib.error, zstd.ZstdError) as error:
        raise ValueError(str(error)) from None
    return out


def _decompress_one(data: memoryview, at: int, algorithm: Algorithm, limit: int, out: bytearray) -> int:
    """Decompress one member or frame; returns where it ends."""
    is_gzip = algorithm == "gzip"
    decompressor: _Decompressor = zlib.decompressobj(_GZIP) if is_gzip else zstd.ZstdDecompressor()
    size = _FIRST_PIECE
    while not decompressor.eof:
        piece = bytes(data[at : at + size])
        if not piece:
            raise ValueError("it ends too early")
        at += len(piece)
        size = min(size * 2, _LARGEST_PIECE)
        # All that a piece has to give comes at once, unless it is more than the limit.
        out += decompressor.decompress(piece, limit + 1 - len(out))
        if len(out) > limit:
            raise TooLargeError
    return at - len(decompressor.unused_data)


def compress(buffers: Iterable[bytes | memoryview], algorithm: Algorithm) -> bytes:
    """Compress buffers as one member or frame."""
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP) if algorithm == "gzip" else zstd.ZstdCompressor()
    pieces = [compressor.compress(buffer) for buffer in buffers]
    return b"".join((*pieces, compressor.flush()))
