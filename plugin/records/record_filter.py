"""The bytes of records in, their fates out.

Most records have the same shape as the records before: they are bare events, log entries of bare events, or
have an event as JSON text under a usual key. A batch of such records takes a short way, a few calls into C
(``event_filter``). All other records are decided on one by one: events that are wrapped in another way
(``envelope``), unusual records and broken ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import UNSET

from filter_engine import PolicyEvaluator

from ..encoding import log_entry
from ..encoding.codec import DECODE_ERRORS, JSON, MSGPACK, Buffer, Codec, TooManyItemsError
from ..encoding.json_text import json_span
from ..encoding.log_entry import Marker
from ..encoding.nesting import is_deeper
from .counters import Counters, Undecided
from .envelope import ITEMS, USUAL_KEYS, Envelope, Found, carry_out_in_text
from .event_fields import IDENTITY, entry_struct, text_struct, usual_struct
from .event_filter import EventFilter, has_large
from .event_path import Step
from .limits import DEFAULT_LIMITS, MAX_DEPTH, Limits
from .outcome import UNDECIDED, Fate, Outcome
from .splitting import Left, Several, split_line, split_record

Format = Literal["msgpack", "json"]
# What becomes of a record.
RecordFate = Fate | Marker | bytes | Several


@dataclass(frozen=True)
class _Shape:
    """Where a record has its event.

    Attributes:
        is_entry: whether the record is a log entry, ``[head, body]``.
        key: the key of the record (or of its body) with the event as JSON text; None if the record (or its
            body) is the event.
    """

    is_entry: bool = False
    key: str | None = None


class RecordFilter:
    """Decides on records of one format. Without a policy, every record goes on undecided.

    Args:
        format: ``msgpack``: maps, or Fluent Bit's ``[time, map]`` and ``[[time, metadata], map]``;
            ``json``: lines.
        event_path: the path to the event in a record. With None, the event is looked for in the record
            itself and under the usual keys.
        reduce: reduce kept events to the level of their decision.
        split: let a record with a list of events go on as one record for each event that is left.
        dry_run: decide and count, but let all records go on as they are.
        limits: bounds on depth, lists and memory for decisions.
        on_error: called with an exception that was raised while deciding on a record. The record goes on
            undecided.

    Attributes:
        format: the argument.
        counters: what went through so far.
    """

    def __init__(  # noqa: PLR0913 - all by name, one for each option
        self,
        *,
        format: Format = "msgpack",
        event_path: tuple[Step, ...] | None = None,
        reduce: bool = False,
        split: bool = False,
        dry_run: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.format: Format = format
        self.counters = Counters()
        if dry_run:
            self.counters.dry_run_bytes_out = 0
        self._events: EventFilter | None = None
        self._reduce = reduce
        self._limits = limits
        self._on_error = on_error
        self._envelope = Envelope(event_path, limits, self.counters, split=split)
        self._codec: Codec = MSGPACK if format == "msgpack" else JSON
        self._open = self._open_msgpack if format == "msgpack" else self._open_json
        self._shapes = _shapes(format, limits) if event_path is None else ()
        self._shape = self._shapes[0] if self._shapes else None
        # For events with usual words, and for any.
        self._decoders: dict[_Shape, tuple[Callable[[Buffer], Any], Callable[[Buffer], Any]]] = {}

    @property
    def has_policy(self) -> bool:
        """Whether there is a policy. Without one, every record goes on undecided."""
        return self._events is not None

    def prepare(self, evaluator: PolicyEvaluator) -> EventFilter:
        """Make a policy ready to be used. Another thread may do this while records are decided on."""
        return EventFilter(evaluator, self.counters, self._limits, reduce=self._reduce)

    def use(self, events: EventFilter) -> None:
        """Use this policy for all further records."""
        self._events = events
        self._decoders = {shape: self._make_decoders(shape, events) for shape in self._shapes}
        events.expect_events()

    @property
    def needs_whole_events(self) -> bool:
        """Whether the policy in use looks at or changes more of events than an agent may send in advance."""
        return self._events is not None and self._events.needs_whole_events

    def filter(self, records: Sequence[memoryview]) -> list[RecordFate]:
        """Decide on records. Returns for each its fate, a marker, or what to write in its place."""
        if self._events is None:
            return [self._undecided("no_policy") for _ in records]
        if self._limits.depth < MAX_DEPTH and any(map(self._is_too_deep, records)):
            return [
                self._undecided("too_deep") if self._is_too_deep(record) else self._filter_one(record)
                for record in records
            ]
        outcomes = self._short_way(self._events, records)
        fates: list[Any] = [outcome and outcome.at_once for outcome in outcomes]
        for outcome, count in Counter(outcomes).items():
            if outcome is not None and outcome.at_once is not None:
                outcome.tally.events += count
        if None in fates:
            for index, fate in enumerate(fates):
                if fate is None:
                    fates[index] = self._filter_one(records[index], outcomes[index])
        return fates

    def _short_way(self, events: EventFilter, records: Sequence[memoryview]) -> list[Outcome | None]:
        """The outcomes of records that have the same shape as the records before; None for other records.

        If no record has that shape, the other shapes are tried. The one that fits is tried first next time.
        """
        nothing: list[Outcome | None] = [None] * len(records)
        if self._shape is None or not records or has_large(records):
            return nothing
        is_entry = self._codec is MSGPACK and log_entry.is_entry(records[0])
        others = [shape for shape in self._shapes if shape.is_entry == is_entry and shape != self._shape]
        try:
            for shape in (self._shape, *others):
                outcomes = self._outcomes(events, shape, records)
                if any(outcomes):
                    self._shape = shape
                    return outcomes
        except Exception as error:
            # The record at fault raises the error again in _filter_one, alone.
            self._fault(error)
        return nothing

    def _outcomes(
        self, events: EventFilter, shape: _Shape, records: Sequence[memoryview]
    ) -> list[Outcome | None]:
        """The outcomes of records of one shape; None for those that have another."""
        codec = self._codec if shape.key is None else JSON
        decode_usual, decode = self._decoders[shape]
        is_whole = shape.key is None  # comparing each event with None would cost as much as looking it up
        try:
            decoded = list(map(decode_usual, records))
        except DECODE_ERRORS:
            is_whole = False
            decoded = [_attempt(decode, record) for record in records]
        if shape.is_entry:
            heads = [bytes(entry.head) for entry in decoded if entry is not None]
            if not log_entry.are_all_of_records(heads):
                return [None] * len(records)
            decoded = [entry and entry.body for entry in decoded]
        if shape.key is not None:
            decoded = [text and self._event_in_text(events, text) for text in decoded]
        if is_whole:
            return events.outcomes(codec, decoded)
        fitting = iter(events.outcomes(codec, [event for event in decoded if event is not None]))
        return [None if event is None else next(fitting) for event in decoded]

    def _event_in_text(self, events: EventFilter, found: Any) -> Any:
        # If the record may be an event itself, or a list of events, these take precedence over the text.
        if any(getattr(found, name) is not UNSET for name in found.__struct_fields__[1:]):
            return None
        return _attempt(lambda text: events.decode(JSON, text), found.text)

    def _make_decoders(
        self, shape: _Shape, events: EventFilter
    ) -> tuple[Callable[[Buffer], Any], Callable[[Buffer], Any]]:
        structs = [usual_struct(events.struct), events.struct]
        if shape.key is not None:
            before = USUAL_KEYS[: USUAL_KEYS.index(shape.key)]
            structs = [text_struct(shape.key, (IDENTITY, ITEMS, *before))] * 2
        usual, any_ = (
            self._codec.struct_decoder(entry_struct(struct) if shape.is_entry else struct)
            for struct in structs
        )
        return usual, any_

    def _is_too_deep(self, record: memoryview) -> bool:
        return is_deeper(record, self._limits.depth, is_json=self._codec is JSON)

    def _filter_one(self, record: memoryview, outcome: Outcome | None = None) -> RecordFate:
        try:
            return self._open(record, outcome)
        except RecursionError:
            return self._undecided("too_deep")
        except TooManyItemsError:
            return self._undecided("too_many_items")
        except DECODE_ERRORS:
            return self._undecided("undecodable")
        except Exception as error:  # whatever goes wrong here must not lose the record
            self._fault(error)
            return self._undecided("internal_error")

    def _open_msgpack(self, record: memoryview, outcome: Outcome | None) -> RecordFate:
        head: Buffer | None = None
        body: Buffer = record
        if MSGPACK.kind(record) not in ("map", "array"):
            return self._undecided("not_a_record")
        if log_entry.is_entry(record):
            head, body = log_entry.split(record)
            if (marker := log_entry.marker(head)) is not None:
                return marker
        fate = self._decide(body, outcome)
        if isinstance(fate, Left):
            several = split_record(fate, MSGPACK, record, head)
            if several is not None:
                return several
            fate = self._whole(fate)
        if isinstance(fate, bytes):
            return bytes(record[: len(record) - len(memoryview(body))]) + fate
        return fate

    def _open_json(self, line: memoryview, outcome: Outcome | None) -> RecordFate:
        start, end = json_span(line)
        text = line[start:end]
        if JSON.kind(text) not in ("map", "array"):
            return self._undecided("not_an_event")
        fate = self._decide(text, outcome)
        if isinstance(fate, Left):
            several = split_line(fate, JSON, line, start, end)
            if several is not None:
                return several
            fate = self._whole(fate)
        return bytes(line[:start]) + fate + bytes(line[end:]) if isinstance(fate, bytes) else fate

    def _decide(self, body: Buffer, outcome: Outcome | None) -> Found:
        """Decide on a record without its head. If the outcome is known, the record has the current shape."""
        assert self._events is not None  # filter() does not come here without a policy
        if outcome is None or self._shape is None:
            fate: Found = self._envelope.open(self._events, self._codec, body)
        elif self._shape.key is None:
            fate = self._events.carry_out(self._codec, body, outcome)
        else:
            fate = carry_out_in_text(self._events, self._codec, body, self._shape.key, outcome)
        return self._undecided("not_an_event") if fate is UNDECIDED else fate

    def _whole(self, left: Left) -> Fate | bytes:
        """A record whose list can't be split."""
        self.counters.not_split += 1
        return left.whole()

    def _undecided(self, reason: Undecided) -> Fate:
        self.counters.undecided[reason] += 1
        return UNDECIDED

    def _fault(self, error: Exception) -> None:
        self.counters.faults += 1
        self._on_error(error)


def _shapes(format: Format, limits: Limits) -> tuple[_Shape, ...]:
    """The shapes that have a short way."""
    # The short way does not check how deep the text under a key is nested.
    keys = (None, *USUAL_KEYS) if limits.depth == MAX_DEPTH else (None,)
    return tuple(
        _Shape(is_entry, key)
        for is_entry in ((False, True) if format == "msgpack" else (False,))
        for key in keys
    )


def _attempt(decode: Callable[[Any], Any], raw: Any) -> Any:
    try:
        return decode(raw)
    except DECODE_ERRORS:
        return None
