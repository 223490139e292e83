"""Answers in place of records, for an agent that keeps a record until it knows what to do with it."""

from __future__ import annotations

from itertools import pairwise

from ..encoding.log_entry import Marker
from ..records.outcome import DROP, KEEP
from ..records.record_filter import Format, RecordFilter
from ..scan.framing import Batch, Framing, Passing
from .stream import FilterStream


class ReplyStream(FilterStream):
    """Answers each record of a stream, in order: true to keep it as it is, false to drop it.

    A record of which not all is kept is answered with what is to take its place. Group markers, and
    records that go on undecided, are answered with true.

    Args:
        framing: the stream's format.
        records: decides on each record.
        format: of the answers: MessagePack values, or JSON lines.
    """

    def __init__(self, framing: Framing, records: RecordFilter, format: Format) -> None:
        super().__init__(framing, records)
        self._keep, self._drop = (b"\xc3", b"\xc2") if format == "msgpack" else (b"true\n", b"false\n")

    def _pass(self, piece: Passing, out: list[memoryview | bytes]) -> None:
        if piece.undecided is not None:
            out.append(self._keep)

    def _filter_batch(self, batch: Batch, out: list[memoryview | bytes]) -> None:
        records = [batch.buffer[start:end] for start, end in pairwise((0, *batch.ends))]
        for fate in self._records.filter(records):
            if isinstance(fate, Marker):
                out.append(self._keep)
                continue
            self.totals.records += 1
            if fate is DROP:
                self.totals.dropped += 1
                out.append(self._drop)
            elif isinstance(fate, bytes):
                self.totals.kept += 1
                self.totals.rewritten += 1
                out.append(fate)
            else:
                self.totals.kept += fate is KEEP
                out.append(self._keep)
