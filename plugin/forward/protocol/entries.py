"""Separates the entries of a message, and hands them out in batches. No sockets.

The work is done in steps of a few milliseconds at most, by generators. Between two steps, a generator says
how many bytes it holds, and whether the next step may be done in another thread.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Generator
from typing import NamedTuple, Protocol

from msgpack import Unpacker
from msgpack.exceptions import FormatError, OutOfData, StackError

from ...records.counters import Undecided
from ...scan.framing import Batch
from .compression import PIECE, Algorithm, Decompression, TooManyMembersError
from .message import MAX_ENTRIES

# Bytes of decompressed entries that are held until they have been decided on. If there are more, they are
# decompressed a second time instead. That takes no memory, and a tenth of the time of the rest of the work.
_HELD = 8 << 20
# How many entries are separated in one step, and how many bytes are fed for that: the unpacker copies them.
_SPLIT = 1 << 12
_FEED = 1 << 16


class PayloadError(Exception):
    """A message's entries can't be separated. The message goes on undecided.

    Args:
        reason: the reason, as for an undecided record.
        detail: the same in words.

    Attributes:
        reason: the argument.
    """

    def __init__(self, reason: Undecided, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class PayloadLimits(NamedTuple):
    """Bounds on a packed message.

    Attributes:
        size: the most bytes of all its entries when decompressed.
        entries: the most entries.
        entry_size: the most bytes of an entry.
    """

    size: int
    entries: int = MAX_ENTRIES
    entry_size: int = 64 << 20


class Step(NamedTuple):
    """What a generator yields between two pieces of work.

    Attributes:
        aside: whether the next piece is worth another thread, and may be done in any thread.
        holds: how many bytes are held beside the message.
    """

    aside: bool
    holds: int


class Body(Protocol):
    """Entries, back to back.

    Attributes:
        ends: where each entry ends.
        holds: how many bytes are held for them beside the message.
    """

    ends: array[int]

    @property
    def holds(self) -> int: ...

    def read(self, size: int) -> Generator[Step, None, memoryview]:
        """The next bytes, all of them."""

    def again(self) -> Body:
        """The same from the beginning."""


class HeldBody:
    """Entries that are in memory.

    Args:
        view: their bytes.
        ends: where each ends.
        holds: bytes that are held beside the message.
    """

    def __init__(self, view: memoryview, ends: array[int], holds: int) -> None:
        self.ends = ends
        self.holds = holds
        self._view = view
        self._at = 0

    def read(self, size: int) -> Generator[Step, None, memoryview]:
        """The next bytes, all of them."""
        self._at += size
        return self._view[self._at - size : self._at]
        yield

    def again(self) -> HeldBody:
        """The same from the beginning."""
        return HeldBody(self._view, self.ends, self.holds)


class CompressedBody:
    """Entries that are decompressed as they are read, and known to be whole.

    Args:
        payload: compressed.
        algorithm: how it is compressed.
        ends: where each entry ends when decompressed.
    """

    def __init__(self, payload: memoryview, algorithm: Algorithm, ends: array[int]) -> None:
        self.ends = ends
        self._payload, self._algorithm = payload, algorithm
        size = ends[-1] if ends else 0
        # The payload was decompressed once before, and is within these bounds.
        self._decompression = Decompression(payload, algorithm, size, len(payload))
        self._buffer = bytearray()

    @property
    def holds(self) -> int:
        """Bytes that are held beside the message."""
        return len(self._buffer) + self._decompression.memory + len(self.ends) * self.ends.itemsize

    def read(self, size: int) -> Generator[Step, None, memoryview]:
        """The next bytes, all of them."""
        while len(self._buffer) < size:
            yield Step(self._decompression.is_bulky, self.holds)
            self._buffer += self._decompression.step()
        view, self._buffer = memoryview(self._buffer)[:size], self._buffer[size:]
        return view

    def again(self) -> CompressedBody:
        """The same from the beginning."""
        return CompressedBody(self._payload, self._algorithm, self.ends)


class Splitter:
    """Separates entries.

    Args:
        limits: bounds on their number and sizes.

    Attributes:
        ends: where each entry so far ends.
    """

    def __init__(self, limits: PayloadLimits) -> None:
        self.ends: array[int] = array("Q")
        self._max_entries = limits.entries
        self._max_size = limits.entry_size
        self._fed = 0
        self._most_pending = 0
        self._unpacker = Unpacker(max_buffer_size=0, read_size=1 << 12)

    @property
    def holds(self) -> int:
        """Bytes that are held."""
        # The unpacker doubles its buffer when it has to grow.
        return len(self.ends) * self.ends.itemsize + 2 * self._most_pending

    def split(self, piece: bytes | memoryview, holds: int = 0) -> Generator[Step, None, None]:
        """Take the next bytes. ``holds`` is how many bytes the caller holds. Raises PayloadError."""
        for at in range(0, len(piece), _FEED):
            part = piece[at : at + _FEED]
            self._unpacker.feed(part)
            self._fed += len(part)
            while not self._skip():
                yield Step(False, holds + self.holds)

    def _skip(self) -> bool:
        """Separate some entries. Returns whether more bytes have to come first. Raises PayloadError."""
        ends, skip, tell = self.ends, self._unpacker.skip, self._unpacker.tell
        needs_more = False
        try:
            for _ in range(_SPLIT):
                skip()
                ends.append(tell())
        except OutOfData:
            needs_more = True
            self._most_pending = max(self._most_pending, self._fed - tell())
        except StackError:
            raise PayloadError("too_deep", "an entry is nested too deeply to be read") from None
        except FormatError:
            raise PayloadError("undecodable", "its entries are not MessagePack") from None
        if len(ends) > self._max_entries:
            raise PayloadError(
                "too_many_items", f"it has more than {self._max_entries} entries: see --max-entries"
            )
        if needs_more and self._fed - (ends[-1] if ends else 0) > self._max_size:
            raise PayloadError(
                "too_large", f"it has an entry of more than {self._max_size} bytes: see --max-message-size"
            )
        return needs_more

    def finish(self) -> array[int]:
        """Where the entries end. Raises PayloadError if the last one is not whole."""
        if (self.ends[-1] if self.ends else 0) != self._fed:
            raise PayloadError("undecodable", "it ends inside an entry")
        return self.ends


def plain_body(payload: memoryview, limits: PayloadLimits) -> Generator[Step, None, HeldBody]:
    """The entries of a payload that is not compressed. Raises PayloadError."""
    splitter = Splitter(limits)
    for at in range(0, len(payload), PIECE):
        yield Step(False, splitter.holds)
        yield from splitter.split(payload[at : at + PIECE])
    ends = splitter.finish()
    return HeldBody(payload, ends, len(ends) * ends.itemsize)


def compressed_body(
    payload: memoryview, algorithm: Algorithm, limits: PayloadLimits
) -> Generator[Step, None, HeldBody | CompressedBody]:
    """The entries of a compressed payload.

    Raises:
        PayloadError: the entries can't be separated, or are too many.
        TooLargeError: the entries are larger than allowed.
    """
    # A member without an entry has no use, so no more members than entries are allowed.
    decompression = Decompression(payload, algorithm, limits.size, limits.entries)
    splitter = Splitter(limits)
    held: bytearray | None = bytearray()
    while not decompression.is_done:
        holds = decompression.memory + (0 if held is None else len(held))
        yield Step(decompression.is_bulky, holds + splitter.holds)
        try:
            piece = decompression.step()
        except ValueError as error:
            raise PayloadError("undecodable", f"it can't be decompressed: {error}") from None
        except TooManyMembersError:
            raise PayloadError(
                "too_many_items", f"it has more than {limits.entries} members or frames: see --max-entries"
            ) from None
        if held is not None:
            held += piece
            held = held if len(held) <= _HELD else None
        yield Step(False, holds + splitter.holds)
        yield from splitter.split(piece, holds)
    ends = splitter.finish()
    if held is None:
        return CompressedBody(payload, algorithm, ends)
    return HeldBody(memoryview(held), ends, len(held) + len(ends) * ends.itemsize)


def batch_end(ends: array[int], at: int, most: int, max_size: int) -> int:
    """The end of a batch from entry ``at`` on, with at most ``most`` entries and ``max_size`` bytes."""
    start = ends[at - 1] if at else 0
    return max(at + 1, bisect_right(ends, start + max_size, at, min(at + most, len(ends))))


def batch_of(view: memoryview, ends: array[int], at: int, upto: int) -> Batch:
    """A batch of the entries ``at`` to ``upto``. Their bytes are ``view``."""
    start = ends[at - 1] if at else 0
    return Batch(view, [end - start for end in ends[at:upto]])
