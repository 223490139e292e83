"""Batches of records in, the bytes that go on out."""

from __future__ import annotations

from itertools import pairwise

from ..encoding.log_entry import GROUP_START, Marker
from ..scan.framing import Batch
from .outcome import DROP, KEEP, UNDECIDED
from .record_filter import RecordFilter


class BatchFilter:
    """Filters batches of records. The start of a group is held until a record of the group is kept.

    Args:
        records: decides on each record.

    Attributes:
        handed_on: how many records and markers of the batches have gone on so far.
    """

    def __init__(self, records: RecordFilter) -> None:
        self.handed_on = 0
        self._records = records
        self._counters = records.counters
        self._held: bytes | None = None  # the start of a group

    def filter(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        """Add the bytes of a batch that go on to a list of buffers."""
        view = batch.buffer
        records = [view[start:end] for start, end in pairwise((0, *batch.ends))]
        kept = dropped = undecided = 0
        run = begin = 0  # the bytes from run to begin go on
        for end, fate in zip(batch.ends, self._records.filter(records), strict=True):
            if fate is KEEP or fate is UNDECIDED:
                if fate is KEEP:
                    kept += 1
                else:
                    undecided += 1
                if self._held is not None:
                    self.release(out)
            else:
                if begin > run:
                    out.append(view[run:begin])
                run = end
                if fate is DROP:
                    dropped += 1
                elif isinstance(fate, bytes):
                    kept += 1
                    self._counters.rewritten += 1
                    self.release(out)
                    out.append(fate)
                elif isinstance(fate, Marker):
                    self._mark(fate, view[begin:end], out)
            begin = end
        if begin > run:
            out.append(view[run:begin])
        self.handed_on += kept + undecided
        self._counters.records += kept + dropped + undecided
        self._counters.kept += kept
        self._counters.dropped += dropped

    def release(self, out: list[memoryview | bytes]) -> None:
        """Let the held start of a group go on: a record of the group does, or the group's end is missing."""
        if self._held is not None:
            self.handed_on += 1
            out.append(self._held)
            self._held = None

    def _mark(self, marker: Marker, record: memoryview, out: list[memoryview | bytes]) -> None:
        """Hold the start of a group back; let its end go on only if the start did."""
        if marker is GROUP_START:
            self.release(out)
            self._held = bytes(record)
        elif self._held is not None:
            self._held = None
            self._counters.dropped_markers += 2
        else:
            self.handed_on += 1
            out.append(record)
