"""The stream of an agent: bytes in, the bytes to hand back out. No descriptors, no waiting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from plugin.envelope import DROP, KEEP, NO_EVENT
from plugin.framing import Batch, Framing, Passing, Piece
from plugin.log_entry import GROUP_START
from plugin.record_filter import RecordFilter, Verdict


@dataclass
class Totals:
    """Records of a stream: ``records`` = ``retained`` + ``dropped`` + those that passed undecided.

    Group markers are not records. ``rewritten`` counts retained records of
    which not all bytes are those that came.
    """

    records: int = 0
    retained: int = 0
    dropped: int = 0
    rewritten: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


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
        self._held: bytes | None = None  # a group's start, until a record of the group is retained

    @property
    def undecided(self) -> int:
        """How many records passed without a decision."""
        return self.totals.records - self.totals.retained - self.totals.dropped

    def describe_undecided(self) -> str:
        """How many records passed without a decision, by reason: ``not_an_event=3 undecodable=1``."""
        return " ".join(f"{reason}={count}" for reason, count in sorted(self._records.undecided.items()))

    def summary(self) -> str:
        """What the rules dropped, and the totals; a line each."""
        totals, records, why = self.totals, self._records, self.describe_undecided()
        dropped: Counter[str] = Counter()
        reduced = 0
        for tally in records.tallies.all():
            reduced += tally.reduced
            if tally.drop_reason is not None:
                dropped[tally.rule] += tally.events
        by_rule = " ".join(f"{rule}={count}" for rule, count in dropped.items() if count)
        not_reduced = f" not_reduced={records.not_reduced}" if records.not_reduced else ""
        items = f" undecided_list_items={records.undecided_items}" if records.undecided_items else ""
        return (f"events dropped by rule: {by_rule}\n" if by_rule else "") + (
            f"records in={totals.records} retained={totals.retained} dropped={totals.dropped}"
            f" passed_undecided={self.undecided}{f' ({why})' if why else ''}"
            f" rewritten={totals.rewritten} reduced={reduced}{not_reduced}{items}"
            f" bytes in={totals.bytes_in} out={totals.bytes_out}"
        )

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
        if self._held is not None:
            # The end of its group is missing. A marker alone is no record that a policy dropped.
            self.totals.bytes_out += len(self._held)
            out.append(self._held)
            self._held = None
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
            self._release(out)
        out.append(piece.buffer)

    def _filter_batch(self, batch: Batch, out: list[memoryview | bytes]) -> None:
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
                    self._release(out)
            else:
                if begin > run:
                    out.append(view[run:begin])
                run = end
                if fate is DROP:
                    dropped += 1
                elif isinstance(fate, bytes):
                    retained += 1
                    self.totals.rewritten += 1
                    self._release(out)
                    out.append(fate)
                else:
                    self._mark(fate, view[begin:end], out)
            begin = end
        if begin > run:
            out.append(view[run:begin])
        self.totals.records += retained + dropped + passed
        self.totals.retained += retained
        self.totals.dropped += dropped

    def _mark(self, marker: Verdict, record: memoryview, out: list[memoryview | bytes]) -> None:
        """Hold a group's start back; let its end go on only if the start did."""
        if marker is GROUP_START:
            self._release(out)
            self._held = bytes(record)
        elif self._held is not None:
            self._held = None
        else:
            out.append(record)

    def _release(self, out: list[memoryview | bytes]) -> None:
        if self._held is not None:
            out.append(self._held)
            self._held = None
