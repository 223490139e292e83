"""The bytes of an event in, its fate out.

Decisions are remembered by an event's class (``event_keys``): the memo is bounded by the policy, not by the
log. A batch of bare events goes through a few calls into C: a typed decode of just the fields that the policy
reads, their keys, and a look-up of each key in the memo. Events that do not fit are left to
:meth:`EventFilter.filter_members`, which reads fields one by one. Both ways end in the same evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from filter_engine import Decision, Level, PolicyEvaluator, fields
from filter_engine.actions import PolicyActions
from filter_engine.fields import FIELDS, MORE_FIELDS
from filter_engine.request import is_event

from ..encoding.codec import DECODE_ERRORS, Buffer, Codec, TooManyItemsError
from .counters import Counters
from .encoded_actions import change_bytes, without_what_is_redacted
from .event_fields import IDENTITY, FieldReader, all_fields, event_of_struct, event_struct
from .event_keys import CODECS, LEVELS, OVERHEAD, EventKeys, Key
from .event_redaction import EventRedaction
from .limits import Limits
from .outcome import DROP, UNDECIDED, Fate, Outcome, Tallies
from .spliced_redaction import LEFT_ALONE

# Bytes. The fields of a larger event are read one by one: decoding them together may take its size once more.
_LARGE = 1 << 20


def has_large(records: Sequence[memoryview]) -> bool:
    """Whether one of these records is too large to be decoded with others. All lie in one buffer."""
    whole: Any = records[0].obj
    return len(whole) > _LARGE and max(map(len, records)) > _LARGE


class EvaluationError(Exception):
    """The evaluator raised an error, which should never happen. This is never one of DECODE_ERRORS."""


class EventFilter:
    """Decides on events by one policy, whatever their encoding.

    Args:
        evaluator: the policy.
        counters: where events are counted.
        limits: bounds on lists, groups and memory.
        reduce: reduce kept events to the level of their decision, if the policy says nothing of it.

    Raises:
        PolicyError: the key for the policy's hashes was not read before, and can't be.

    Attributes:
        struct: the fields of events that are decoded together.
        needs_whole_events: whether fields of events may be looked at or changed that are not among
            ``filter_engine.fields``.
    """

    def __init__(
        self, evaluator: PolicyEvaluator, counters: Counters, limits: Limits, *, reduce: bool
    ) -> None:
        self._evaluator = evaluator
        self._counters = counters
        self._limits = limits
        self._actions = PolicyActions(evaluator.policy, reduce=reduce)
        self._reduce = reduce = self._actions.reduces
        self._redaction = EventRedaction(self._actions.redactors, limits)
        read = evaluator.reads | self._redaction.reads | ({fields.LEVEL} if reduce else set())
        vocabulary = self._redaction.with_words(evaluator.vocabulary)
        self.struct = event_struct(read, self._redaction.raw)
        self.needs_whole_events = (
            reduce
            or bool(self._redaction)
            or any(rule.sample and rule.sample.annotate for rule in evaluator.policy.rules)
            or not evaluator.reads <= {*FIELDS, *MORE_FIELDS}
        )
        self._reader = FieldReader(all_fields(read), limits.groups)
        self._decoders = {codec: codec.struct_decoder(self.struct) for codec in CODECS}
        # If events are reduced, it matters at which level they were recorded.
        self._keys = EventKeys(vocabulary, self.struct.NO_REF, limits, by_level=reduce)
        self._memo: dict[Key, Outcome] = {}
        self._outcomes: dict[tuple[Decision, Level | None, str | None], Outcome] = {}

    def expect_events(self) -> None:
        """Make all tallies that the policy's rules may need. Only the thread that counts may call this."""
        self._counters.expect(self._evaluator.policy)

    def outcomes(self, codec: Codec, events: Sequence[Any]) -> list[Outcome | None]:
        """The outcomes of decoded events; None for an event that has to be read field by field.

        Args:
            codec: the events' encoding.
            events: instances of :attr:`struct`.
        """
        keys = list(self._keys.keys(codec, events))
        found: list[Outcome | None] = list(map(self._memo.get, keys))
        if None in found:
            for index, outcome in enumerate(found):
                if outcome is None:
                    found[index] = self._find(codec, events[index], keys[index])
        if self._redaction:
            narrowed = self._redaction.narrowed
            found = [
                outcome and (outcome if outcome.actions.redactor is None else narrowed(event, outcome))
                for event, outcome in zip(events, found, strict=True)
            ]
        return found

    def decode(self, codec: Codec, raw: Buffer | str) -> Any:
        """The fields of a bare event that the policy reads. Raises DECODE_ERRORS if it is not an event."""
        return self._decoders[codec](raw)

    def filter_bare(self, codec: Codec, raw: Buffer) -> Fate | bytes | None:
        """Decide on what may be an event by its bytes; None if its fields have to be read one by one."""
        return self.filter_all_bare(codec, [raw])[0]

    def filter_all_bare(self, codec: Codec, raws: Sequence[Buffer]) -> list[Fate | bytes | None]:
        """Decide on values as :meth:`filter_bare` does, all at once."""
        decoded = [self._decoded(codec, raw) for raw in raws]
        found = iter(self.outcomes(codec, [event for event in decoded if event is not None]))
        outcomes = [None if event is None else next(found) for event in decoded]
        return [
            None if outcome is None else self.carry_out(codec, raw, outcome)
            for raw, outcome in zip(raws, outcomes, strict=True)
        ]

    def _decoded(self, codec: Codec, raw: Buffer) -> Any:
        if len(memoryview(raw)) > _LARGE:
            return None
        try:
            return self.decode(codec, raw)
        except DECODE_ERRORS:
            return None

    def filter_members(self, codec: Codec, raw: Buffer, members: Mapping[str, Raw]) -> Fate | bytes:
        """Decide on what may be an event by its members. Returns UNDECIDED if it is not an event.

        Raises:
            DECODE_ERRORS: its fields can't be read.
            TooManyItemsError: a list in it is too long to be read.
        """
        event = self._reader.read(codec, members)
        if not is_event(event):
            return UNDECIDED
        return self.carry_out(codec, raw, self._evaluate(event))

    def carry_out(self, codec: Codec, raw: Buffer, outcome: Outcome) -> Fate | bytes:
        """Count an event, and carry out its outcome."""
        if outcome.left_out is not None and not outcome.actions.keeps(_audit_id(codec, raw)):
            outcome.left_out.events += 1
            return DROP
        outcome.tally.events += 1
        if not outcome.looks_at_event:
            return outcome.fate
        if not (outcome.changes_event or codec.may_contain(raw, "managedFields")):
            return outcome.fate
        return self._write(codec, raw, outcome)

    def _write(self, codec: Codec, raw: Buffer, outcome: Outcome) -> Fate | bytes:
        """Write an event anew, or leave it as it is if nothing in it has to change."""
        actions, tally = outcome.actions, outcome.tally
        splicer = None if actions.redactor is None else self._redaction.splicer(codec, outcome)
        spliced = None if splicer is None else splicer.splice(raw)
        if spliced is LEFT_ALONE:
            return outcome.fate
        if spliced is not None:
            tally.redacted += 1
            return spliced
        try:
            changed, redacted, failed = change_bytes(codec, raw, actions, self._redaction.values[codec])
        except Exception as error:
            if actions.redactor is not None:  # nothing goes on that should have been redacted
                self._counters.not_redacted += 1
                return without_what_is_redacted(codec, raw, actions.redactor)
            if not isinstance(error, (*DECODE_ERRORS, TooManyItemsError)):
                raise
            self._counters.not_reduced += 1
            return outcome.fate
        tally.redacted += redacted
        self._counters.not_redacted += failed
        if changed is None:
            return outcome.fate
        # What is left are annotations with the rate of a sample, redacted values, and managed fields.
        tally.reduced += outcome.changes_level or not (redacted or actions.annotates)
        return changed

    def _find(self, codec: Codec, event: Any, key: Key) -> Outcome | None:
        """The outcome of an event whose key is not in the memo; None if it has to be read field by field."""
        whole = self._keys.complete(codec, event, key)
        if whole is None:
            return None
        outcome = self._memo.get(whole)
        if outcome is None:
            if len(self._memo) * OVERHEAD > self._keys.table_size:
                self._memo.clear()
            user = self._keys.user(codec, bytes(event.user))
            outcome = self._evaluate(event_of_struct(event, user))
            if self._keys.table_size:
                self._memo[whole] = outcome
        return outcome

    def _evaluate(self, event: Mapping[str, Any]) -> Outcome:
        try:
            decision = self._evaluator.evaluate(event)
        except Exception as error:
            raise EvaluationError(repr(error)) from error
        recorded = LEVELS.get(fields.text(event.get(fields.LEVEL.path))) if self._reduce else None
        kind = self._redaction.kind_of(event, decision)
        outcome = self._outcomes.get((decision, recorded, kind))
        if outcome is None:
            policy = self._evaluator.policy
            actions = self._actions.of(decision)
            left_out = self._counters.left_out(decision, policy) if actions.sample is not None else None
            tallies = Tallies(self._counters.tally(decision, policy), left_out)
            outcome = Outcome(decision, actions, tallies, recorded, kind)
            self._outcomes[decision, recorded, kind] = outcome
        return outcome


def _audit_id(codec: Codec, raw: Buffer) -> str:
    return codec.text(codec.some_members(raw, (IDENTITY,))[IDENTITY])
