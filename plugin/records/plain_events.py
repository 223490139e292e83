"""The short way for what nearly all records are: the bare event of one request.

A batch of records goes through it in a few calls into C: a typed decode of just the fields that the
policy reads, and a look into the memo of decisions already made. What does not fit is left to the
long way in ``record_filter``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import Raw

from filter_engine import PolicyEvaluator

from ..encoding.codec import DECODE_ERRORS, JSON, Buffer, Codec, read_members
from ..encoding.log_entry import marker
from .outcome import Outcome

# Bytes of a memo's entry: at most, and what its objects take on top.
MEMO_ENTRY_SIZE = 4096
_OVERHEAD = 400
USER_MEMBERS = ("username", "groups")


class PlainEvents:
    """Decides on bare events in one encoding, alone or as the body of Fluent Bit's log entries.

    Args:
        codec: the encoding.
        evaluator: the policy.
        evaluate: gives the outcome for a decoded event.
        memo_size: bytes in which outcomes are remembered.
    """

    def __init__(
        self,
        codec: Codec,
        evaluator: PolicyEvaluator,
        evaluate: Callable[[Mapping[str, Any]], Outcome],
        memo_size: int,
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
        self._max_memo_size = memo_size

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
                    with suppress(*DECODE_ERRORS):
                        found[index] = self.outcome(events[index])
        return found

    def _decode_body(self, record: Buffer) -> Any:
        entry = self._decode_entry(record)
        if marker(entry.head) is not None:
            raise ValueError("not a log entry")
        return entry.body

    def _decode_plain(self, decode: Callable[[Buffer], Any], record: Buffer) -> Any:
        try:
            return decode(record)
        except DECODE_ERRORS:
            return self._not_plain

    def outcome(self, event: Any) -> Outcome:
        """The outcome for one decoded event. Raises DECODE_ERRORS where its user can't be read."""
        if self._memo_size > self._max_memo_size:
            self._forget()
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
        """The number of a class of users or paths."""
        number = self._numbers.get(known)
        if number is None:
            number = self._numbers[known] = len(self._numbers)
            self._memo_size += _OVERHEAD
        return number

    def _decode_user(self, user: bytes) -> Any:
        return read_members(self._codec, user, USER_MEMBERS) if user else None

    def _may_remember(self, size: int) -> bool:
        """Whether the memo takes something of a size in bytes; if so, count it."""
        if size > MEMO_ENTRY_SIZE or not self._max_memo_size:
            return False
        self._memo_size += size + _OVERHEAD
        return True

    def _forget(self) -> None:
        """Empty the memo: all of it, for its keys hold the numbers."""
        for table in (self._users, self._paths, self._numbers, self._memo):
            table.clear()
        self._memo_size = 0


# Of these words no new string is made for each event. One with another word is not plain.
_Verb = Literal[
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy",
    "head", "post", "put", "options", "connect", "trace",
]  # fmt: skip
_Stage = Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
_USER = attrgetter("user")
_URI = attrgetter("requestURI")


def _event_struct(fields: Collection[str]) -> Any:
    """A Struct of an audit event with the fields that a policy reads, such as ``objectRef.name``.

    Without the others, decoding is faster and events that differ in nothing that matters are equal.
    ``auditID`` and ``verb`` are always there, for they make a map an event.
    """
    # In the order in which kube-apiserver writes them: that is where the decoder looks first.
    names = ("resource", "namespace", "name", "apiGroup", "subresource")
    ref = _struct("objectRef", [(name, str, "") for name in names if f"objectRef.{name}" in fields])
    status = _struct("responseStatus", [("code", int | None, None)])
    members = [
        ("level", str, "") if "level" in fields else None,
        ("auditID", str),
        ("stage", _Stage, "") if "stage" in fields else None,
        ("requestURI", str, ""),
        ("verb", _Verb),
        ("user", Raw, Raw()),
        ("objectRef", ref | None, None),
        ("responseStatus", status | None, None) if "responseStatus.code" in fields else None,
    ]
    return _struct("Event", [member for member in members if member is not None])


def _entry_struct(event: type) -> Any:
    members = [("head", Raw), ("body", event)]
    return _struct("Entry", members, array_like=True, forbid_unknown_fields=True)


def _struct(name: str, members: list[Any], **options: Any) -> Any:
    return msgspec.defstruct(name, members, frozen=True, gc=False, kw_only=True, **options)
