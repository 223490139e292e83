"""Compressed entries: gzip (RFC 1952), of any number of members, and zstd (RFC 8878), of any of frames.

Both ways it goes piece by piece. One piece takes a few milliseconds at most, whatever the data is, so that
whoever asks for it can do something else between two of them, or ask for no more.
"""

from __future__ import annotations

import sys
import zlib
from typing import Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Algorithm = Literal["gzip", "zstd"]

# Bytes that one piece has at most, decompressed, where Python is needed for it; and where it is not.
PIECE, LARGEST_PIECE = 1 << 17, 1 << 19
# A frame that needs a larger window, of 8 MiB, is not read. That is what RFC 8878 recommends for decoders and
# encoders; of zstd's levels, only those above 19 want more.
ZSTD_WINDOW_LOG = 23
_MAGIC: dict[bytes, Algorithm] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_GZIP = 16 + zlib.MAX_WBITS
# Half the time of the default, 6, which the agents take, for a quarter more bytes of an audit log.
_GZIP_LEVEL = 3
# Bytes to hand to a decompressor: what it does not take it copies, and a member may be a few bytes long.
_FIRST_INPUT, _LARGEST_INPUT = 1 << 12, 1 << 16
# Compressed bytes, and members, that are taken for one piece.
_INPUT, _MEMBERS = 1 << 18, 256
# A piece that has so many bytes, of one member, is worth another thread. Python is not needed for it.
_BULKY = 1 << 15
_WINDOW = 1 << ZSTD_WINDOW_LOG
# Bytes that zlib and zstd take beside the window, and what the compressors take, as measured.
_GZIP_MEMORY, _ZSTD_MEMORY = 1 << 16, 1 << 19
_COMPRESSOR_MEMORY: dict[Algorithm, int] = {"gzip": 1 << 18, "zstd": 4 << 20}


class TooLargeError(Exception):
    """Decompressed, it would be larger than allowed."""


class TooManyMembersError(Exception):
    """It has more members or frames than allowed."""


def algorithm_of(data: memoryview) -> Algorithm | None:
    """How data is compressed, by its first bytes: Fluent Bit goes by them, whatever the option says.

    No list of entries starts like that: an entry is an array.
    """
    return next((name for magic, name in _MAGIC.items() if data[: len(magic)] == magic), None)


class Decompression:
    """Decompresses some data, piece by piece.

    Args:
        data: compressed.
        algorithm: how.
        max_size: bytes that it may have when decompressed.
        max_members: how many members or frames it may have.

    Attributes:
        is_done: whether there is no further piece.
        is_bulky: whether the last piece took its time, and most of that without Python.
        memory: bytes that the decompressor holds.
    """

    def __init__(self, data: memoryview, algorithm: Algorithm, max_size: int, max_members: int) -> None:
        self.is_done = not len(data)
        self.is_bulky = False
        self.memory = 0
        self._data = data
        self._at = 0
        self._read_size = _FIRST_INPUT
        self._is_gzip = algorithm == "gzip"
        self._left = max_size
        self._members_left = max_members
        self._member: zlib._Decompress | zstd.ZstdDecompressor | None = None
        self._tail = b""  # what zlib did not take

    def step(self) -> bytes:
        """The next piece; empty where what was taken for it gave nothing.

        Raises:
            ValueError: the data is not what it claims to be, or not all of it.
            TooLargeError: there would be more than ``max_size`` bytes.
            TooManyMembersError: there are more than ``max_members``.
        """
        start, members = self._at, self._members_left
        pieces: list[bytes] = []
        most = room = LARGEST_PIECE if self.is_bulky else PIECE
        try:
            while room and self._at - start < _INPUT and members - self._members_left < _MEMBERS:
                if self._member is None:
                    self._member = self._next_member()
                piece = self._decompress(self._member, min(room, self._left + 1))
                if len(piece) > self._left:
                    raise TooLargeError
                self._left -= len(piece)
                room -= len(piece)
                pieces.append(piece)
                if self._member.eof:
                    self._at -= len(self._member.unused_data)
                    self._member, self._tail = None, b""
                    if self._at == len(self._data):
                        self.is_done = True
                        self._data = memoryview(b"")
                        break
        except (zlib.error, zstd.ZstdError) as error:
            raise ValueError(str(error)) from None
        self.is_bulky = most - room >= _BULKY and members - self._members_left <= 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next_member(self) -> zlib._Decompress | zstd.ZstdDecompressor:
        if not self._members_left:
            raise TooManyMembersError
        self._members_left -= 1
        self._read_size = _FIRST_INPUT
        if self._is_gzip:
            self.memory = _GZIP_MEMORY
            return zlib.decompressobj(_GZIP)
        self.memory = _ZSTD_MEMORY + min(_zstd_window(self._data[self._at : self._at + 14]), _WINDOW)
        options = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_LOG}
        return zstd.ZstdDecompressor(options=options)

    def _decompress(self, member: zlib._Decompress | zstd.ZstdDecompressor, room: int) -> bytes:
        if isinstance(member, zstd.ZstdDecompressor):
            return member.decompress(self._input() if member.needs_input else b"", room)
        given = self._tail or self._input(may_end=True)
        piece = member.decompress(given, room)
        self._tail = member.unconsumed_tail
        if not given and not piece and not member.eof:
            raise ValueError("it ends too early")
        return piece

    def _input(self, *, may_end: bool = False) -> bytes:
        piece = bytes(self._data[self._at : self._at + self._read_size])
        if not piece and not may_end:
            raise ValueError("it ends too early")
        self._at += len(piece)
        self._read_size = min(self._read_size * 2, _LARGEST_INPUT)
        return piece


def _zstd_window(header: memoryview) -> int:
    """Bytes of the window that a frame asks for (RFC 8878, 3.1.1.1); of what is no frame, none."""
    if len(header) < 6 or algorithm_of(header) != "zstd":
        return 0
    descriptor = header[4]
    if not descriptor & 0x20:
        base = 1 << (10 + (header[5] >> 3))
        return base + (base >> 3) * (header[5] & 7)
    # A single segment: the window is the content.
    at, size = 5 + (0, 1, 2, 4)[descriptor & 3], 1 << (descriptor >> 6)
    return int.from_bytes(header[at : at + size], "little") + (256 if size == 2 else 0)


class Compression:
    """Compresses pieces as one member or frame.

    Args:
        algorithm: how.

    Attributes:
        memory: bytes that the compressor holds.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.memory = _COMPRESSOR_MEMORY[algorithm]
        self._compressor = (
            zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP) if algorithm == "gzip" else zstd.ZstdCompressor()
        )

    def step(self, piece: bytes | memoryview) -> bytes:
        """What comes out when one more piece goes in; it may be nothing."""
        return self._compressor.compress(piece)

    def finish(self) -> bytes:
        """What is left to come out."""
        return self._compressor.flush()
