"""The stream of an agent: bytes in, the bytes to hand back out. No descriptors, no waiting."""

from __future__ import annotations

from itertools import pairwise

from plugin.envelope import DROP, KEEP, NO_EVENT
from plugin.framing import Batch, Framing, Passing, Piece
from plugin.log_entry import GROUP_START
from plugin.record_filter import RecordFilter, Verdict
from plugin.summary import Totals, describe_undecided, summarize


class BatchFilter:
    """Filters batches of a stream's records. A group's start is held until a record of the group is retained.

    Args:
        records: decides on each record.
        totals: where records are counted.

    Attributes:
        handed_on: how many records and markers of the batches have gone on so far.
    """

    def __init__(self, records: RecordFilter, totals: Totals) -> None:
        self.handed_on = 0
        self._records = records
        self._totals = totals
        self._held: bytes | None = None  # a group's start

    def filter(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        """Add what goes on of a batch to some buffers."""
        view = batch.buffer
        records = [view[start:end] for start, end in pairwise((0, *batch.ends))]
        retained = dropped = passed = 0
        run = begin = 0  # the bytes from run to begin go on
        for end, fate in zip(batch.ends, self._records.filter(records), strict=True):
            if fate is KEEP or fate is NO_EVENT:
                if fate is KEEP:
                    retained += 1
                else:
                    passed += 1
                if self._held is not None:
                    self.release(out)
            else:
                if begin > run:
                    out.append(view[run:begin])
                run = end
                if fate is DROP:
                    dropped += 1
                elif isinstance(fate, bytes):
                    retained += 1
                    self._totals.rewritten += 1
                    self.release(out)
                    out.append(fate)
                else:
                    self._mark(fate, view[begin:end], out)
            begin = end
        if begin > run:
            out.append(view[run:begin])
        self.handed_on += retained + passed
        self._totals.records += retained + dropped + passed
        self._totals.retained += retained
        self._totals.dropped += dropped

    def release(self, out: list[memoryview | bytes]) -> None:
        """Let a group's start go on: something of the group does. At the end, because its end is missing."""
        if self._held is not None:
            self.handed_on += 1
            out.append(self._held)
            self._held = None

    def _mark(self, marker: Verdict, record: memoryview, out: list[memoryview | bytes]) -> None:
        """Hold a group's start back; let its end go on only if the start did."""
        if marker is GROUP_START:
            self.release(out)
            self._held = bytes(record)
        elif self._held is not None:
            self._held = None
        else:
            self.handed_on += 1
            out.append(record)


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
