"""Records' bytes in, what becomes of them out.

Plain events take the short way, a batch at a time (:mod:`plugin.plain_events`). The rest goes one by
one: framed otherwise, wrapped (:mod:`plugin.envelope`), odd, broken, or to be lowered. Both end in the
same :class:`~filter_engine.PolicyEvaluator`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from msgspec import Raw

from filter_engine import Decision, Level, PolicyEvaluator
from plugin import log_entry
from plugin.codec import DECODE_ERRORS, JSON, MSGPACK, Buffer, Codec, read_members
from plugin.envelope import NO_EVENT, Envelope, Fate, Step, json_span
from plugin.log_entry import Marker
from plugin.plain_events import USER_MEMBERS, Outcome, PlainEvents
from plugin.reduction import reduce_bytes

Format = Literal["msgpack", "json"]


# Its fate, a marker, or the bytes to write in its place.
Verdict = Fate | Marker | bytes


class EvaluationError(Exception):
    """The evaluator raised, which it never should. Not one of DECODE_ERRORS, whatever was raised."""


class RecordFilter:
    """Decides on records of one format.

    Args:
        evaluator: the policy.
        format: ``msgpack``: maps, or Fluent Bit's ``[time, map]`` and ``[[time, metadata], map]``;
            ``json``: lines.
        event_path: the way to the event in a record; None: the record itself, or where it usually is.
        reduce: lower retained events to the level of their decision.
        on_error: called with an exception that deciding on a record raised; the record passes.

    Attributes:
        undecided: how many records passed without a decision, by reason.
        reduced: how many events were lowered.
        not_reduced: how many should have been, but can't be written anew; they go on as they are.
    """

    def __init__(
        self,
        evaluator: PolicyEvaluator,
        *,
        format: Format = "msgpack",
        event_path: tuple[Step, ...] | None = None,
        reduce: bool = False,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.undecided: Counter[str] = Counter()
        self.reduced = self.not_reduced = 0
        self._outcomes: dict[Decision, Outcome] = {}
        self._evaluator = evaluator
        self._reduce = reduce
        self._on_error = on_error
        self._envelope = Envelope(self._decide, self._decide_loosely, event_path)
        self._looks_at_record = event_path is None
        self._plain: dict[Codec, PlainEvents] = {
            codec: PlainEvents(codec, evaluator, self._evaluate) for codec in (MSGPACK, JSON)
        }
        self._codec: Codec = MSGPACK if format == "msgpack" else JSON
        self._open = self._open_msgpack if format == "msgpack" else self._open_json

    def dropped_by_rule(self) -> dict[str, int]:
        """How many events each rule dropped, by its index; ``none`` are those that no rule matched."""
        dropped = dict.fromkeys((*range(len(self._evaluator.policy.rules)), None), 0)
        for decision, outcome in self._outcomes.items():
            if not decision.keep:
                dropped[decision.rule] += outcome.events
        return {"none" if rule is None else str(rule): count for rule, count in dropped.items() if count}

    def filter(self, records: Sequence[memoryview]) -> list[Verdict]:
        """What becomes of each of some records: NO_EVENT stands for one that passes undecided."""
        outcomes: list[Outcome | None] = [None] * len(records)
        if self._looks_at_record and records:
            as_entries = self._codec is MSGPACK and records[0][0] == log_entry.PAIR
            with suppress(Exception):  # it comes again below, with the one record that it is about
                outcomes = self._plain[self._codec].outcomes(records, as_entries=as_entries)
        verdicts: list[Any] = [outcome and outcome.at_once for outcome in outcomes]
        for outcome, count in Counter(outcomes).items():
            if outcome is not None and outcome.at_once is not None:
                outcome.events += count
        if None in verdicts:
            for index, verdict in enumerate(verdicts):
                if verdict is None:
                    verdicts[index] = self._filter_one(records[index])
        return verdicts

    def _filter_one(self, record: memoryview) -> Verdict:
        try:
            return self._open(record)
        except Exception as error:  # whatever goes wrong here must not lose the record
            self._on_error(error)
            return self._pass("internal_error")

    def _evaluate(self, event: Mapping[str, Any]) -> Outcome:
        try:
            decision = self._evaluator.evaluate(event)
        except Exception as error:
            raise EvaluationError(repr(error)) from error
        outcome = self._outcomes.get(decision)
        if outcome is None:
            lowers = decision.level < Level.REQUEST_RESPONSE or decision.omit_managed_fields
            outcome = Outcome(decision, may_reduce=self._reduce and decision.keep and lowers)
            self._outcomes[decision] = outcome
        return outcome

    def _open_msgpack(self, record: memoryview) -> Verdict:
        try:
            body: Buffer = record
            if MSGPACK.kind(record) == "array":
                head, body = log_entry.split(record)
                if (marker := log_entry.marker(head)) is not None:
                    return marker
            fate = self._envelope.open(MSGPACK, body)
        except DECODE_ERRORS:
            return self._pass("undecodable")
        if isinstance(fate, bytes):
            return bytes(record[: len(record) - len(memoryview(body))]) + fate
        return self._pass("not_an_event") if fate is NO_EVENT else fate

    def _open_json(self, line: memoryview) -> Fate | bytes:
        start, end = json_span(line)
        text = line[start:end]
        if JSON.kind(text) not in ("map", "array"):
            return self._pass("not_an_event")
        try:
            fate = self._envelope.open(JSON, text)
        except DECODE_ERRORS:
            return self._decide_whole(text)
        if isinstance(fate, bytes):
            return bytes(line[:start]) + fate + bytes(line[end:])
        return self._pass("not_an_event") if fate is NO_EVENT else fate

    def _decide_whole(self, text: memoryview) -> Fate:
        """Decide on an event in JSON that only a lenient reader takes; it is kept as it is or dropped."""
        try:
            event = JSON.value(text) if self._looks_at_record else {}
        except DECODE_ERRORS:
            event = {}
        if not _is_event(event):
            return self._pass("undecodable")
        outcome = self._evaluate(event)
        outcome.events += 1
        self.not_reduced += outcome.at_once is None
        return outcome.fate

    def _decide(self, codec: Codec, raw: Buffer) -> Fate | bytes | None:
        try:
            event = self._plain[codec].decode(raw)
        except DECODE_ERRORS:
            return None
        return self._lower(codec, raw, self._plain[codec].outcome(event))

    def _decide_loosely(self, codec: Codec, raw: Buffer, entries: dict[Any, Raw]) -> Fate | bytes:
        event = _loose_event(codec, entries)
        if not _is_event(event):
            return NO_EVENT
        return self._lower(codec, raw, self._evaluate(event))

    def _lower(self, codec: Codec, raw: Buffer, outcome: Outcome) -> Fate | bytes:
        outcome.events += 1
        if outcome.at_once is not None:
            return outcome.fate
        try:
            reduced = reduce_bytes(codec, raw, outcome.decision)
        except DECODE_ERRORS:
            self.not_reduced += 1
            return outcome.fate
        if reduced is None:
            return outcome.fate
        self.reduced += 1
        return reduced

    def _pass(self, reason: str) -> Fate:
        self.undecided[reason] += 1
        return NO_EVENT


_EVENT_FIELDS = ("auditID", "verb", "stage", "user", "objectRef", "requestURI", "level", "responseStatus")
_MEMBERS = {
    "user": USER_MEMBERS,
    "objectRef": ("apiGroup", "resource", "subresource", "namespace", "name"),
    "responseStatus": ("code",),
}


def _loose_event(codec: Codec, entries: dict[Any, Raw]) -> dict[str, Any]:
    """The fields of an event in a map that rules may read, whatever their types. Raises DECODE_ERRORS."""
    event = {}
    for name in _EVENT_FIELDS:
        raw = entries.get(name, entries.get(name.encode()))
        if raw is not None:
            event[name] = read_members(codec, raw, _MEMBERS.get(name, ()))
    return event


def _is_event(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name), (str, bytes)) for name in ("auditID", "verb")
    )
