"""``--split``: a record with a list of events goes on as one record for each event that is left of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Raw

from ..encoding import log_entry
from ..encoding.codec import Buffer, Codec
from .event_path import Step
from .event_time import event_time
from .outcome import DROP, KEEP, Fate

# The records that a record is split into have at most so many times its bytes: each repeats what stood beside
# the list. If they would have more, the record stays whole.
MOST_GROWTH = 4


class Several(list[bytes]):
    """The records that go on in place of one."""


class Part(NamedTuple):
    """What is to become a record of its own.

    Attributes:
        value: an element of the list, perhaps reduced, and what was put around it since.
        codec: the encoding of the element.
        element: the element itself.
        path: where in the element its event is.
        inner: what is left of a list in the element, if there is one.
    """

    value: Buffer
    codec: Codec
    element: Buffer
    path: tuple[Step, ...]
    inner: Left | None

    def time(self) -> bytes | None:
        """The event's own time, encoded; None if it can't be read."""
        return event_time(self.codec, self.element, self.path)


class Left:
    """What is left of a list of events. It can be split, and it can be put together as a list.

    Args:
        codec: the list's encoding.
        parts: what is left.
        is_changed: whether this differs from the list as it came.
    """

    def __init__(self, codec: Codec, parts: list[Part], *, is_changed: bool) -> None:
        self._codec = codec
        self._parts = parts
        self._is_changed = is_changed
        # What stands around the list, from the inside out: around the list, and around a single element.
        self._around: list[tuple[Callable[[Buffer], Buffer], Callable[[Buffer], Buffer]]] = []

    @staticmethod
    def of(
        codec: Codec, elements: Sequence[Raw], fates: Sequence[Fate | bytes | Left], path: tuple[Step, ...]
    ) -> Left | Fate:
        """What is left of these elements; DROP if that is nothing.

        Args:
            codec: their encoding.
            elements: all elements of the list.
            fates: what becomes of each.
            path: where in an element its event is.
        """
        parts: list[Part] = []
        is_changed = False
        for element, fate in zip(elements, fates, strict=True):
            if fate is DROP:
                is_changed = True
            elif isinstance(fate, Left):
                is_changed |= fate._is_changed
                parts.append(Part(element, codec, element, path, fate))
            else:
                is_changed |= isinstance(fate, bytes)
                parts.append(Part(fate if isinstance(fate, bytes) else element, codec, element, path, None))
        return Left(codec, parts, is_changed=is_changed) if parts else DROP

    def within(self, of_list: Callable[[Buffer], Buffer], of_part: Callable[[Buffer], Buffer]) -> Left:
        """The same, within a value around it.

        Args:
            of_list: puts the list into the value.
            of_part: puts a single element into the value.
        """
        self._around.append((of_list, of_part))
        return self

    def parts(self, most: int) -> list[Part] | None:
        """What is left, each with all that stands around it; None if that has more bytes than ``most``."""
        parts: list[Part] = []
        size = 0
        for part in self._parts:
            own = [part] if part.inner is None else part.inner.parts(most - size)
            if own is None:
                return None
            size += sum(len(memoryview(each.value)) for each in own)
            parts += own
        for _, around in self._around:
            size = 0
            for index, part in enumerate(parts):
                value = around(part.value)
                size += len(memoryview(value))
                if size > most:
                    return None
                parts[index] = part._replace(value=value)
        return parts

    def whole(self) -> Fate | bytes:
        """What is left, as a list, with all that stands around it; KEEP if it is as it came."""
        if not self._is_changed:
            return KEEP
        value: Buffer = self._codec.encode([_as_raw(_whole_part(part)) for part in self._parts])
        for around, _ in self._around:
            value = around(value)
        return bytes(value)


def _whole_part(part: Part) -> Buffer:
    whole = KEEP if part.inner is None else part.inner.whole()
    return whole if isinstance(whole, bytes) else part.value


def _as_raw(value: Buffer) -> Raw:
    return value if isinstance(value, Raw) else Raw(value)


def split_record(left: Left, codec: Codec, record: memoryview, head: Buffer | None) -> Several | None:
    """The records into which a record is split.

    Args:
        left: what is left of its list, with all of the record but its head around it.
        codec: the record's encoding.
        record: its bytes.
        head: the head of a log entry, of which each record gets one with its event's own time; None for a
            record that has no head.

    Returns:
        None if it has to stay whole: one of the records would not be a map, or they would be too large.
    """
    most = MOST_GROWTH * len(record)
    parts = left.parts(most)
    if parts is None or any(codec.kind(part.value) != "map" for part in parts):
        return None
    several = Several()
    for part in parts:
        body = bytes(memoryview(part.value))
        several.append(body if head is None else log_entry.encode(log_entry.at(head, part.time()), body))
        most -= len(several[-1])
        if most < 0:
            return None
    return several


def split_line(left: Left, codec: Codec, line: memoryview, start: int, end: int) -> Several | None:
    """The lines into which a line of JSON is split; None if it has to stay whole, as in :func:`split_record`.

    Args:
        left: what is left of its list.
        codec: JSON.
        line: the line.
        start: where its JSON starts.
        end: where its JSON ends.
    """
    several = split_record(left, codec, line[start:end], None)
    if several is not None:
        # The last line of the input may lack its newline.
        newline = b"\r\n" if bytes(line[end : end + 2]) == b"\r\n" else b"\n"
        several[:-1] = [text + newline for text in several[:-1]]
        several[0] = bytes(line[:start]) + several[0]
        several[-1] += bytes(line[end:])
    return several
