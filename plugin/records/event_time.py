"""The time of an event, as the head of a log entry has it."""

from __future__ import annotations

import re
import struct
from datetime import datetime, timedelta, timezone

from ..encoding.codec import DECODE_ERRORS, JSON, Buffer, Codec
from ..encoding.json_text import json_span
from .event_path import EACH, Step

# When kube-apiserver recorded the stage, and when it received the request. The first that can be read counts.
_TIMES = ("stageTimestamp", "requestReceivedTimestamp")
# RFC 3339, with any number of digits. kube-apiserver writes six of them, and Z.
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_LONGEST = 64  # bytes of an encoded time
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The two largest numbers of seconds are Fluent Bit's markers of groups.
_MOST_SECONDS = (1 << 32) - 3
_EVENT_TIME = struct.Struct(">2sII")


def event_time(codec: Codec, raw: Buffer, path: tuple[Step, ...]) -> bytes | None:
    """The time of an event, encoded as an EventTime (MessagePack's ext type 0, seconds and nanoseconds).

    Args:
        codec: the encoding of ``raw``.
        raw: the event, or a value in which it is.
        path: the way to it, without lists.

    Returns:
        None if there is no time that can be read.
    """
    try:
        kind = codec.kind(raw)
        while path or kind == "string":
            if kind == "string":
                text = memoryview(codec.string(raw))
                start, end = json_span(text)
                codec, raw = JSON, text[start:end]
            elif kind == "map" and path[0] is not EACH:
                raw, path = codec.some_members(raw, (path[0],))[path[0]], path[1:]
            else:
                return None
            kind = codec.kind(raw)
        if kind != "map":
            return None
        found = codec.some_members(raw, _TIMES)
        for name in _TIMES:
            value = found.get(name)
            if value is not None and len(memoryview(value)) <= _LONGEST and codec.kind(value) == "string":
                time = _encoded(codec.text(value))
                if time is not None:
                    return time
    except (*DECODE_ERRORS, KeyError):
        pass
    return None


def _encoded(text: str) -> bytes | None:
    """A time in RFC 3339 as an EventTime; None if it is none, or not between 1970 and 2106."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        time = datetime.fromisoformat(f"{day}T{clock}+00:00")
        if sign is not None:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            time += offset if sign == "-" else -offset
    except (ValueError, OverflowError):
        return None
    seconds = int((time - _EPOCH).total_seconds())
    if not 0 <= seconds <= _MOST_SECONDS:
        return None
    return _EVENT_TIME.pack(b"\xd7\0", seconds, int((fraction or "").ljust(9, "0")))
