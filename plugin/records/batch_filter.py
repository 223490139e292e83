"""Batches of records in, the bytes that go on out."""

from __future__ import annotations

from itertools import pairwise

from ..encoding.log_entry import GROUP_START
from ..scan.framing import Batch
from .counters import Totals
from .outcome import DROP, KEEP, NO_EVENT
from .record_filter import RecordFilter, Verdict


class BatchFilter:
    """Filters batches of a stream's records. A group's start is held until a record of the group is kept.

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
        kept = dropped = passed = 0
        run = begin = 0  # the bytes from run to begin go on
        for end, fate in zip(batch.ends, self._records.filter(records), strict=True):
            if fate is KEEP or fate is NO_EVENT:
                if fate is KEEP:
                    kept += 1
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
                    kept += 1
                    self._totals.rewritten += 1
                    self.release(out)
                    out.append(fate)
                else:
                    self._mark(fate, view[begin:end], out)
            begin = end
        if begin > run:
            out.append(view[run:begin])
        self.handed_on += kept + passed
        self._totals.records += kept + dropped + passed
        self._totals.kept += kept
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
