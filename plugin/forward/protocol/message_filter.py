"""Takes out of a message what the policy drops: parts in, bytes to send out. No sockets.

:meth:`MessageFilter.work` is a generator: it goes on by a few milliseconds' work each time, and says between
two steps what it holds and whether the next one may be done beside the policy, in another thread. So nobody
else has to wait for a message, however much work it is, and whoever does the work can give it up.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from itertools import pairwise
from typing import Literal

from ...encoding import log_entry
from ...encoding.codec import DECODE_ERRORS, MSGPACK, Buffer
from ...records.batch_filter import BatchFilter
from ...records.counters import Undecided
from ...records.record_filter import RecordFilter
from ...scan.framing import Batch
from .compression import LARGEST_PIECE, Algorithm, Compression, TooLargeError, algorithm_of
from .entries import (
    Body,
    HeldBody,
    PayloadLimits,
    Step,
    batch_end,
    batch_of,
    compressed_body,
    plain_body,
)
from .message import Message, ProtocolError, array_header
from .tags import TagChange

# Entries decided on at a time: at first, and at most. Their fields are held until all of a batch are. In
# between, as many as take the time of a step.
_FIRST_BATCH, _LARGEST_BATCH = 32, 512
_BATCH_SIZE = 1 << 18  # bytes
# Seconds that a step should take.
_STEP_TIME = 0.0015
# What goes on is copied together where it comes in smaller pieces: a view of each would take more memory.
_SMALL = 512
_VIEW_SIZE = 200
# Compressing so many bytes is worth another thread; and so many are collected for it.
_BULKY, _PORTION = 1 << 15, 1 << 19
# Any time: what is decided on a record does not depend on it.
_HEAD = b"\x92\x00"

Compat = Literal["fluentd", "fluent-bit"]


class MessageFilter:
    """Filters messages one by one.

    Args:
        records: decides on each record.
        limits: of what packed messages have in them.
        tags: what becomes of the tag.
        compat: what the servers are. ``fluentd``: leave metadata and markers of groups out, which Fluent Bit
            sends and Fluentd up to 1.19 can't read; ``fluent-bit``: they read these.

    Attributes:
        counters: what went through so far.
        sends_metadata: whether records with metadata have gone on to servers of which nobody has said what
            they are.
    """

    def __init__(
        self,
        records: RecordFilter,
        limits: PayloadLimits,
        tags: TagChange | None = None,
        compat: Compat | None = None,
    ) -> None:
        self.counters = records.counters
        self.sends_metadata = False
        self._records = records
        self._limits = limits
        self._tags = tags
        self._compat = compat

    def work(self, message: Message) -> Generator[Step, None, list[Buffer]]:
        """Decide on a message's records.

        Yields:
            What stands between two pieces of the work. Only where it says so may another thread go on.

        Returns:
            What is left of the message, in buffers to be sent one after the other; none if that is nothing.

        Raises:
            PayloadError: its entries can't be told apart.
            ProtocolError: decompressed, they would be larger than allowed.
        """
        if message.option.signal:
            return self._as_it_is(message)
        if message.mode == "message":
            return self._filter_single(message)
        payload = MSGPACK.string(message.body) if message.mode == "packed" else None
        algorithm = None if payload is None else algorithm_of(payload)
        body: Body
        if payload is None:
            body = HeldBody(message.body, message.ends, 0)
        elif algorithm is None:
            body = yield from plain_body(payload, self._limits)
        else:
            try:
                body = yield from compressed_body(payload, algorithm, self._limits)
            except TooLargeError:
                raise ProtocolError(
                    f"a message of {len(payload)} bytes is larger than {self._limits.size} bytes when"
                    " decompressed: see --max-decompressed-size"
                ) from None
        return (yield from self._filter(message, body, algorithm))

    def pass_on(self, message: Message, reason: Undecided) -> list[Buffer]:
        """A message that can't be filtered passes as if it were one record, and is counted as such."""
        self.counters.records += 1
        self.counters.undecided[reason] += 1
        return self._as_it_is(message)

    def _filter(
        self, message: Message, body: Body, algorithm: Algorithm | None
    ) -> Generator[Step, None, list[Buffer]]:
        ends = body.ends
        entries = BatchFilter(self._records)
        out = _Output() if algorithm is None else _CompressedOutput(algorithm)
        most, at, is_changed = _FIRST_BATCH, 0, False
        has_metadata = False
        while at < len(ends):
            upto = batch_end(ends, at, most, _BATCH_SIZE)
            start = ends[at - 1] if at else 0
            view = yield from body.read(ends[upto - 1] - start)
            began = time.perf_counter()
            batch = batch_of(view, ends, at, upto)
            if not start and self._compat is None:
                has_metadata = _has_metadata(batch)
            plain = _without_metadata(batch) if self._compat == "fluentd" else batch
            left: list[memoryview | bytes] = []
            entries.filter(plain, left)
            at = upto
            is_rewritten = entries.is_changed or plain is not batch
            if not is_changed and (entries.handed_on != at or is_rewritten):
                is_changed = True
                yield from _copy(body.again(), start, out)
            if is_changed:
                yield from out.add(left, body.holds + len(view))
            most = _next_batch(most, time.perf_counter() - began)
            if at < len(ends):
                yield Step(False, body.holds + out.holds)
        last: list[memoryview | bytes] = []
        entries.release(last)
        if last and is_changed:
            yield from out.add(last, body.holds)
        count = entries.handed_on
        if len(ends) and not count:
            return []
        self.sends_metadata |= has_metadata
        if not is_changed:
            return self._as_it_is(message)
        option = message.option
        tail = option.with_size(count) + message.tail[len(option.raw) :]
        head = array_header(message.elements) + bytes(memoryview(self._tag(message)))
        buffers, size = yield from out.finish(body.holds)
        if message.mode == "forward":
            return [head + array_header(count), *buffers, tail]
        return [head + _string_header(size, message.body[0]), *buffers, tail]

    def _filter_single(self, message: Message) -> list[Buffer]:
        time_end, _ = message.ends
        record = _HEAD + bytes(message.body[time_end:])
        out: list[memoryview | bytes] = []
        split = self.counters.split
        entries = BatchFilter(self._records)
        entries.filter(Batch(memoryview(record), [len(record)]), out)
        entries.release(out)
        if not entries.handed_on:
            return []
        if not entries.is_changed:
            return self._as_it_is(message)
        if self.counters.split != split:
            return self._as_entries(message, out)
        head = [array_header(message.elements), self._tag(message)]
        return [*head, message.body[:time_end], memoryview(out[0])[len(_HEAD) :], message.tail]

    def _as_entries(self, message: Message, entries: list[memoryview | bytes]) -> list[Buffer]:
        """A message of a single record that was split, in mode ``forward``, which has room for several."""
        time = message.body[: message.ends[0]]
        buffers: list[Buffer] = [array_header(message.elements - 1), self._tag(message)]
        buffers.append(array_header(len(entries)))
        for entry in entries:
            # Where an event has no time of its own, the entry has the message's.
            is_timeless = entry[: len(_HEAD)] == _HEAD
            buffers += (_HEAD[:1], time, entry[len(_HEAD) :]) if is_timeless else (entry,)
        option = message.option
        return [*buffers, option.with_size(len(entries)), message.tail[len(option.raw) :]]

    def _tag(self, message: Message) -> Buffer:
        return message.tag if self._tags is None else self._tags.apply(message.tag)

    def _as_it_is(self, message: Message) -> list[Buffer]:
        tag = self._tag(message)
        if tag is message.tag:
            return [message.frame]
        return [array_header(message.elements), tag, message.rest]


class _Output:
    """Takes what goes on, as it is."""

    def __init__(self) -> None:
        self.holds = 0
        self._buffers: list[Buffer] = []
        self._size = 0

    def add(self, buffers: list[memoryview | bytes], holds: int) -> Generator[Step, None, None]:
        """Take more; ``holds`` is what somebody else holds."""
        size = sum(map(len, buffers))
        if size < _SMALL * len(buffers):
            buffers = [b"".join(buffers)]
        self.holds += sum(len(each) if isinstance(each, bytes) else _VIEW_SIZE for each in buffers)
        self._buffers += buffers
        self._size += size
        return
        yield

    def finish(self, holds: int) -> Generator[Step, None, tuple[list[Buffer], int]]:
        """All of it, and how many bytes that is."""
        return self._buffers, self._size
        yield


class _CompressedOutput:
    """Compresses what goes on."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._compression = Compression(algorithm)
        self._waiting: list[bytes] = []  # until there is enough for another thread
        self._waiting_size = 0
        self._buffers: list[bytes] = []
        self._size = 0

    @property
    def holds(self) -> int:
        return self._compression.memory + self._size + self._waiting_size

    def add(self, buffers: list[memoryview | bytes], holds: int) -> Generator[Step, None, None]:
        """Take more; ``holds`` is what somebody else holds."""
        piece = b"".join(buffers)
        self._waiting.append(piece)
        self._waiting_size += len(piece)
        if self._waiting_size >= _PORTION:
            yield from self._compress(holds)

    def finish(self, holds: int) -> Generator[Step, None, tuple[list[Buffer], int]]:
        """All of it, and how many bytes that is; ``holds`` is what somebody else holds."""
        yield from self._compress(holds)
        self._take(self._compression.finish())
        return [*self._buffers], self._size

    def _compress(self, holds: int) -> Generator[Step, None, None]:
        whole = memoryview(b"".join(self._waiting))
        self._waiting, self._waiting_size = [], len(whole)
        for start in range(0, len(whole), LARGEST_PIECE):
            piece = whole[start : start + LARGEST_PIECE]
            yield Step(len(piece) >= _BULKY, holds + self.holds)
            self._take(self._compression.step(piece))
        self._waiting_size = 0

    def _take(self, compressed: bytes) -> None:
        if compressed:
            self._buffers.append(compressed)
            self._size += len(compressed)


def _copy(body: Body, size: int, out: _Output | _CompressedOutput) -> Generator[Step, None, None]:
    """Let the first bytes of a body go on."""
    for start in range(0, size, LARGEST_PIECE):
        view = yield from body.read(min(LARGEST_PIECE, size - start))
        yield from out.add([view], body.holds)


def _next_batch(most: int, took: float) -> int:
    """How many entries to decide on at a time, where so many have taken so many seconds."""
    fitting = most * 8 if took * 8 < _STEP_TIME else int(most * _STEP_TIME / took)
    return max(1, min(fitting, _LARGEST_BATCH))


def _has_metadata(batch: Batch) -> bool:
    """Whether entries are ``[[time, metadata], record]``, as Fluent Bit has all of a message or none."""
    entry = batch.buffer[: batch.ends[0]] if batch.ends else batch.buffer[:0]
    try:
        head, _ = log_entry.split(entry) if len(entry) else (b"\xc0", b"")
    except DECODE_ERRORS:
        return False
    return MSGPACK.kind(head) == "array"


def _without_metadata(batch: Batch) -> Batch:
    """``[[time, metadata], record]`` as ``[time, record]``, no markers; the same batch if it has neither."""
    out = bytearray()
    ends: list[int] = []
    is_changed = False
    for start, end in pairwise((0, *batch.ends)):
        entry = batch.buffer[start:end]
        try:
            plain = _plain_entry(entry)
        except DECODE_ERRORS:
            plain = entry
        is_changed = is_changed or plain is not entry
        if plain is not None:
            out += plain
            ends.append(len(out))
    return Batch(memoryview(out), ends) if is_changed else batch


def _plain_entry(entry: memoryview) -> bytes | memoryview | None:
    """An entry without metadata; None for a marker. Raises DECODE_ERRORS where it is no entry."""
    if not log_entry.is_entry(entry):
        return entry
    head, record = log_entry.split(entry)
    if log_entry.marker(head) is not None:
        return None
    if not log_entry.has_metadata(head):
        return entry
    time, _ = log_entry.split(head)
    return b"\x92" + bytes(memoryview(time)) + bytes(memoryview(record))


def _string_header(size: int, like: int) -> bytes:
    """The header of a string of the type that begins with another byte: str, or bin."""
    if like in _BIN:
        if size < 1 << 8:
            return b"\xc4" + size.to_bytes(1, "big")
        return b"\xc5" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xc6" + size.to_bytes(4, "big")
    if size < 32:
        return bytes([0xA0 | size])
    if size < 1 << 8:
        return b"\xd9" + size.to_bytes(1, "big")
    return b"\xda" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xdb" + size.to_bytes(4, "big")


_BIN = (0xC4, 0xC5, 0xC6)
