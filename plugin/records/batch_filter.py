"""Batches of records in, the bytes that go on out."""

from __future__ import annotations

from itertools import pairwise

from ..encoding.log_entry import GROUP_START, Marker
from ..scan.framing import Batch
from .outcome import DROP, KEEP, UNDECIDED
from .record_filter import RecordFilter
from .splitting import Several


class BatchFilter:
    """Filters batches of records. The start of a group is held until a record of the group is kept.

    In a dry run, all is decided and counted, and the bytes that came go on.

    Args:
        records: decides on each record.

    Attributes:
        handed_on: how many records and markers of the batches have gone on so far.
        is_changed: whether one of them has gone on with new bytes.
    """

    def __init__(self, records: RecordFilter) -> None:
        self.handed_on = 0
        self.is_changed = False
        self._records = records
        self._counters = records.counters
        self._held: bytes | None = None  # the start of a group

    def filter(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        """Add the bytes of a batch that go on to a list of buffers."""
        if self._counters.dry_run_bytes_out is None:
            self._filter(batch, out)
        elif batch.ends:
            before = self.handed_on
            would: list[memoryview | bytes] = []
            self._filter(batch, would)
            self._counters.dry_run_bytes_out += sum(map(len, would))
            out.append(batch.buffer[: batch.ends[-1]])
            self.handed_on, self.is_changed = before + len(batch.ends), False

    def release(self, out: list[memoryview | bytes]) -> None:
        """Let the held start of a group go on: a record of the group does, or the group's end is missing."""
        if self._counters.dry_run_bytes_out is None:
            self._release(out)

    def _filter(self, batch: Batch, out: list[memoryview | bytes]) -> None:
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
                    self._release(out)
            else:
                if begin > run:
                    out.append(view[run:begin])
                run = end
                if fate is DROP:
                    dropped += 1
                elif isinstance(fate, bytes):
                    kept += 1
                    self._counters.rewritten += 1
                    self.is_changed = True
                    self._release(out)
                    out.append(fate)
                elif isinstance(fate, Several):
                    kept += 1
                    self._add(fate, out)
                elif isinstance(fate, Marker):
                    self._mark(fate, view[begin:end], out)
            begin = end
        if begin > run:
            out.append(view[run:begin])
        self.handed_on += kept + undecided
        self._counters.records += kept + dropped + undecided
        self._counters.kept += kept
        self._counters.dropped += dropped

    def _release(self, out: list[memoryview | bytes]) -> None:
        if self._held is not None:
            self.handed_on += 1
            out.append(self._held)
            self._held = None

    def _add(self, several: Several, out: list[memoryview | bytes]) -> None:
        """Let the records go on into which a record was split."""
        self._release(out)
        out += several
        self.is_changed = True
        self.handed_on += len(several) - 1
        self._counters.rewritten += 1
        self._counters.split += 1
        self._counters.added += len(several) - 1

    def _mark(self, marker: Marker, record: memoryview, out: list[memoryview | bytes]) -> None:
        """Hold the start of a group back; let its end go on only if the start did."""
        if marker is GROUP_START:
            self._release(out)
            self._held = bytes(record)
        elif self._held is not None:
            self._held = None
            self._counters.dropped_markers += 2
        else:
            self.handed_on += 1
            out.append(record)
