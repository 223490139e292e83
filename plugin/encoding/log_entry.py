"""Fluent Bit's log entries: ``[time, map]``, ``[[time, metadata], map]``, and markers of groups.

The format is in include/fluent-bit/flb_log_event.h; Fluentd's forward protocol has only ``[time, map]``. Each
array may have any of MessagePack's headers, and a time may be an integer, a float, nil or an ext.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .codec import MSGPACK, Buffer
from .msgpack_format import ARRAYS, NIL


class Marker:
    """A record that is not a log entry, but opens or closes a group of log entries."""


GROUP_START: Final = Marker()
GROUP_END: Final = Marker()

# Headers of an array of two, by their first byte.
_PAIRS = {header[0]: header for header in (b"\x92", b"\xdc\0\2", b"\xdd\0\0\0\2")}
# First bytes of integers, floats, nil and ext.
_TIMES = frozenset((*range(0x80), *range(0xE0, 0x100), NIL, *range(0xC7, 0xD9)))
# EventTime is an ext of type 0: seconds and nanoseconds, 32 bits each. -1 and -2 seconds are markers.
_EVENT_TIMES = (b"\xd7\0", b"\xc7\x08\0", b"\xc8\0\x08\0", b"\xc9\0\0\0\x08\0")
_MARKERS = {b"\xff\xff\xff\xff\0\0\0\0": GROUP_START, b"\xff\xff\xff\xfe\0\0\0\0": GROUP_END}
# The first bytes of a head, by which it is recognised.
_START = 6


def is_entry(record: Buffer) -> bool:
    """Whether a record may be an entry: whether it is an array."""
    return memoryview(record)[0] in ARRAYS


def split(record: Buffer) -> tuple[Buffer, Buffer]:
    """Head and body of an entry, or time and metadata of a head.

    Raises:
        ValueError: the value is not an array of two.
        DECODE_ERRORS: the value can't be read.
    """
    if bytes(memoryview(record)[:5]).startswith(tuple(_PAIRS.values())):
        first, second = MSGPACK.elements(record, 2)
        return first, second
    raise ValueError("not an array of two")


def has_metadata(head: Buffer) -> bool:
    """Whether an entry's head is ``[time, metadata]``."""
    return memoryview(head)[0] in ARRAYS


def at(head: Buffer, time: bytes | None) -> bytes:
    """An entry's head with another time, and with its metadata if it has any; with None, the head as it is.

    Raises DECODE_ERRORS if it can't be read.
    """
    if time is None:
        return bytes(memoryview(head))
    if not has_metadata(head):
        return time
    _, metadata = split(head)
    return encode(time, metadata)


def encode(first: Buffer, second: Buffer) -> bytes:
    """An array of two: an entry of a head and a body, or a head of a time and metadata."""
    return b"".join((_PAIRS[0x92], memoryview(first), memoryview(second)))


def marker(head: Buffer) -> Marker | None:
    """The marker that an entry's head (its first element) stands for; None for the head of a log entry.

    Raises:
        ValueError: the value is not the head of an entry.
    """
    start = bytes(memoryview(head)[:32])
    if not _is_head(start):
        raise ValueError("not [time, map]")
    time = start[len(_pair_header(start)) :]
    for event_time in _EVENT_TIMES:
        if time.startswith(event_time):
            return _MARKERS.get(time[len(event_time) : len(event_time) + 8])
    return None


def are_all_of_records(heads: Sequence[bytes]) -> bool:
    """Whether all of these are certainly heads of log entries, and none is a marker."""
    if not all(map(_is_head, {head[:_START] for head in heads})):
        return False
    joined = b"".join(heads)
    return not any(seconds in joined for seconds in _MARKERS)


def _pair_header(head: bytes) -> bytes:
    """The header of a head that is ``[time, metadata]``; empty for a head that is a time."""
    header = _PAIRS.get(head[0], b"")
    return header if head.startswith(header) else b""


def _is_head(head: bytes) -> bool:
    """Whether bytes begin with a time, or with an array of two that begins with a time."""
    at = len(_pair_header(head))
    return at < len(head) and head[at] in _TIMES
