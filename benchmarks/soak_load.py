"""The mixed stream of the soak test: what it is made of, its writer, and a reader that checks its order."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from msgpack import OutOfData, Timestamp, Unpacker, packb

from benchmarks.audit_log import events
from benchmarks.objects import Event

# Where a number is in a record: packed in four bytes behind this, near the record's start.
_MARK = b"\xa3seq\xce"
_FIRST = 1 << 16  # smaller numbers take fewer bytes
# In place of this, each record has a number of its own: as many users as there are records.
_ANYBODY = b"somebody"
_BATCH = 200
_CHUNK = 1 << 20
_DEADLINE = 60.0


@dataclass
class Template:
    """A record without its number.

    Attributes:
        data: the record's bytes; those of its number are behind ``_MARK``.
        passes: whether it goes on without a decision, whatever the policy is.
    """

    data: bytes
    passes: bool = False

    def __post_init__(self) -> None:
        at = self.data.find(_MARK)
        self._before = self.data[: at + len(_MARK)] if at >= 0 else b""
        self._after = self.data[at + len(_MARK) + 4 :] if at >= 0 else self.data
        self._is_somebody = _ANYBODY in self.data

    def numbered(self, number: int) -> bytes:
        """The record."""
        if not self._before:
            return self._after
        after = self._after
        if self._is_somebody:
            after = after.replace(_ANYBODY, b"%08d" % (number % 10**8))
        return self._before + number.to_bytes(4, "big") + after


def templates(seed: int) -> tuple[list[Template], list[Template]]:
    """What the stream is made of: what comes all the time, and what comes seldom."""
    log = events(6000, seed)
    number = {"seq": _FIRST}

    def text(event: Event) -> str:
        return json.dumps(event, separators=(",", ":"))

    def some(count: int) -> Iterator[Event]:
        return islice(log, count)

    often = [
        *(Template(packb({**number, **event})) for event in some(2000)),
        *(Template(packb([Timestamp(1_800_000_000, 1), {**number, **event}])) for event in some(400)),
        *(Template(packb({**number, "log": text(event), "stream": "stdout"})) for event in some(500)),
        *(Template(packb({**number, **event, "user": {"username": "somebody"}})) for event in some(200)),
        *(Template(packb({**number, "kind": "EventList", "items": list(some(4))})) for _ in range(60)),
        *(Template(packb({**number, "message": f"line {line}"}), passes=True) for line in range(100)),
        Template(b"\x07", passes=True),
    ]
    event = next(log)
    deep = '{"auditID":"1","verb":"get","user":' * 3000
    large = {**number, **event, "responseObject": {"data": "x" * 5_000_000}}
    seldom = [
        Template(packb({**number, "log": text(event)[:-20]}), passes=True),
        Template(packb({**number, "log": deep}), passes=True),
        Template(packb({**number, "log": b'{"auditID": "\xff\xfe"}'}), passes=True),
        Template(packb({**number, **event, "user": {"username": b"\xff\xfe\x80"}})),
        Template(packb({**number, **event, "objectRef": 7})),
        Template(packb(large)),
    ]
    return often, seldom


class Writer(threading.Thread):
    """Writes records until it is told to stop.

    Attributes:
        records: how many it has written.
        passing: how many of those have to go on undecided.
        size: their bytes.
    """

    def __init__(self, descriptor: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.records = self.passing = self.size = 0
        self._descriptor = descriptor
        self._often, self._seldom = templates(seed)
        self._random = Random(seed)
        self._stop_now = threading.Event()

    def stop(self) -> None:
        """Write no more; return when the last record is in the pipe."""
        self._stop_now.set()
        self.join(_DEADLINE)

    def run(self) -> None:
        batches = 0
        while not self._stop_now.is_set():
            chosen = self._random.choices(self._often, k=_BATCH)
            if batches % 20 == 0:
                chosen += self._random.choices(self._seldom[:-1])
            if batches % 500 == 0:
                chosen += self._seldom[-1:]
            batches += 1
            first = _FIRST + self.records
            data = b"".join(template.numbered(first + index) for index, template in enumerate(chosen))
            self.records += len(chosen)
            self.passing += sum(template.passes for template in chosen)
            self.size += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]


class Reader(threading.Thread):
    """Reads records to their end.

    Attributes:
        records: how many came.
        size: their bytes.
        fault: what is wrong with them; None: nothing.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.records = self.size = 0
        self.fault: str | None = None
        self._descriptor = descriptor
        self._last = 0

    def run(self) -> None:
        unpacker = Unpacker(max_buffer_size=1 << 30)
        rest, told = b"", 0
        while piece := os.read(self._descriptor, _CHUNK):
            self.size += len(piece)
            unpacker.feed(piece)
            data, start = rest + piece, 0
            try:
                while True:
                    unpacker.skip()
                    end = unpacker.tell() - told
                    self._see(data, start, end)
                    start = end
            except OutOfData:
                rest, told = data[start:], told + start
        if rest:
            self.fault = self.fault or f"the output ends with {len(rest)} bytes that are no whole record"

    def _see(self, data: bytes, start: int, end: int) -> None:
        self.records += 1
        at = data.find(_MARK, start, min(end, start + 32))
        if at < 0:
            return
        at += len(_MARK)
        number = int.from_bytes(data[at : at + 4], "big")
        if number <= self._last:
            self.fault = self.fault or f"record {number - _FIRST} came after record {self._last - _FIRST}"
        self._last = number
