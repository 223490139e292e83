"""Takes out of a message what the policy drops: parts in, bytes to send out. No sockets.

A message goes through in three steps, of which only the middle one needs the policy, so that the
others may run beside it: :meth:`MessageFilter.open` decompresses, :meth:`MessageFilter.filter`
decides, and what that returns is put together by :meth:`Filtered.seal`, which compresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from msgpack import Unpacker
from msgpack.exceptions import FormatError, OutOfData, StackError

from ...encoding import log_entry
from ...encoding.codec import DECODE_ERRORS, MSGPACK, Buffer
from ...records.batch_filter import BatchFilter
from ...records.counters import Undecided
from ...records.record_filter import RecordFilter
from ...scan.framing import Batch
from .compression import Algorithm, TooLargeError, algorithm_of, compress, decompress
from .message import MAX_ENTRIES, Message, ProtocolError, array_header
from .tags import TagChange

# Entries decided on at a time: their fields are held until all of a slice are.
_SLICE = 512
# Any time: what is decided on a record does not depend on it.
_HEAD = b"\x92\x00"

Compat = Literal["fluentd", "fluent-bit"]


class PayloadError(Exception):
    """A message's entries can't be told apart; the message passes as it is.

    Attributes:
        reason: why, as for a record.
    """

    def __init__(self, reason: Undecided) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Filtered:
    """What is left of a message.

    Attributes:
        head: the message's array and its tag, encoded.
        body: what goes on of its entries, or of its only one.
        frame: in a packed message the encoded string or binary that came, of whose type the new one
            will be; else None.
        algorithm: how the body is to be compressed; None: it is not.
        tail: the option, and what came behind it.
    """

    head: list[Buffer]
    body: Sequence[bytes | memoryview]
    frame: memoryview | None
    algorithm: Algorithm | None
    tail: Buffer

    def seal(self) -> list[Buffer]:
        """The message's bytes, in buffers to be sent one after the other."""
        body = self.body
        if self.frame is not None:
            payload = compress(body, self.algorithm) if self.algorithm else b"".join(body)
            body = [MSGPACK.encode_string(payload, self.frame[:1])]
        return [*self.head, *body, self.tail]


def compression_of(message: Message) -> Algorithm | None:
    """How a message's entries are compressed; None: they are not."""
    return algorithm_of(MSGPACK.string(message.body)) if message.mode == "packed" else None


class MessageFilter:
    """Filters messages one by one.

    Args:
        records: decides on each record.
        max_payload_size: bytes that compressed entries may have when decompressed.
        tags: what becomes of the tag.
        compat: what the servers are. ``fluentd``: leave metadata and markers of groups out, which Fluent Bit
            sends and Fluentd up to 1.19 can't read; ``fluent-bit``: they read these.

    Attributes:
        totals: records and bytes that went through so far.
        sends_metadata: whether records with metadata have gone on to servers of which nobody has said what
            they are.
    """

    def __init__(
        self,
        records: RecordFilter,
        max_payload_size: int,
        tags: TagChange | None = None,
        compat: Compat | None = None,
    ) -> None:
        self.counters = records.counters
        self.sends_metadata = False
        self._records = records
        self._max_payload_size = max_payload_size
        self._tags = tags
        self._compat = compat

    def open(self, message: Message) -> memoryview | None:
        """The entries of a packed message, decompressed; None for another one. Any thread may call this.

        Raises:
            PayloadError: what claims to be compressed is not.
            ProtocolError: decompressed, they would be larger than allowed.
        """
        if message.mode != "packed" or message.option.signal:
            return None
        payload = MSGPACK.string(message.body)
        algorithm = compression_of(message)
        if algorithm is None:
            return payload
        try:
            return memoryview(decompress(payload, algorithm, self._max_payload_size))
        except TooLargeError:
            raise ProtocolError(
                f"a message of {len(payload)} bytes is larger than {self._max_payload_size} bytes when"
                " decompressed: see --max-decompressed-size"
            ) from None
        except ValueError:
            raise PayloadError("undecodable") from None

    def filter(self, message: Message, payload: memoryview | None) -> Filtered | None:
        """Decide on a message's records.

        Args:
            message: the message.
            payload: what :meth:`open` returned for it.

        Returns:
            What is left of it; None where that is nothing.

        Raises:
            PayloadError: its entries can't be told apart.
        """
        tag = message.tag if self._tags is None else self._tags.apply(message.tag)
        if message.option.signal:
            return self._as_it_is(message, tag)
        if message.mode == "message":
            return self._filter_single(message, tag)
        batch = Batch(message.body, message.ends) if payload is None else _split(payload)
        entries = _without_metadata(batch) if self._compat == "fluentd" else batch
        out, left, rewritten = self._filter_entries(entries)
        count = len(batch.ends)
        if count and not left:
            return None
        if self._compat is None and not self.sends_metadata:
            self.sends_metadata = _has_metadata(batch)
        if left == count and not rewritten and entries is batch:
            return self._as_it_is(message, tag)
        head = [array_header(message.elements), tag]
        option = message.option
        tail = option.with_size(left) + message.tail[len(option.raw) :]
        if payload is None:
            return Filtered([*head, array_header(left)], out, None, None, tail)
        return Filtered(head, out, message.body, compression_of(message), tail)

    def pass_on(self, message: Message, reason: Undecided) -> Filtered:
        """A message that can't be filtered passes as if it were one record, and is counted as such."""
        self.counters.records += 1
        self.counters.undecided[reason] += 1
        return self._as_it_is(message, message.tag if self._tags is None else self._tags.apply(message.tag))

    def _filter_entries(self, batch: Batch) -> tuple[list[memoryview | bytes], int, int]:
        """What goes on of a batch: its bytes, how many entries these are, and how many are rewritten."""
        out: list[memoryview | bytes] = []
        rewritten = self.counters.rewritten
        entries = BatchFilter(self._records)
        for piece in _slices(batch):
            entries.filter(piece, out)
        entries.release(out)
        return out, entries.handed_on, self.counters.rewritten - rewritten

    def _filter_single(self, message: Message, tag: Buffer) -> Filtered | None:
        time_end, _ = message.ends
        record = _HEAD + bytes(message.body[time_end:])
        out, left, rewritten = self._filter_entries(Batch(memoryview(record), [len(record)]))
        if not left:
            return None
        if not rewritten:
            return self._as_it_is(message, tag)
        body = [message.body[:time_end], memoryview(out[0])[len(_HEAD) :]]
        return Filtered([array_header(message.elements), tag], body, None, None, message.tail)

    def _as_it_is(self, message: Message, tag: Buffer) -> Filtered:
        if tag is message.tag:
            return Filtered([], [message.frame], None, None, b"")
        return Filtered([array_header(message.elements), tag], [message.rest], None, None, b"")


def _split(view: memoryview) -> Batch:
    """The entries of a packed message. Raises PayloadError."""
    unpacker = Unpacker(max_buffer_size=0, read_size=max(len(view), 1))
    unpacker.feed(view)
    ends: list[int] = []
    skip, tell = unpacker.skip, unpacker.tell
    try:
        while len(ends) <= MAX_ENTRIES:
            skip()
            ends.append(tell())
    except OutOfData:
        if (ends[-1] if ends else 0) != len(view):
            raise PayloadError("undecodable") from None
        return Batch(view, ends)
    except StackError:
        raise PayloadError("too_deep") from None
    except FormatError:
        raise PayloadError("undecodable") from None
    raise PayloadError("too_large")


def _slices(batch: Batch) -> Iterator[Batch]:
    """A batch in pieces."""
    ends, start = batch.ends, 0
    for at in range(0, len(ends), _SLICE):
        some = ends[at : at + _SLICE]
        yield Batch(batch.buffer[start : some[-1]], [end - start for end in some] if start else some)
        start = some[-1]


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
