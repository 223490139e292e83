"""The stream of an agent: bytes in, the bytes to hand back out. No descriptors, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from ..encoding.codec import DECODE_ERRORS, JSON, MSGPACK, Codec, TooManyItemsError
from ..encoding.log_entry import Marker
from ..records.batch_filter import BatchFilter
from ..records.outcome import DROP, KEEP
from ..records.record_filter import Format, RecordFilter
from ..scan.framing import Batch, Framing, Passing, Piece

# The key that says that a record is only a part of one.
PARTIAL = "kube-audit-filter/partial"


class Writer(Protocol):
    """Adds what an agent gets back to a list of buffers."""

    def write(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        """Decide on whole records, and add the result."""

    def write_undecided(self, piece: Passing, out: list[memoryview | bytes]) -> None:
        """Add the result for records that can't be decided on, or for a piece of such a record."""

    def finish(self, out: list[memoryview | bytes]) -> None:
        """Add what is left at the end of the stream."""


class Spans:
    """Hands back the records that go on.

    Args:
        records: decides on each record.
    """

    def __init__(self, records: RecordFilter) -> None:
        self._batches = BatchFilter(records)

    def write(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        self._batches.filter(batch, out)

    def write_undecided(self, piece: Passing, out: list[memoryview | bytes]) -> None:
        if piece.undecided is not None:
            self._batches.release(out)
        out.append(piece.buffer)

    def finish(self, out: list[memoryview | bytes]) -> None:
        # The end of the group is missing. Only a whole group is dropped with its markers.
        self._batches.release(out)


class Replies:
    """Answers each record, in order: true to keep it, false to drop it. The agent holds it until then.

    If part of a record is dropped, the answer is the replacement record. Group markers and undecided
    records are answered with true, and so is every record in a dry run.

    An agent may ask about a part of a record, with the key PARTIAL in it. If the policy looks at other fields
    of events or may change them, the answer is nil, nothing is counted, and the agent has to ask again, about
    the whole record.

    Args:
        records: decides on each record.
        format: the format of the answers: MessagePack values, or JSON lines.
    """

    def __init__(self, records: RecordFilter, format: Format) -> None:
        self._records = records
        self._is_dry = records.counters.dry_run_bytes_out is not None
        self._keep, self._drop, self._send_whole = (
            (b"\xc3", b"\xc2", b"\xc0") if format == "msgpack" else (b"true\n", b"false\n", b"null\n")
        )
        self._codec: Codec = MSGPACK if format == "msgpack" else JSON

    def write(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        records = [batch.buffer[start:end] for start, end in pairwise((0, *batch.ends))]
        if not (self._records.needs_whole_events and PARTIAL.encode() in bytes(batch.buffer)):
            self._answer(records, out)
            return
        for record in records:
            if self._is_partial(record):
                out.append(self._send_whole)
            else:
                self._answer([record], out)

    def _is_partial(self, record: memoryview) -> bool:
        try:
            return PARTIAL in self._codec.some_members(record, (PARTIAL,))
        except (*DECODE_ERRORS, TooManyItemsError):
            return False

    def _answer(self, records: Sequence[memoryview], out: list[memoryview | bytes]) -> None:
        counters = self._records.counters
        for fate in self._records.filter(records):
            if isinstance(fate, Marker):
                out.append(self._keep)
                continue
            counters.records += 1
            if fate is DROP:
                counters.dropped += 1
                out.append(self._keep if self._is_dry else self._drop)
            elif isinstance(fate, bytes):
                counters.kept += 1
                counters.rewritten += 1
                out.append(self._keep if self._is_dry else fate)
            else:
                counters.kept += fate is KEEP
                out.append(self._keep)

    def write_undecided(self, piece: Passing, out: list[memoryview | bytes]) -> None:
        if piece.undecided is not None:
            out.append(self._keep * piece.count)

    def finish(self, out: list[memoryview | bytes]) -> None:
        """Add nothing: each record already has its answer."""


class FilterStream:
    """Frames a stream and filters its records.

    Args:
        framing: the stream's format.
        records: decides on each record.
        writer: writes the results.

    Attributes:
        counters: what went through so far.
        error: why the rest of the stream can't be read; None while it can.
    """

    def __init__(self, framing: Framing, records: RecordFilter, writer: Writer) -> None:
        self.counters = records.counters
        self.error: str | None = None
        self._framing = framing
        self._writer = writer

    @property
    def held_from(self) -> int | None:
        """Offset in the stream of the record that is held until it is whole; None if none is held."""
        return self._framing.held_from

    @property
    def is_between_records(self) -> bool:
        """Whether the bytes handed back so far end with a whole record."""
        return not self._framing.is_passing

    @property
    def whole_until(self) -> int:
        """Offset in the stream up to which all records have come whole."""
        held = self._framing.held_from
        return self.counters.bytes_in if held is None else held

    def feed(self, data: bytes) -> list[memoryview | bytes]:
        """Take the next bytes; return the buffers to write, in order. After an error, feed no more."""
        self.counters.bytes_in += len(data)
        return self._filter(self._framing.feed(data))

    def give_up(self) -> list[memoryview | bytes]:
        """If the held record claims to be too large, return its first part to write, else nothing."""
        return self._filter(self._framing.give_up())

    def leave(self) -> list[memoryview | bytes]:
        """Stop here, without the part of a record that is held. Return the last buffers to write."""
        out: list[memoryview | bytes] = []
        self._writer.finish(out)
        self.counters.bytes_out += sum(map(len, out))
        return out

    def finish(self) -> list[memoryview | bytes]:
        """Take the end of the stream; return the last buffers to write."""
        out = self._filter(self._framing.finish()) if self.error is None else []
        return out + self.leave()

    def _filter(self, pieces: list[Piece]) -> list[memoryview | bytes]:
        out: list[memoryview | bytes] = []
        for piece in pieces:
            if isinstance(piece, Batch):
                self._writer.write(piece, out)
            elif isinstance(piece, Passing):
                if piece.undecided is not None:
                    self.counters.records += piece.count
                    self.counters.undecided[piece.undecided] += piece.count
                self._writer.write_undecided(piece, out)
            else:
                self.error = piece.error
        self.counters.bytes_out += sum(map(len, out))
        return out
