"""Finds the audit event in a record: the record itself, under a key, in JSON text, in a list of events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Raw

from ..encoding.codec import DECODE_ERRORS, JSON, Buffer, Codec, TooManyItemsError
from ..encoding.json_text import json_span
from ..encoding.nesting import is_deeper
from .counters import Counters
from .event_fields import NAMES
from .event_filter import EventFilter
from .event_path import EACH, Step
from .limits import MAX_DEPTH, Limits
from .outcome import DROP, KEEP, UNDECIDED, Fate, Outcome
from .splitting import Left

# The keys under which an event is looked for if no path is given and the record is not an event itself.
# Fluentd's and Fluent Bit's parsers use them for an unparsed line, and CloudWatch for its text.
USUAL_KEYS = ("log", "message")
# The list of events that the webhook backend of kube-apiserver sends.
ITEMS = "items"
# All keys of a record that may have to be read.
_NAMES = (*NAMES, ITEMS, *USUAL_KEYS)
# What becomes of a value in which events are looked for. Left: it has a list of events, which is to be split.
Found = Fate | bytes | Left

# What an EventList has beside the events. A client of the API server adds no others, but agents do.
_OF_THE_LIST = frozenset(("kind", "apiVersion", "metadata", ITEMS))


class Envelope:
    """Finds the events of a record, has each decided on, and puts together what is left.

    Args:
        path: the path to the event; with None, the event is looked for.
        limits: lists longer than this and JSON text nested deeper than this are not looked into.
        counters: counts the elements of lists that stay undecided.
        split: whether what is left of a list of events is returned as a :class:`Left`.
    """

    def __init__(
        self, path: tuple[Step, ...] | None, limits: Limits, counters: Counters, *, split: bool
    ) -> None:
        self._path = path
        self._limits = limits
        self._counters = counters
        self._split = split

    def open(self, events: EventFilter, codec: Codec, record: Buffer) -> Found:
        """Decide on the events of a record. Returns UNDECIDED if the record has none.

        Args:
            events: decides on each event.
            codec: the record's encoding.
            record: its bytes.

        Raises:
            DECODE_ERRORS: the record can't be read.
            TooManyItemsError: a list is too long to be looked into.
        """
        search = _Search(events, self._limits, self._counters, split=self._split)
        return search.open(codec, record, self._path)


class _Search:
    """Searches one record for events."""

    def __init__(self, events: EventFilter, limits: Limits, counters: Counters, *, split: bool) -> None:
        self._events = events
        self._limits = limits
        self._counters = counters
        self._split = split

    def open(self, codec: Codec, record: Buffer, path: tuple[Step, ...] | None) -> Found:
        if path is not None:
            return self._follow(codec, record, path)
        if codec.kind(record) != "map":
            return UNDECIDED
        bare = self._events.filter_bare(codec, record)
        if bare is not None:
            return bare
        members = codec.some_members(record, _NAMES)
        fate = self._event_or_list(codec, record, members)
        for key in USUAL_KEYS:
            if fate is not UNDECIDED:
                break
            if key in members:
                fate = _put(codec, record, key, self._follow(codec, members[key], ()))
        return fate

    def _follow(self, codec: Codec, raw: Buffer, path: tuple[Step, ...]) -> Found:
        kind = codec.kind(raw)
        if kind == "string":
            return self._follow_text(codec, raw, path)
        if path and path[0] is EACH:
            rest = path[1:]
            if kind != "array":
                return UNDECIDED
            return self._each(
                codec,
                raw,
                lambda elements: [self._attempt(codec, element, rest) for element in elements],
                rest,
            )
        if kind != "map":
            return UNDECIDED
        if not path:
            fate = self._events.filter_bare(codec, raw)
            return self._event_or_list(codec, raw, codec.some_members(raw, _NAMES)) if fate is None else fate
        step = path[0]
        found = {} if step is EACH else codec.some_members(raw, (step,))
        if step is EACH or step not in found:
            return UNDECIDED
        return _put(codec, raw, step, self._follow(codec, found[step], path[1:]))

    def _attempt(self, codec: Codec, element: Raw, path: tuple[Step, ...]) -> Found:
        """Follow a path in an element of a list. As with a record, an element that can't be read stays."""
        try:
            return self._follow(codec, element, path)
        except (*DECODE_ERRORS, TooManyItemsError):
            return UNDECIDED

    def _follow_text(self, codec: Codec, raw: Buffer, path: tuple[Step, ...]) -> Found:
        def decide(text: memoryview) -> Found:
            if bytes(text[:1]) not in (b"{", b"["):
                return UNDECIDED
            if self._limits.depth < MAX_DEPTH and is_deeper(text, self._limits.depth, is_json=True):
                raise RecursionError
            return self._follow(JSON, text, path)

        return _in_text(codec, raw, decide)

    def _event_or_list(self, codec: Codec, raw: Buffer, members: dict[str, Raw]) -> Found:
        """Decide on a map that is an event after all, or a list of events as the webhook backend sends it."""
        fate = self._events.filter_members(codec, raw, members)
        items = members.get(ITEMS)
        if fate is UNDECIDED and items is not None and codec.kind(items) == "array":
            # An item is an event or not: nobody sends lists of events within lists of events.
            found = self._each(codec, items, partial(self._items, codec), ())
            if isinstance(found, Left):
                return _put_items(codec, raw, found)
            return _put(codec, raw, ITEMS, found)
        return fate

    def _each(
        self,
        codec: Codec,
        raw: Buffer,
        decide: Callable[[list[Raw]], list[Found]],
        path: tuple[Step, ...],
    ) -> Found:
        """Decide on the elements of a list, in each of which ``path`` leads to an event."""
        if not codec.may_contain(raw, "auditID"):
            return UNDECIDED
        elements = codec.elements(raw, self._limits.list_items)
        fates = decide(elements)
        undecided = fates.count(UNDECIDED)
        if undecided == len(fates):
            return UNDECIDED
        self._counters.undecided_items += undecided
        if self._split:
            return Left.of(codec, elements, fates, path)
        if not any(fate is DROP or isinstance(fate, bytes) for fate in fates):
            return KEEP
        left = [
            Raw(fate) if isinstance(fate, bytes) else element
            for element, fate in zip(elements, fates, strict=True)
            if fate is not DROP
        ]
        return codec.encode(left) if left else DROP

    def _items(self, codec: Codec, items: list[Raw]) -> list[Found]:
        fates = self._events.filter_all_bare(codec, items)
        return [
            self._odd_item(codec, item) if fate is None else fate
            for item, fate in zip(items, fates, strict=True)
        ]

    def _odd_item(self, codec: Codec, raw: Raw) -> Found:
        """Decide on an item that is not a bare event as usual. An item that can't be read stays."""
        try:
            if codec.kind(raw) == "map":
                return self._events.filter_members(codec, raw, codec.some_members(raw, NAMES))
        except (*DECODE_ERRORS, TooManyItemsError):
            pass
        return UNDECIDED


def _put(codec: Codec, raw: Buffer, key: str, fate: Found) -> Found:
    """A map with a new value under a key, if the fate is new bytes; otherwise the fate."""
    if isinstance(fate, Fate):
        return fate
    # The key itself stays as it is, text or binary.
    members = codec.members(raw)

    def put(new: Buffer) -> bytes:
        return codec.encode({name: Raw(new) if name == key else value for name, value in members.items()})

    return fate.within(put, put) if isinstance(fate, Left) else put(fate)


def _put_items(codec: Codec, raw: Buffer, left: Left) -> Left:
    """What is left of an EventList. Each event takes the place of the EventList itself.

    What an agent has added to the EventList, such as Fluentd's tag, is added to each event.
    """
    members = codec.members(raw)
    added = {name: value for name, value in members.items() if name not in _OF_THE_LIST}

    def put(new: Buffer) -> bytes:
        return codec.encode({name: Raw(new) if name == ITEMS else value for name, value in members.items()})

    def add(event: Buffer) -> Buffer:
        if not added or codec.kind(event) != "map":
            return event
        own = codec.members(event)
        return codec.extended(event, {name: value for name, value in added.items() if name not in own})

    return left.within(put, add)


def _in_text(codec: Codec, raw: Buffer, decide: Callable[[memoryview], Found]) -> Found:
    """Decide on JSON text in a string. Space and a byte order mark around it stay."""
    text = memoryview(codec.string(raw))
    start, end = json_span(text)
    fate = decide(text[start:end])
    if isinstance(fate, Fate):
        return fate

    def put(new: Buffer) -> bytes:
        return codec.encode_string(b"".join((text[:start], memoryview(new), text[end:])), raw)

    return fate.within(put, put) if isinstance(fate, Left) else put(fate)


def carry_out_in_text(events: EventFilter, codec: Codec, record: Buffer, key: str, outcome: Outcome) -> Found:
    """Carry out what was decided on an event that is JSON text under a key of a record."""
    found = codec.some_members(record, (key,))
    fate = _in_text(codec, found[key], lambda text: events.carry_out(JSON, text, outcome))
    return _put(codec, record, key, fate)
