"""Where in a record the audit event is: the record itself, under a key, in JSON text, in a list of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from ..encoding.codec import DECODE_ERRORS, JSON, Buffer, Codec
from ..encoding.nesting import is_deeper
from .event_path import EACH, Step
from .limits import MAX_DEPTH, Limits
from .outcome import DROP, KEEP, NO_EVENT, Fate

# Tried where no path is given and the record is not an event itself: what Fluentd's and Fluent
# Bit's parsers call an unparsed line, and CloudWatch its text.
USUAL_KEYS = ("log", "message")

_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class Envelope:
    """Finds the events of a record, has each decided on, and puts together what is left.

    Args:
        decide: decides on a map by its bytes alone; None where it is not a plain event.
        decide_loosely: decides on a map of which the entries have been read; NO_EVENT where they
            are not those of an event.
        path: the way to the event; None: look for it.
        limits: of a longer list no element is looked at, nor of JSON text that is nested deeper.

    Attributes:
        undecided_items: how many elements stayed without a decision, in lists with others that did not.
    """

    def __init__(
        self,
        decide: Callable[[Codec, Buffer], Fate | bytes | None],
        decide_loosely: Callable[[Codec, Buffer, dict[Any, Raw]], Fate | bytes],
        path: tuple[Step, ...] | None,
        limits: Limits,
    ) -> None:
        self.undecided_items = 0
        self._limits = limits
        self._decide = decide
        self._decide_loosely = decide_loosely
        self._path = path

    def open(self, codec: Codec, record: Buffer) -> Fate | bytes:
        """Decide on the events of a record.

        Raises:
            DECODE_ERRORS: the record can't be read.
        """
        if self._path is not None:
            return self._follow(codec, record, self._path)
        if codec.kind(record) != "map":
            return NO_EVENT
        fate = self._decide(codec, record)
        if fate is not None:
            return fate
        entries = codec.entries(record)
        fate = self._events(codec, record, entries)
        for name in USUAL_KEYS:
            if fate is not NO_EVENT:
                break
            key = _key(entries, name)
            if key is not None:
                fate = self._under(codec, entries, key, ())
        return fate

    def _follow(self, codec: Codec, raw: Buffer, path: tuple[Step, ...]) -> Fate | bytes:
        kind = codec.kind(raw)
        if kind == "string":
            return self._follow_text(codec, raw, path)
        if path and path[0] is EACH:
            rest = path[1:]
            if kind != "array":
                return NO_EVENT
            return self._each(codec, raw, lambda codec, element: self._follow(codec, element, rest))
        if kind != "map":
            return NO_EVENT
        if not path:
            fate = self._decide(codec, raw)
            return self._events(codec, raw, codec.entries(raw)) if fate is None else fate
        entries = codec.entries(raw)
        step = path[0]
        key = None if step is EACH else _key(entries, step)
        return NO_EVENT if key is None else self._under(codec, entries, key, path[1:])

    def _follow_text(self, codec: Codec, raw: Buffer, path: tuple[Step, ...]) -> Fate | bytes:
        text = codec.string(raw)
        start, end = json_span(text)
        if text[start : start + 1] not in (b"{", b"["):
            return NO_EVENT
        if self._limits.depth < MAX_DEPTH and is_deeper(text, self._limits.depth, is_json=True):
            raise RecursionError
        fate = self._follow(JSON, text[start:end], path)
        return codec.encode_string(text[:start] + fate + text[end:], raw) if isinstance(fate, bytes) else fate

    def _under(self, codec: Codec, entries: dict[Any, Raw], key: Any, path: tuple[Step, ...]) -> Fate | bytes:
        return self._put(codec, entries, key, self._follow(codec, entries[key], path))

    def _put(self, codec: Codec, entries: dict[Any, Raw], key: Any, fate: Fate | bytes) -> Fate | bytes:
        return codec.encode({**entries, key: Raw(fate)}) if isinstance(fate, bytes) else fate

    def _events(self, codec: Codec, raw: Buffer, entries: dict[Any, Raw]) -> Fate | bytes:
        """A map that is an event after all, or a list of events as the webhook backend sends it."""
        fate = self._decide_loosely(codec, raw, entries)
        items = _key(entries, "items")
        if fate is NO_EVENT and items is not None and codec.kind(entries[items]) == "array":
            # An item is an event or none: lists in lists are nothing that anybody sends.
            fate = self._put(codec, entries, items, self._each(codec, entries[items], self._item))
        return fate

    def _each(self, codec: Codec, raw: Buffer, decide: Callable[[Codec, Raw], Fate | bytes]) -> Fate | bytes:
        if b"auditID" not in bytes(memoryview(raw)):
            return NO_EVENT
        elements = codec.elements(raw, self._limits.list_items)
        fates = [self._element(codec, element, decide) for element in elements]
        if all(fate is NO_EVENT for fate in fates):
            return NO_EVENT
        self.undecided_items += fates.count(NO_EVENT)
        if not any(fate is DROP or isinstance(fate, bytes) for fate in fates):
            return KEEP
        left = [
            Raw(fate) if isinstance(fate, bytes) else element
            for element, fate in zip(elements, fates, strict=True)
            if fate is not DROP
        ]
        return codec.encode(left) if left else DROP

    def _element(
        self, codec: Codec, element: Raw, decide: Callable[[Codec, Raw], Fate | bytes]
    ) -> Fate | bytes:
        """As for a record: an element that can't be read stays."""
        try:
            return decide(codec, element)
        except DECODE_ERRORS:
            return NO_EVENT

    def _item(self, codec: Codec, raw: Raw) -> Fate | bytes:
        if codec.kind(raw) != "map":
            return NO_EVENT
        fate = self._decide(codec, raw)
        return self._decide_loosely(codec, raw, codec.entries(raw)) if fate is None else fate


def json_span(text: bytes | memoryview) -> tuple[int, int]:
    """Where JSON text starts and ends, without a byte order mark and space around it."""
    data = bytes(text)
    body = data.removeprefix(_BOM).lstrip(_SPACE)
    return len(data) - len(body), len(data) - len(body) + len(body.rstrip(_SPACE))


def _key(entries: dict[Any, Raw], name: str) -> Any:
    """The key by that name, a str or msgpack bin; None where there is none."""
    if name in entries:
        return name
    key = name.encode()
    return key if key in entries else None
