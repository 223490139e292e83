"""The short way for what nearly all records are: the bare event of one request.

A batch of records goes through it in a few calls into C: a typed decode of just the fields that the
policy reads, and a look into the memo of decisions already made. What does not fit is left to the
long way in :mod:`plugin.record_filter`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw

from filter_engine import Decision, PolicyEvaluator
from plugin.codec import DECODE_ERRORS, JSON, Buffer, Codec, with_text_keys
from plugin.envelope import DROP, KEEP

# Bounds of the memo in bytes: of all of it, and of one entry, to which its objects' own size is added.
MEMO_SIZE = 16 << 20
MEMO_ENTRY_SIZE = 4096
_OVERHEAD = 400


class Outcome:
    """A decision, and how many events it was made for.

    Attributes:
        fate: KEEP or DROP.
        at_once: the fate where it is all there is to an event; None where the event's bytes have to
            be looked at, because it may have to be lowered.
    """

    __slots__ = ("at_once", "decision", "events", "fate")

    def __init__(self, decision: Decision, *, may_reduce: bool) -> None:
        self.decision = decision
        self.fate = KEEP if decision.keep else DROP
        self.at_once = None if may_reduce else self.fate
        self.events = 0


class PlainEvents:
    """Decides on bare events in one encoding, alone or as the body of Fluent Bit's log entries.

    Args:
        codec: the encoding.
        evaluator: the policy.
        evaluate: gives the outcome for a decoded event.
    """

    def __init__(
        self, codec: Codec, evaluator: PolicyEvaluator, evaluate: Callable[[Mapping[str, Any]], Outcome]
    ) -> None:
        self._codec = codec
        self._evaluator = evaluator
        self._evaluate = evaluate
        fields = evaluator.event_fields
        event = _event_struct(fields)
        self.decode = codec.fields_decoder(event)
        self._decode_entry = codec.fields_decoder(_entry_struct(event))
        others = [name for name in ("stage", "level", "responseStatus") if name in event.__struct_fields__]
        self._rest_of_key = attrgetter("verb", "objectRef", *others)
        self._plain_fields = [name for name in event.__struct_fields__ if name not in ("auditID", "user")]
        # Takes the place of a record that is none. Its reference equals no other, so no key is its key.
        self._not_plain = event(auditID="", verb="", requestURI="", objectRef=object())
        # Users and paths, as numbers of classes that no rule tells apart; then decisions.
        self._users: dict[bytes, int] = {}
        self._paths: dict[str, int] = {}
        self._numbers: dict[Hashable, int] = {}
        self._memo: dict[Any, Outcome] = {}
        self._memo_size = 0

    def outcomes(self, records: Sequence[Buffer], *, as_entries: bool = False) -> list[Outcome | None]:
        """The outcome for each record; None where it is not a plain event.

        Args:
            records: the bytes of one event each.
            as_entries: they are ``[time, event]``, not bare events.
        """
        decode = self._decode_body if as_entries else self.decode
        try:
            events = list(map(decode, records))
        except DECODE_ERRORS:
            events = [self._decode_plain(decode, record) for record in records]
        users = map(self._users.get, map(bytes, map(_USER, events)))
        paths = map(self._paths.get, map(_URI, events))
        keys = zip(users, paths, map(self._rest_of_key, events), strict=True)
        found: list[Outcome | None] = list(map(self._memo.get, keys))
        if None in found:
            for index, outcome in enumerate(found):
                if outcome is None and events[index] is not self._not_plain:
                    found[index] = self.outcome(events[index])
        return found

    def _decode_body(self, record: Buffer) -> Any:
        return self._decode_entry(record).body

    def _decode_plain(self, decode: Callable[[Buffer], Any], record: Buffer) -> Any:
        try:
            return decode(record)
        except DECODE_ERRORS:
            return self._not_plain

    def outcome(self, event: Any) -> Outcome:
        """The outcome for one decoded event."""
        user, uri = bytes(event.user), event.requestURI
        user_number, path_number = self._users.get(user), self._paths.get(uri)
        if user_number is None:
            user_number = self._number(self._evaluator.user_class(self._decode_user(user)))
            if self._may_remember(len(user)):
                self._users[user] = user_number
        # The path of a request for a resource plays no part, and each is another.
        if path_number is None and event.objectRef is None:
            path_number = self._number(self._evaluator.path_class(uri))
            if self._may_remember(len(uri)):
                self._paths[uri] = path_number
        key = (user_number, path_number, self._rest_of_key(event))
        outcome = self._memo.get(key)
        if outcome is None:
            fields = {name: msgspec.to_builtins(getattr(event, name)) for name in self._plain_fields}
            outcome = self._evaluate({**fields, "user": self._decode_user(user)})
            if self._may_remember(len(JSON.encode(key))):
                self._memo[key] = outcome
        return outcome

    def _number(self, known: Hashable) -> int:
        """The number of a class of users or paths. Never forgotten, for keys of the memo hold it."""
        return self._numbers.setdefault(known, len(self._numbers))

    def _decode_user(self, user: bytes) -> Any:
        """A decoded ``user``; None where it is missing or can't be read."""
        try:
            return with_text_keys(self._codec.value(user)) if user else None
        except DECODE_ERRORS:
            return None

    def _may_remember(self, size: int) -> bool:
        """Make room for something of a size in bytes, and say whether it may take it."""
        if size > MEMO_ENTRY_SIZE:
            return False
        self._memo_size += size + _OVERHEAD
        if self._memo_size > MEMO_SIZE:
            self._users.clear()
            self._paths.clear()
            self._memo.clear()
            self._memo_size = size + _OVERHEAD
        return True


_USER = attrgetter("user")
_URI = attrgetter("requestURI")


def _event_struct(fields: Collection[str]) -> Any:
    """A Struct of an audit event with the fields that a policy reads, such as ``objectRef.name``.

    Without the others, decoding is faster and events that differ in nothing that matters are equal.
    ``auditID`` and ``verb`` are always there, for they make a map an event.
    """
    names = ("apiGroup", "resource", "subresource", "namespace", "name")
    ref = _struct("objectRef", [(name, str, "") for name in names if f"objectRef.{name}" in fields])
    members: list[Any] = [
        ("auditID", str),
        ("verb", str),
        ("objectRef", ref | None, None),
        ("user", Raw, Raw()),
        ("requestURI", str, ""),
    ]
    members += [(name, str, "") for name in ("stage", "level") if name in fields]
    if "responseStatus.code" in fields:
        status = _struct("responseStatus", [("code", int | None, None)])
        members.append(("responseStatus", status | None, None))
    return _struct("Event", members)


def _entry_struct(event: type) -> Any:
    """Fluent Bit's ``[time, map]`` or ``[[time, metadata], map]``."""
    time = int | float | msgspec.msgpack.Ext
    members = [("head", time | tuple[time, Raw]), ("body", event)]
    return _struct("Entry", members, array_like=True, forbid_unknown_fields=True)


def _struct(name: str, members: list[Any], **options: Any) -> Any:
    return msgspec.defstruct(name, members, frozen=True, gc=False, **options)
