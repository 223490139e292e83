"""Records' bytes in, what becomes of them out.

Plain events take the short way, a batch at a time (``plain_events``). The rest goes one by one: framed
otherwise, wrapped (``envelope``), odd, broken, or to be reduced. Both end in the same
:class:`~filter_engine.PolicyEvaluator`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from msgspec import Raw

from filter_engine import PolicyEvaluator

from ..encoding import log_entry
from ..encoding.codec import DECODE_ERRORS, JSON, MSGPACK, Buffer, Codec, read_members
from ..encoding.log_entry import Marker
from ..encoding.nesting import is_deeper
from .counters import Tallies
from .decider import Decider
from .encoded_reduction import reduce_bytes
from .envelope import Envelope, json_span
from .event_path import Step
from .limits import DEFAULT_LIMITS, MAX_DEPTH, Limits
from .outcome import NO_EVENT, Fate, Outcome
from .plain_events import USER_MEMBERS

Format = Literal["msgpack", "json"]
# Why a record passed without a decision; docs/exec.md explains each.
Undecided = Literal["not_an_event", "undecodable", "too_large", "too_deep", "no_policy", "internal_error"]

# Its fate, a marker, or the bytes to write in its place.
Verdict = Fate | Marker | bytes


class RecordFilter:
    """Decides on records of one format; without a policy, every record passes.

    Args:
        format: ``msgpack``: maps, or Fluent Bit's ``[time, map]`` and ``[[time, metadata], map]``;
            ``json``: lines.
        event_path: the way to the event in a record; None: the record itself, or where it usually is.
        reduce: reduce kept events to the level of their decision.
        limits: of depth, lists and memory for decisions.
        on_error: called with an exception that deciding on a record raised; the record passes.

    Attributes:
        undecided: how many records passed without a decision, by reason.
        tallies: how many events were decided how.
        not_reduced: how many events should have been reduced, but can't be written anew; they go on
            as they are.
    """

    def __init__(
        self,
        *,
        format: Format = "msgpack",
        event_path: tuple[Step, ...] | None = None,
        reduce: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.undecided: Counter[str] = Counter()
        self.tallies = Tallies()
        self.not_reduced = 0
        self._decider: Decider | None = None
        self._reduce = reduce
        self._limits = limits
        self._on_error = on_error
        self._envelope = Envelope(self._decide, self._decide_loosely, event_path, limits)
        self._looks_at_record = event_path is None
        self._codec: Codec = MSGPACK if format == "msgpack" else JSON
        self._open = self._open_msgpack if format == "msgpack" else self._open_json

    @property
    def undecided_items(self) -> int:
        """How many elements of lists of events stayed without a decision."""
        return self._envelope.undecided_items

    @property
    def has_policy(self) -> bool:
        """Whether there is one; without, every record passes."""
        return self._decider is not None

    def prepare(self, evaluator: PolicyEvaluator) -> Decider:
        """Make a policy ready to be used. Another thread may do this while records are decided on."""
        return Decider(evaluator, self.tallies, reduce=self._reduce, memo_size=self._limits.memo_size)

    def use(self, decider: Decider) -> None:
        """Decide on all further records by this policy."""
        if self._decider is not None:
            self._decider.retire()
        self._decider = decider
        decider.expect_events()

    def filter(self, records: Sequence[memoryview]) -> list[Verdict]:
        """What becomes of each of some records: NO_EVENT stands for one that goes on undecided."""
        if self._decider is None:
            return [self._pass("no_policy") for _ in records]
        if self._limits.depth < MAX_DEPTH and any(map(self._is_too_deep, records)):
            return [
                self._pass("too_deep") if self._is_too_deep(record) else self._filter_one(record)
                for record in records
            ]
        outcomes: list[Outcome | None] = [None] * len(records)
        if self._looks_at_record and records:
            as_entries = self._codec is MSGPACK and records[0][0] == log_entry.PAIR
            with suppress(Exception):  # it comes again below, with the one record that it is about
                outcomes = self._decider.plain[self._codec].outcomes(records, as_entries=as_entries)
        verdicts: list[Any] = [outcome and outcome.at_once for outcome in outcomes]
        for outcome, count in Counter(outcomes).items():
            if outcome is not None and outcome.at_once is not None:
                outcome.tally.events += count
        if None in verdicts:
            for index, verdict in enumerate(verdicts):
                if verdict is None:
                    verdicts[index] = self._filter_one(records[index])
        return verdicts

    def _is_too_deep(self, record: memoryview) -> bool:
        return is_deeper(record, self._limits.depth, is_json=self._codec is JSON)

    def _filter_one(self, record: memoryview) -> Verdict:
        try:
            return self._open(record)
        except Exception as error:  # whatever goes wrong here must not lose the record
            self._on_error(error)
            return self._pass("internal_error")

    def _open_msgpack(self, record: memoryview) -> Verdict:
        try:
            body: Buffer = record
            if MSGPACK.kind(record) == "array":
                head, body = log_entry.split(record)
                if (marker := log_entry.marker(head)) is not None:
                    return marker
            fate = self._envelope.open(MSGPACK, body)
        except RecursionError:
            return self._pass("too_deep")
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
        except RecursionError:
            return self._pass("too_deep")
        except DECODE_ERRORS:
            return self._decide_whole(text)
        if isinstance(fate, bytes):
            return bytes(line[:start]) + fate + bytes(line[end:])
        return self._pass("not_an_event") if fate is NO_EVENT else fate

    def _decide_whole(self, text: memoryview) -> Fate:
        """Decide on an event in JSON that only a lenient reader takes; it is kept as it is or dropped."""
        try:
            event = JSON.value(text) if self._looks_at_record else {}
        except RecursionError:
            return self._pass("too_deep")
        except DECODE_ERRORS:
            event = {}
        if not _is_event(event):
            return self._pass("undecodable")
        outcome = self._policy.evaluate(event)
        outcome.tally.events += 1
        self.not_reduced += outcome.at_once is None
        return outcome.fate

    def _decide(self, codec: Codec, raw: Buffer) -> Fate | bytes | None:
        plain = self._policy.plain[codec]
        try:
            event = plain.decode(raw)
        except DECODE_ERRORS:
            return None
        return self._reduced(codec, raw, plain.outcome(event))

    def _decide_loosely(self, codec: Codec, raw: Buffer, entries: dict[Any, Raw]) -> Fate | bytes:
        event = _loose_event(codec, entries)
        if not _is_event(event):
            return NO_EVENT
        return self._reduced(codec, raw, self._policy.evaluate(event))

    def _reduced(self, codec: Codec, raw: Buffer, outcome: Outcome) -> Fate | bytes:
        outcome.tally.events += 1
        if outcome.at_once is not None:
            return outcome.fate
        try:
            reduced = reduce_bytes(codec, raw, outcome.decision, self._limits.list_items)
        except DECODE_ERRORS:
            self.not_reduced += 1
            return outcome.fate
        if reduced is None:
            return outcome.fate
        outcome.tally.reduced += 1
        return reduced

    @property
    def _policy(self) -> Decider:
        assert self._decider is not None  # without one, filter() looks at no record
        return self._decider

    def _pass(self, reason: Undecided) -> Fate:
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
