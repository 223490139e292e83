"""Fluent Bit's log entries: ``[time, map]``, ``[[time, metadata], map]``, and markers of groups.

The format is in include/fluent-bit/flb_log_event.h; Fluentd's forward protocol has the first of them.
"""

from __future__ import annotations

from typing import Final

from .codec import MSGPACK, Buffer


class Marker:
    """A record that is no log entry but opens or closes a group of them."""


GROUP_START: Final = Marker()
GROUP_END: Final = Marker()

# The first byte of an array of two, and those that start a time: integers, floats, EventTime (an
# ext) and [time, metadata].
PAIR: Final = 0x92
_TIME = frozenset([*range(0x80), *range(0xCA, 0xD4), 0xC7, 0xD7, PAIR])
# EventTime is an ext of type 0: seconds and nanoseconds, 32 bits each. -1 and -2 seconds are markers.
_EVENT_TIME = (b"\xd7\x00", b"\xc7\x08\x00")
_MARKERS = {b"\xff\xff\xff\xff\0\0\0\0": GROUP_START, b"\xff\xff\xff\xfe\0\0\0\0": GROUP_END}


def marker(head: Buffer) -> Marker | None:
    """What an entry's head, its first element, marks; None for that of a log entry.

    Raises:
        ValueError: it is no head of an entry at all.
    """
    encoded = bytes(memoryview(head))
    if encoded[0] not in _TIME:
        raise ValueError("not [time, map]")
    if encoded[0] == PAIR:
        encoded = encoded[1:12]
    return (
        _MARKERS.get(encoded[2:10] if encoded[0] == 0xD7 else encoded[3:11])
        if encoded.startswith(_EVENT_TIME)
        else None
    )


def split(record: Buffer) -> tuple[Buffer, Buffer]:
    """Head and body of an entry.

    Raises:
        ValueError: it is no array of two.
        DECODE_ERRORS: it can't be read.
    """
    head, body = MSGPACK.elements(record, 2)
    return head, body
