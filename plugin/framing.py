"""Where records begin and end in a stream of bytes.

Sans-I/O: a framing is fed whatever was read, cut anywhere, and answers with pieces: buffers and
the ends of the whole records in them. Finding spans is the only work that looks at every byte of
the input; a native scanner would go behind this interface.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal, Protocol

from msgpack import Unpacker
from msgpack.exceptions import FormatError, OutOfData, StackError

Undecided = Literal["too_large", "too_deep"]


@dataclass
class Batch:
    """Whole records, back to back: each starts where the one before it ended, the first at 0."""

    buffer: memoryview
    ends: list[int] = field(default_factory=list)


@dataclass
class Passing:
    """Bytes of a record that can't be held, and so can't be decided on: they go on as they are.

    ``undecided`` says why, in the piece in which such a record starts; it is None in the later ones.
    """

    buffer: memoryview
    undecided: Undecided | None = None


@dataclass
class Broken:
    """Nothing behind the pieces so far can be read; ``error`` says why, and where."""

    error: str


Piece = Batch | Passing | Broken


class Framing(Protocol):
    """A stream format."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes of the stream. After a Broken, feed no more."""

    def finish(self) -> list[Piece]:
        """Take the end of the stream."""


class MsgpackFraming:
    """MessagePack objects one after the other with nothing between them (https://msgpack.org/).

    Args:
        max_record_size: bytes; of a record that grows beyond, no more is held: it passes.
    """

    def __init__(self, max_record_size: int) -> None:
        self._max = max_record_size
        self._fed = 0
        self._carry = bytearray()  # the start of a record whose end has not come yet
        self._unpacker = Unpacker(max_buffer_size=0)
        self._told = 0  # the unpacker's offset of the first byte of _carry
        self._skipper: _Skipper | None = None  # set while a record passes

    def feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        self._fed += len(data)
        view = memoryview(data)
        rest: memoryview | None = view
        if self._skipper is None:
            self._unpacker.feed(data)
            if self._carry:
                self._carry += data
                view = memoryview(self._carry)
            rest = self._split(view, pieces)
        while rest:
            rest = self._skip(rest, pieces)
            if rest:
                self._unpacker.feed(rest)
                rest = self._split(rest, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        if not self._carry and self._skipper is None:
            return []
        held = len(self._carry)
        written = "" if self._skipper is None else "; its first part has been written"
        return [Broken(_cut_off(self._fed - held, held) + written)]

    def _split(self, buffer: memoryview, pieces: list[Piece]) -> memoryview | None:
        """Add the whole records in a buffer that the unpacker has been fed.

        Returns:
            What is left where the next record can't be held, beginning with that record.
        """
        batch = Batch(buffer)
        ends, skip, tell, base = batch.ends, self._unpacker.skip, self._unpacker.tell, self._told
        undecided: Undecided | None = None
        broken = None
        try:
            while True:
                skip()
                ends.append(tell() - base)
        except OutOfData:
            pass
        except StackError:
            undecided = "too_deep"
        except FormatError:
            broken = Broken(_malformed(self._fed - len(buffer) + tell() - base))
        if ends:
            pieces.append(batch)
        start = ends[-1] if ends else 0
        if broken is not None:
            pieces.append(broken)
            return None
        if undecided is None and len(buffer) - start > self._max:
            undecided = "too_large"
        if undecided is not None:
            self._carry = bytearray()
            self._unpacker = Unpacker(max_buffer_size=0)
            self._told = 0
            self._skipper = _Skipper(undecided)
            return buffer[start:]
        self._told += start
        if ends or not self._carry:
            self._carry = bytearray(buffer[start:])
        return None

    def _skip(self, data: memoryview, pieces: list[Piece]) -> memoryview | None:
        """Let bytes of the record that passes go on; returns what comes after its end."""
        assert self._skipper is not None
        undecided = self._skipper.take_reason()
        try:
            end = self._skipper.skip(data)
        except FormatError:
            pieces.append(Broken(_malformed(self._fed - len(data) + self._skipper.at)))
            return None
        if end is None:
            pieces.append(Passing(data, undecided))
            return None
        pieces.append(Passing(data[:end], undecided))
        self._skipper = None
        return data[end:]


class JSONLinesFraming:
    """One JSON object a line; a line keeps its newline, and the last one needs none.

    Args:
        max_record_size: bytes; of a line that grows beyond, no more is held: it passes.
    """

    def __init__(self, max_record_size: int) -> None:
        self._max = max_record_size
        self._fed = 0
        self._carry = bytearray()
        self._is_passing = False

    def feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        self._fed += len(data)
        if self._is_passing:
            end = data.find(b"\n") + 1
            self._is_passing = end == 0
            pieces.append(Passing(memoryview(data)[: end or len(data)]))
            data = data[end:] if end else b""
        held = len(self._carry)
        if held:
            self._carry += data
        text = self._carry if held else data
        batch, end = Batch(memoryview(text)), text.find(b"\n", held) + 1
        while end:
            batch.ends.append(end)
            end = text.find(b"\n", end) + 1
        if batch.ends:
            pieces.append(batch)
        start = batch.ends[-1] if batch.ends else 0
        if len(text) - start > self._max:
            pieces.append(Passing(batch.buffer[start:], "too_large"))
            self._is_passing = True
            self._carry = bytearray()
        elif start or not held:
            self._carry = bytearray(batch.buffer[start:])
        return pieces

    def finish(self) -> list[Piece]:
        line = bytes(self._carry)
        if not line:
            return []
        if line.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"{") and not _is_json(line):
            return [Broken(_cut_off(self._fed - len(line), len(line)))]
        return [Batch(memoryview(line), [len(line)])]


class _Skipper:
    """Finds the end of one MessagePack object of any size and depth, holding nothing of it.

    It counts the values still to come, so it needs no stack.
    """

    def __init__(self, reason: Undecided) -> None:
        self._reason: Undecided | None = reason
        self._values = 1
        self._payload = 0
        self._header = b""
        self.at = 0

    def take_reason(self) -> Undecided | None:
        reason, self._reason = self._reason, None
        return reason

    def skip(self, data: memoryview) -> int | None:
        """Go on with the next bytes.

        Returns:
            Where in them the object ends; None where it goes on behind them.

        Raises:
            FormatError: a byte starts no value; ``at`` says which.
        """
        at = 0
        while True:
            step = min(self._payload, len(data) - at)
            self._payload -= step
            at += step
            if self._payload == 0 and self._values == 0:
                return at
            if at == len(data):
                return None
            at = self._read_header(data, at)

    def _read_header(self, data: memoryview, at: int) -> int:
        header = self._header or bytes(data[at : at + 1])
        size = 1 + _LENGTH_SIZE.get(header[0], 0)
        taken = 1 if not self._header else 0
        more = bytes(data[at + taken : at + taken + size - len(header)])
        header += more
        if len(header) < size:
            self._header = header
            return len(data)
        self._header = b""
        self.at = at
        self._payload, values = _announced(header)
        self._values += values - 1
        return at + taken + len(more)


_LENGTH_SIZE = (
    dict.fromkeys((0xC4, 0xC7, 0xD9), 1)
    | dict.fromkeys((0xC5, 0xC8, 0xDA, 0xDC, 0xDE), 2)
    | dict.fromkeys((0xC6, 0xC9, 0xDB, 0xDD, 0xDF), 4)
)
_FIXED_PAYLOAD = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip


def _announced(header: bytes) -> tuple[int, int]:
    """The bytes and the values that follow a value's header."""
    first, length = header[0], int.from_bytes(header[1:], "big")
    if first <= 0x7F or first >= 0xE0:  # fixint
        return 0, 0
    if first <= 0x8F:  # fixmap
        return 0, 2 * (first & 0x0F)
    if first <= 0x9F:  # fixarray
        return 0, first & 0x0F
    if first <= 0xBF:  # fixstr
        return first & 0x1F, 0
    if first == 0xC1:
        raise FormatError
    if first in (0xC7, 0xC8, 0xC9):  # ext: a type byte and the data
        return length + 1, 0
    if first in (0xDC, 0xDD):  # array
        return 0, length
    if first in (0xDE, 0xDF):  # map
        return 0, 2 * length
    if first in _LENGTH_SIZE:  # str, bin
        return length, 0
    return _FIXED_PAYLOAD.get(first, 0), 0  # numbers, fixext; nil and booleans


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _cut_off(offset: int, size: int) -> str:
    return f"the input ends inside a record: {size} bytes from offset {offset} on are not a whole record"


def _malformed(offset: int) -> str:
    return f"malformed MessagePack at offset {offset}: the byte 0xc1 starts no value"
