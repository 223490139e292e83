"""The stream of an agent: bytes in, the bytes to hand back out. No descriptors, no waiting."""

from __future__ import annotations

from ..records.batch_filter import BatchFilter
from ..records.counters import Totals
from ..records.record_filter import RecordFilter
from ..scan.framing import Batch, Framing, Passing, Piece
from ..service.summary import describe_undecided, summarize


class FilterStream:
    """Frames a stream and filters its records.

    Args:
        framing: the stream's format.
        records: decides on each record.

    Attributes:
        totals: what went through so far.
        error: why the stream can't be read on; None as long as it can.
    """

    def __init__(self, framing: Framing, records: RecordFilter) -> None:
        self.totals = Totals()
        self.error: str | None = None
        self._framing = framing
        self._records = records
        self._batches = BatchFilter(records, self.totals)

    @property
    def undecided(self) -> int:
        """How many records passed without a decision."""
        return self.totals.undecided

    def describe_undecided(self) -> str:
        """How many records passed without a decision, by reason: ``not_an_event=3 undecodable=1``."""
        return describe_undecided(self._records)

    def summary(self) -> str:
        """What the rules dropped, and the totals; a line each."""
        return summarize(self.totals, self._records)

    @property
    def held_from(self) -> int | None:
        """Offset in the stream of a record that is held until it is whole; None: none is."""
        return self._framing.held_from

    def feed(self, data: bytes) -> list[memoryview | bytes]:
        """Take the next bytes; return the buffers to write, in order. After an error, feed no more."""
        self.totals.bytes_in += len(data)
        return self._filter(self._framing.feed(data))

    def give_up(self) -> list[memoryview | bytes]:
        """Return what is held of a record that says to be larger than can be held, else nothing."""
        return self._filter(self._framing.give_up())

    def finish(self) -> list[memoryview | bytes]:
        """Take the end of the stream; return the last buffers to write."""
        out = self._filter(self._framing.finish()) if self.error is None else []
        # A marker alone is no record that a policy dropped.
        before = len(out)
        self._batches.release(out)
        self.totals.bytes_out += sum(map(len, out[before:]))
        return out

    def _filter(self, pieces: list[Piece]) -> list[memoryview | bytes]:
        out: list[memoryview | bytes] = []
        for piece in pieces:
            if isinstance(piece, Batch):
                self._filter_batch(piece, out)
            elif isinstance(piece, Passing):
                if piece.undecided is not None:
                    self.totals.records += 1
                    self._records.undecided[piece.undecided] += 1
                self._pass(piece, out)
            else:
                self.error = piece.error
        self.totals.bytes_out += sum(map(len, out))
        return out

    def _pass(self, piece: Passing, out: list[memoryview | bytes]) -> None:
        if piece.undecided is not None:
            self._batches.release(out)
        out.append(piece.buffer)

    def _filter_batch(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        self._batches.filter(batch, out)
