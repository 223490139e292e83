"""Where records begin and end in a stream of bytes.

Sans-I/O: a framing is fed the bytes that were read, cut anywhere, and returns pieces: buffers and
the ends of the whole records in them. Finding spans is the only work that looks at every byte of
the input. A native scanner would go behind this interface.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec
from msgpack import Unpacker
from msgpack.exceptions import FormatError, OutOfData, StackError

from ..encoding.msgpack_format import Skipper

# Why records are not decided on.
Unheld = Literal["too_large", "too_deep", "not_a_record"]
# Values of one byte: small integers, nil and booleans. In MessagePack, each letter of ASCII is such a value.
_ONE_BYTE_VALUES = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]+")
# At least this many of them in a row go on together: they are text that was sent instead of MessagePack.
_RUN = 64
# Bytes of a held record that are examined at a time: Python takes some 0.1 s for a MiB.
_WALK = 1 << 20


@dataclass
class Batch:
    """Whole records, back to back: each starts where the one before it ended, the first at 0."""

    buffer: memoryview
    ends: list[int] = field(default_factory=list)


@dataclass
class Passing:
    """Bytes of records that can't be decided on: they go on as they are.

    Attributes:
        buffer: the bytes.
        undecided: why the records can't be decided on, in the first piece of a record; None in later pieces.
        count: how many records start in the piece.
    """

    buffer: memoryview
    undecided: Unheld | None = None
    count: int = 1


@dataclass
class Broken:
    """The rest of the stream can't be read. ``error`` says why, and where."""

    error: str


Piece = Batch | Passing | Broken


class Framing(Protocol):
    """A stream format."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes of the stream. Do not call it again after a Broken."""

    @property
    def held_from(self) -> int | None:
        """Offset in the stream of the record that is held until it is whole; None if none is held."""

    @property
    def is_passing(self) -> bool:
        """Whether the last piece ended inside a record that can't be held."""

    def give_up(self) -> list[Piece]:
        """Let go of the held record if it claims to be too large. Its bytes go on as a Passing.

        Call it again after a while: one call examines only a part of the record.
        """

    def finish(self) -> list[Piece]:
        """Take the end of the stream."""


class MsgpackFraming:
    """MessagePack objects one after the other with nothing between them (https://msgpack.org/).

    Args:
        max_record_size: bytes. A record that grows larger is not held; it goes on in pieces.
    """

    def __init__(self, max_record_size: int) -> None:
        self._max = max_record_size
        self._fed = 0
        self._carry = bytearray()  # the start of a record whose end has not come yet
        self._unpacker = Unpacker(max_buffer_size=0)
        self._told = 0  # the unpacker's offset of the first byte of _carry
        self._walker, self._walked = Skipper(), 0  # over the start of _carry, and how far it has come
        self._skipper: Skipper | None = None  # set while a record goes on in pieces
        self._undecided: Unheld | None = None  # why it does, until the first piece has said so

    def feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        self._fed += len(data)
        view = memoryview(data)
        rest: memoryview | None = view
        if self._skipper is None:
            if not self._carry and (run := _ONE_BYTE_VALUES.match(data)) and run.end() >= _RUN:
                pieces.append(Passing(view[: run.end()], "not_a_record", run.end()))
                data = data[run.end() :]
                view = memoryview(data)
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

    @property
    def held_from(self) -> int | None:
        return self._fed - len(self._carry) if self._carry else None

    @property
    def is_passing(self) -> bool:
        return self._skipper is not None

    def give_up(self) -> list[Piece]:
        if not self._carry:
            return []
        held = memoryview(self._carry)
        part = held[self._walked : self._walked + _WALK]
        self._walker.skip(part)
        self._walked += len(part)
        if self._walked + self._walker.missing <= self._max:
            part.release()
            held.release()  # or it could not grow
            return []
        walker = self._walker
        walker.skip(held[self._walked :])
        self._start_over()
        self._skipper = walker
        return [Passing(held, "too_large")]

    def finish(self) -> list[Piece]:
        if not self._carry and self._skipper is None:
            return []
        held = len(self._carry)
        written = "" if self._skipper is None else "; its first part has been written"
        return [Broken(_cut_off(self._fed - held, held) + written)]

    def _split(self, buffer: memoryview, pieces: list[Piece]) -> memoryview | None:
        """Add the whole records of a buffer, which was fed to the unpacker before.

        Returns:
            The rest of the buffer if its first record can't be held; None otherwise.
        """
        batch = Batch(buffer)
        ends, skip, tell, base = batch.ends, self._unpacker.skip, self._unpacker.tell, self._told
        undecided: Unheld | None = None
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
            self._start_over()
            self._skipper = Skipper()
            self._undecided = undecided
            return buffer[start:]
        self._told += start
        if ends and self._walked:
            self._walker, self._walked = Skipper(), 0
        if ends or not self._carry:
            self._carry = bytearray(buffer[start:])
        return None

    def _start_over(self) -> None:
        """Forget the part of a record that is held."""
        self._carry = bytearray()
        self._unpacker = Unpacker(max_buffer_size=0)
        self._told = 0
        self._walker, self._walked = Skipper(), 0

    def _skip(self, data: memoryview, pieces: list[Piece]) -> memoryview | None:
        """Let bytes of a record that can't be held go on. Returns what comes behind its end."""
        assert self._skipper is not None
        undecided, self._undecided = self._undecided, None
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
    """One JSON object per line. A line keeps its newline, and the last line needs none.

    Args:
        max_record_size: bytes. A line that grows larger is not held; it goes on in pieces.
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

    @property
    def held_from(self) -> int | None:
        return self._fed - len(self._carry) if self._carry else None

    @property
    def is_passing(self) -> bool:
        return self._is_passing

    def give_up(self) -> list[Piece]:
        return []  # a line does not say how long it will be

    def finish(self) -> list[Piece]:
        line = bytes(self._carry)
        if not line:
            return []
        if line.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"{") and _is_cut_off(line):
            return [Broken(_cut_off(self._fed - len(line), len(line)))]
        return [Batch(memoryview(line), [len(line)])]


def _is_cut_off(line: bytes) -> bool:
    """Whether text is the beginning of a JSON object, but not a whole one."""
    try:
        msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=msgspec.Raw)
    except msgspec.DecodeError as error:
        # The error says so, too, if half a surrogate pair stands near the end. Some writers emit that.
        return "truncated" in str(error) and not _is_json(line)
    except (ValueError, RecursionError):
        return False
    return False


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        return False
    return True


def _cut_off(offset: int, size: int) -> str:
    return f"the input ends inside a record: {size} bytes from offset {offset} on are not a whole record"


def _malformed(offset: int) -> str:
    return f"malformed MessagePack at offset {offset}: the byte 0xc1 can't start a value"
