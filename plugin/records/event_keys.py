"""The class of an event: what of it a policy's rules can tell apart, as a tuple of numbers.

A batch of decoded events gets its keys with a few look-ups in tables for each event, and no Python code.
Where a table lacks a value, its part of the key is None, and :meth:`EventKeys.complete` works it out: it asks
the policy's vocabulary (``filter_engine.vocabulary``) for the value's class. Users, objects and URLs are
remembered in tables of bounded size by their bytes or values. How many keys there are depends on the policy
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any

from filter_engine import Level, fields
from filter_engine.fields import Field
from filter_engine.request import WRITES, ObjectRef, before_the_body, request_path, target_of
from filter_engine.vocabulary import OTHER, Vocabulary

from ..encoding.codec import DECODE_ERRORS, JSON, MSGPACK, Codec
from .event_fields import OBJECT_REF, attribute, user_struct, value_of
from .limits import Limits

CODECS: tuple[Codec, ...] = (MSGPACK, JSON)
# Levels at which an event may have been recorded. Any other text is ignored.
LEVELS = {level.value: level for level in Level}
# Bytes of Python objects that an entry of a table costs beside its key.
OVERHEAD = 400
# Bytes. Larger users and URLs are not remembered.
_LARGEST_KEY = 4096

# Numbers in place of that of a URL's class. _NAMES_A_RESOURCE: the URL names a resource, and needs no class.
# _FROM_THE_BODY, or one of the three numbers below it: the request has a body; see _from_the_body.
_NAMES_A_RESOURCE = -1
_FROM_THE_BODY = -2

# Numbers of classes; None where a number is not known yet, or not needed.
Key = tuple[Any, ...]


class EventKeys:
    """Finds the keys of decoded events.

    Args:
        vocabulary: what the policy's rules can tell apart.
        no_ref: what decoded events have as ``objectRef`` if the event has none.
        limits: bounds on groups and memory.
        by_level: whether events recorded at different levels have to have different keys.

    Attributes:
        table_size: bytes that each table may take, and one more table of the caller's.
    """

    def __init__(self, vocabulary: Vocabulary, no_ref: Any, limits: Limits, *, by_level: bool) -> None:
        self._vocabulary = vocabulary
        self._no_ref = no_ref
        words = _words(vocabulary, by_level=by_level)
        # The user's fields and the URL have classes of their own.
        apart = (fields.USERNAME, fields.GROUPS, fields.REQUEST_URI)
        found = [field for field in dict.fromkeys((*words, *vocabulary.fields)) if field not in apart]
        self._fields = [field for field in found if field.parent != OBJECT_REF]
        ref_fields = [field for field in found if field.parent == OBJECT_REF]
        self._read_ref = [attrgetter(attribute(field)) for field in ref_fields]
        self._ref_classes = list(map(self._classifier, ref_fields))
        self._class_of_username = self._classifier(fields.USERNAME)
        own = [field for field in self._fields if not vocabulary.has_words_only(field)]
        # Users in either encoding, lists of groups, objects, URLs, writes, and these fields; and the caller.
        self.table_size = limits.memo_size // (7 + len(own))
        self._users = {codec: _Users(codec, self.table_size, limits.groups) for codec in CODECS}
        self._groups, self._paths, self._refs = (_Table(self.table_size) for _ in range(3))
        self._writes = _Table(self.table_size)  # requests with a body whose URL had to be looked at
        self._tables = {field: _Table(self.table_size) for field in own}
        self._max_texts = limits.groups
        self._columns = [
            (value_of(field), self._tables[field].get, None)
            if field in self._tables
            else (value_of(field), words[field].get, OTHER)
            for field in self._fields
        ]
        self._numbers: dict[Hashable, int] = {}

    def keys(self, codec: Codec, events: Sequence[Any]) -> Iterator[Key]:
        """The keys of events, as far as they can be found without Python code for each event."""
        users = map(self._users[codec].table.get, map(bytes, map(_USER, events)))
        paths = map(self._paths.get, map(_URI, events))
        refs = map(self._refs.get, map(_REF, events))
        columns = [map(number, map(read, events), repeat(other)) for read, number, other in self._columns]
        return zip(users, paths, refs, *columns, strict=True)

    def complete(self, codec: Codec, event: Any, key: Key) -> Key | None:
        """An event's whole key; None if the event has to be read field by field."""
        user, path, ref, *rest = key
        if self._tables and not self._number_columns(event, rest):
            return None
        if user is None:
            user = self._user_number(codec, bytes(event.user))
            if user is None:
                return None
        if ref is None:
            ref = self._ref_number(event.objectRef)
        if event.objectRef is not self._no_ref:
            path = self._write_number(event)
        elif path is None:
            path = self._path_number(event.requestURI)
        if path == _NAMES_A_RESOURCE:
            return None  # there is no objectRef: kube-apiserver never records such an event
        return (user, path, ref, *rest)

    def user(self, codec: Codec, raw: bytes) -> dict[str, Any]:
        """Decode a user. Raises DECODE_ERRORS if it is not a user as kube-apiserver writes it."""
        return self._users[codec].decode(raw)

    def _user_number(self, codec: Codec, raw: bytes) -> int | None:
        """The number of a user's class; None if the user has to be read field by field."""
        try:
            user = self.user(codec, raw)
        except DECODE_ERRORS:
            return None
        name, groups = user["username"], user["groups"]
        # Users are many, and the lists of their groups few.
        in_groups = self._groups.get(groups)
        if in_groups is None:
            in_groups = self._number((fields.GROUPS, self._vocabulary.class_of(fields.GROUPS, groups)))
            self._groups.remember(groups, in_groups, sum(map(len, groups)))
        number = self._number((not name and not groups, self._class_of_username(name), in_groups))
        self._users[codec].table.remember(raw, number, len(raw))
        return number

    def _ref_number(self, ref: Any) -> int:
        """The number of an objectRef's class."""
        values = [read(ref) for read in self._read_ref]
        found = [class_of(value) for class_of, value in zip(self._ref_classes, values, strict=True)]
        number = self._number((ref is self._no_ref, *found))
        self._refs.remember(ref, number, sum(map(len, values)))
        return number

    def _classifier(self, field: Field) -> Callable[[Any], Hashable]:
        """A function that returns the class of a field's value."""
        if self._vocabulary.has_words_only(field):
            return self._vocabulary.numbers(field).get  # None for any other word
        return partial(self._vocabulary.class_of, field)

    def _path_number(self, uri: str) -> int:
        """The number of a URL's class; _NAMES_A_RESOURCE if the URL names a resource."""
        path = request_path(uri)
        number = _NAMES_A_RESOURCE
        if target_of(path) is None:
            found = self._vocabulary.class_of(fields.REQUEST_URI, path)
            number = self._number((fields.REQUEST_URI, found))
        self._paths.remember(uri, number, len(uri))
        return number

    def _number_columns(self, event: Any, numbers: list[int | None]) -> bool:
        """Fill in the numbers of values that were not seen before. Returns False if a list is too long."""
        for index, field in enumerate(self._fields):
            if numbers[index] is None:
                value = value_of(field)(event)
                if field.type == "texts" and len(value) > self._max_texts:
                    return False
                number = self._number((field, self._vocabulary.class_of(field, value)))
                numbers[index] = number
                size = len(value) if isinstance(value, str) else sum(map(len, value))
                self._tables[field].remember(value, number, size)
        return True

    def _number(self, known: Hashable) -> int:
        """The number of a class."""
        return self._numbers.setdefault(known, len(self._numbers))

    def _write_number(self, event: Any) -> int | None:
        """The number in place of a URL's for a request for a resource; see _from_the_body."""
        if event.verb not in WRITES:
            return None
        write = event.verb, event.requestURI, event.objectRef
        number = self._writes.get(write)
        if number is None:
            number = self._from_the_body(event)
            if number is not None:
                self._writes.remember(write, number, len(event.requestURI))
        return number

    def _from_the_body(self, event: Any) -> int | None:
        """A number that says whether the body gave the object its namespace, its name, both or none.

        None if that makes no difference to the policy.
        """
        ref = event.objectRef
        namespaces, names = self._vocabulary.reads(fields.NAMESPACE), self._vocabulary.reads(fields.NAME)
        namespace, name = (ref.namespace if namespaces else ""), (ref.name if names else "")
        if self._classes(namespace, name) == self._classes("", ""):
            return None
        subresource = ref.subresource if names else ""
        recorded = ObjectRef(ref.apiGroup, ref.resource, subresource, namespace, name)
        seen = before_the_body(event.verb, request_path(event.requestURI), recorded)
        return _FROM_THE_BODY - (seen[0] != namespace) - 2 * (seen[1] != name)

    def _classes(self, namespace: str, name: str) -> tuple[Hashable, Hashable]:
        class_of = self._vocabulary.class_of
        return class_of(fields.NAMESPACE, namespace), class_of(fields.NAME, name)


def _words(vocabulary: Vocabulary, *, by_level: bool) -> dict[Field, Mapping[Any, int]]:
    """The words that make a difference, with their numbers."""
    words: dict[Field, Mapping[Any, int]] = {
        field: numbers for field, numbers in vocabulary.words.items() if numbers
    }
    if by_level:
        words[fields.LEVEL] = {level: number for number, level in enumerate(LEVELS, 1)}
    if vocabulary.reads(fields.NAMESPACE) or vocabulary.reads(fields.NAME):
        # In a request with a body, and in no other, these may be the body's (_from_the_body).
        verbs = dict(words.get(fields.VERB, {}))
        for verb in sorted(WRITES):
            verbs.setdefault(verb, len(verbs) + 1)
        words[fields.VERB] = verbs
    return words


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
        self._size += size + OVERHEAD


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
