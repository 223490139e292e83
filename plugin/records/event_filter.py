"""The bytes of an event in, its fate out.

Decisions are remembered by what the policy's rules can tell apart (``filter_engine.vocabulary``): the key is
a handful of small numbers, so the memo is bounded by the policy and not by the log. The numbers of users and
URLs take some work. They are remembered by the bytes of user and URL, in tables of bounded size.

A batch of bare events goes through a few calls into C: a typed decode of just the fields that the policy
reads, one look-up in a table for each field, and one in the memo. Events that do not fit are left to
:meth:`EventFilter.filter_members`, which reads fields one by one. Both ways end in the same evaluator.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

from msgspec import Raw

from filter_engine import Decision, Level, PolicyEvaluator, fields
from filter_engine.request import WRITES, ObjectRef, before_the_body, is_event, request_path, target_of
from filter_engine.vocabulary import OTHER

from ..encoding.codec import DECODE_ERRORS, JSON, MSGPACK, Buffer, Codec, TooManyItemsError
from .counters import Counters
from .encoded_reduction import reduce_bytes
from .event_fields import OBJECT_REF, event_of_struct, event_struct, read_event, user_struct
from .limits import Limits
from .outcome import UNDECIDED, Fate, Outcome

_CODECS: tuple[Codec, ...] = (MSGPACK, JSON)
# Bytes. The fields of a larger event are read one by one: decoding them together may take its size once more.
_LARGE = 1 << 20
# Bytes. Larger users and URLs are not remembered.
_LARGEST_KEY = 4096
# Bytes of Python objects that an entry of a table costs beside its key.
_OVERHEAD = 400
# Levels at which an event may have been recorded. Any other text is ignored.
_LEVELS = {level.value: level for level in Level}

# Numbers in place of that of a URL's class. _NAMES_A_RESOURCE: the URL names a resource, and needs no class.
# _FROM_THE_BODY, or one of the three numbers below it: the request has a body; see _from_the_body.
_NAMES_A_RESOURCE = -1
_FROM_THE_BODY = -2

# Numbers of classes, in the order of a memo's key; None where a number is not known yet, or not needed.
Key = tuple[Any, ...]


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
        reduce: reduce kept events to the level of their decision.
    """

    def __init__(
        self, evaluator: PolicyEvaluator, counters: Counters, limits: Limits, *, reduce: bool
    ) -> None:
        self._evaluator = evaluator
        self._counters = counters
        self._limits = limits
        self._reduce = reduce
        words = dict(evaluator.vocabulary.words)
        if reduce:  # then it matters at which level an event was recorded
            words[fields.LEVEL] = {level: number for number, level in enumerate(_LEVELS, 1)}
        self.struct = event_struct(evaluator.reads | ({fields.LEVEL} if reduce else set()))
        self._decoders = {codec: codec.struct_decoder(self.struct) for codec in _CODECS}
        # Users in either encoding, objects, URLs, writes and decisions share the memory.
        self._memo_size = limits.memo_size // 6
        self._users = {codec: _Users(codec, self._memo_size, limits.groups) for codec in _CODECS}
        if words.get(fields.NAMESPACE) or words.get(fields.NAME):
            # In a request with a body, and in no other, these may be the body's (_from_the_body).
            verbs = words[fields.VERB] = dict(words.get(fields.VERB, {}))
            for verb in sorted(WRITES):
                verbs.setdefault(verb, len(verbs) + 1)
        # All fields but the user's and the URL, with the numbers of their words: of the event, of objectRef.
        apart = (fields.USERNAME, fields.GROUPS, fields.REQUEST_URI)
        columns = [(field, numbers) for field, numbers in words.items() if numbers and field not in apart]
        self._columns = [
            (attrgetter(field.path), numbers) for field, numbers in columns if field.parent != OBJECT_REF
        ]
        self._ref_columns = [
            (attrgetter(field.name), numbers) for field, numbers in columns if field.parent == OBJECT_REF
        ]
        self._paths = _Table(self._memo_size)
        self._refs = _Table(self._memo_size)
        self._writes = _Table(self._memo_size)  # requests with a body whose URL had to be looked at
        self._numbers: dict[Hashable, int] = {}
        self._memo: dict[Key, Outcome] = {}
        self._outcomes: dict[tuple[Decision, Level | None], Outcome] = {}

    def expect_events(self) -> None:
        """Make all tallies that the policy's rules may need. Only the thread that counts may call this."""
        self._counters.expect(self._evaluator.policy)

    def outcomes(self, codec: Codec, events: Sequence[Any]) -> list[Outcome | None]:
        """The outcomes of decoded events; None for an event that has to be read field by field.

        Args:
            codec: the events' encoding.
            events: instances of :attr:`struct`.
        """
        keys = list(self._keys(codec, events))
        found: list[Outcome | None] = list(map(self._memo.get, keys))
        if None in found:
            for index, outcome in enumerate(found):
                if outcome is None:
                    found[index] = self._find(codec, events[index], keys[index])
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
        event = read_event(codec, members, self._limits.groups)
        if not is_event(event):
            return UNDECIDED
        return self.carry_out(codec, raw, self._evaluate(event))

    def carry_out(self, codec: Codec, raw: Buffer, outcome: Outcome) -> Fate | bytes:
        """Count an event, and carry out its outcome."""
        outcome.tally.events += 1
        if not outcome.may_reduce:
            return outcome.fate
        if not (outcome.changes_level or codec.may_contain(raw, "managedFields")):
            return outcome.fate
        try:
            reduced = reduce_bytes(codec, raw, outcome.decision, self._limits.list_items)
        except (*DECODE_ERRORS, TooManyItemsError):
            self._counters.not_reduced += 1
            return outcome.fate
        if reduced is None:
            return outcome.fate
        outcome.tally.reduced += 1
        return reduced

    def _keys(self, codec: Codec, events: Sequence[Any]) -> Iterator[Key]:
        """The keys of events in the memo, as far as they can be found without Python code for each event."""
        users = map(self._users[codec].table.get, map(bytes, map(_USER, events)))
        paths = map(self._paths.get, map(_URI, events))
        refs = map(self._refs.get, map(_REF, events))
        columns = [map(words.get, map(read, events), repeat(OTHER)) for read, words in self._columns]
        return zip(users, paths, refs, *columns, strict=True)

    def _find(self, codec: Codec, event: Any, key: Key) -> Outcome | None:
        """The outcome of an event whose key is not in the memo; None if it has to be read field by field."""
        user, path, ref, *rest = key
        if user is None:
            user = self._user_number(codec, bytes(event.user))
            if user is None:
                return None
        if ref is None:
            ref = self._ref_number(event.objectRef)
        if event.objectRef is self.struct.NO_REF:
            if path is None:
                path = self._path_number(event.requestURI)
            if path == _NAMES_A_RESOURCE:
                return None  # there is no objectRef: kube-apiserver never records such an event
        else:
            write = event.verb, event.requestURI, event.objectRef
            path = self._writes.get(write)
            if path is None:
                path = self._from_the_body(event)
                if path is not None:
                    self._writes.remember(write, path, len(event.requestURI))
        key = (user, path, ref, *rest)
        outcome = self._memo.get(key)
        if outcome is None:
            if len(self._memo) * _OVERHEAD > self._memo_size:
                self._memo.clear()
            decoded = self._users[codec].decode(bytes(event.user))
            outcome = self._evaluate(event_of_struct(event, decoded))
            if self._memo_size:
                self._memo[key] = outcome
        return outcome

    def _user_number(self, codec: Codec, raw: bytes) -> int | None:
        """The number of a user's class; None if the user has to be read field by field."""
        users = self._users[codec]
        try:
            user = users.decode(raw)
        except DECODE_ERRORS:
            return None
        vocabulary = self._evaluator.vocabulary
        name, groups = user["username"], user["groups"]
        known = vocabulary.numbers(fields.USERNAME).get(name, OTHER)
        found = vocabulary.class_of_texts(fields.GROUPS, groups)
        number = self._number((not name and not groups, known, found))
        users.table.remember(raw, number, len(raw))
        return number

    def _ref_number(self, ref: Any) -> int:
        """The number of an objectRef's class."""
        values = [read(ref) for read, _ in self._ref_columns]
        found = [words.get(value, OTHER) for value, (_, words) in zip(values, self._ref_columns, strict=True)]
        number = self._number((ref is self.struct.NO_REF, *found))
        self._refs.remember(ref, number, sum(map(len, values)))
        return number

    def _path_number(self, uri: str) -> int:
        """The number of a URL's class; _NAMES_A_RESOURCE if the URL names a resource."""
        path = request_path(uri)
        number = _NAMES_A_RESOURCE
        if target_of(path) is None:
            number = self._number(self._evaluator.vocabulary.class_of_text(fields.REQUEST_URI, path))
        self._paths.remember(uri, number, len(uri))
        return number

    def _number(self, known: Hashable) -> int:
        """The number of a class of users, paths or objects."""
        return self._numbers.setdefault(known, len(self._numbers))

    def _from_the_body(self, event: Any) -> int | None:
        """A number that says whether the body gave the object its namespace, its name, both or none.

        None if the request has no body, or if that makes no difference to the policy.
        """
        ref = event.objectRef
        if event.verb not in WRITES:
            return None
        vocabulary = self._evaluator.vocabulary
        namespaces, names = vocabulary.numbers(fields.NAMESPACE), vocabulary.numbers(fields.NAME)
        namespace, name = (ref.namespace if namespaces else ""), (ref.name if names else "")
        empty = namespaces.get("", OTHER), names.get("", OTHER)
        if (namespaces.get(namespace, OTHER), names.get(name, OTHER)) == empty:
            return None
        subresource = ref.subresource if names else ""
        recorded = ObjectRef(ref.apiGroup, ref.resource, subresource, namespace, name)
        seen = before_the_body(event.verb, request_path(event.requestURI), recorded)
        return _FROM_THE_BODY - (seen[0] != namespace) - 2 * (seen[1] != name)

    def _evaluate(self, event: Mapping[str, Any]) -> Outcome:
        try:
            decision = self._evaluator.evaluate(event)
        except Exception as error:
            raise EvaluationError(repr(error)) from error
        recorded = _LEVELS.get(fields.text(event.get(fields.LEVEL.path))) if self._reduce else None
        outcome = self._outcomes.get((decision, recorded))
        if outcome is None:
            tally = self._counters.tally(decision, self._evaluator.policy)
            outcome = Outcome(decision, tally, recorded=recorded, reduce=self._reduce)
            self._outcomes[decision, recorded] = outcome
        return outcome


_USER = attrgetter("user")
_URI = attrgetter("requestURI")
_REF = attrgetter("objectRef")


class _Table:
    """A table of values and their numbers, bounded in size.

    Args:
        max_size: bytes.

    Attributes:
        get: returns the number of a value; None if it is not known.
    """

    def __init__(self, max_size: int) -> None:
        self._numbers: dict[Any, int] = {}
        self._size = 0
        self._max_size = max_size
        self.get = self._numbers.get

    def remember(self, value: Hashable, number: int, size: int) -> None:
        """Remember the number of a value of so many bytes. A table that is full is emptied first."""
        if size > _LARGEST_KEY or not self._max_size:
            return
        if self._size > self._max_size:
            self._numbers.clear()
            self._size = 0
        self._numbers[value] = number
        self._size += size + _OVERHEAD


class _Users:
    """Decodes users in one encoding, and remembers the numbers of their classes."""

    def __init__(self, codec: Codec, memo_size: int, max_groups: int) -> None:
        self.table = _Table(memo_size)
        self._max_groups = max_groups
        self._decode = codec.struct_decoder(user_struct())

    def decode(self, raw: bytes) -> dict[str, Any]:
        """Decode a user. Raises DECODE_ERRORS if it is not a user as kube-apiserver writes it."""
        # A group takes a byte at least.
        if len(raw) > self._max_groups:
            raise ValueError("too large to be decoded at once")
        user = self._decode(raw)
        return {"username": user.username, "groups": user.groups}
