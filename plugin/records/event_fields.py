"""Reads the fields of an event that a policy needs from its bytes. Made from ``filter_engine.fields``.

Nearly every event has these fields as kube-apiserver writes them. Then a typed decode in C takes just these
and skips the rest. If a field has another type, or a string is binary, the fields are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from filter_engine import fields
from filter_engine.fields import FIELDS, MORE_FIELDS, Field

from ..encoding.codec import Codec

# Beside the fields that a policy reads, these make a map an event.
IDENTITY = "auditID"
USER = "user"
OBJECT_REF = "objectRef"
# A user's fields are read apart from the rest: mostly, its bytes are those of a user that was seen before.
_OF_USER = (fields.USERNAME, fields.GROUPS)
_ALWAYS = (fields.VERB, fields.REQUEST_URI)
_TYPES: dict[str, Any] = {"text": (str, ""), "texts": (tuple[str, ...], ()), "integer": (int | None, None)}

# All keys of an event that may have to be read.
_PLACES = (field.parent or field.name for field in (*FIELDS, *MORE_FIELDS))
NAMES = tuple(dict.fromkeys((IDENTITY, *_PLACES, "annotations")))


def all_fields(read: Collection[Field]) -> tuple[Field, ...]:
    """The fields that each policy may read, and others of those that this policy reads."""
    return (*FIELDS, *(field for field in MORE_FIELDS if field in read), *_annotations(read))


def _annotations(read: Collection[Field]) -> list[Field]:
    return sorted((field for field in read if field.parent == "annotations"), key=attrgetter("name"))


def attribute(field: Field) -> str:
    """The name of the attribute of a Struct that has a field's value."""
    name = field.name
    return name if name.isidentifier() else "x" + name.encode("utf-8", "surrogatepass").hex()


def value_of(field: Field) -> Callable[[Any], Any]:
    """A function that returns a field's value in a decoded event."""
    return attrgetter(f"{field.parent}.{attribute(field)}" if field.parent else field.name)


def event_struct(read: Collection[Field], raw: Sequence[str] = ()) -> Any:
    """A Struct of an audit event.

    Args:
        read: the fields that it has, beside those that make a map an event. The fewer fields it has, the
            faster is decoding.
        raw: members that stay encoded, or are UNSET, unless fields in them are read.

    Returns:
        The Struct. Its ``user`` stays encoded. If an event has no ``objectRef``, its instance has
        ``Struct.NO_REF`` there.
    """
    objects: dict[str, list[Field]] = {OBJECT_REF: []}
    members: list[Any] = [(IDENTITY, str), (USER, Raw)]
    for field in all_fields(read):
        if field in _OF_USER or not (field in read or field in _ALWAYS):
            continue
        if field.parent:
            objects.setdefault(field.parent, []).append(field)
        else:
            members.append((field.name, str) if field is fields.VERB else (field.name, *_TYPES[field.type]))
    members += ((name, Raw | UnsetType, UNSET) for name in raw if name not in objects)
    for name, own in objects.items():
        struct = _struct(
            name,
            [(attribute(field), *_TYPES[field.type]) for field in own],
            rename={attribute(field): field.name for field in own},
        )
        # Of a type of its own, for it equals no objectRef that is there.
        absent = _struct("Absent", [], bases=(struct,))()
        members.append((name, struct, absent))
        if name == OBJECT_REF:
            no_ref = absent
    return _struct("Event", members, namespace={"NO_REF": no_ref})


# Of these words no new string is made for each event.
_USUAL: dict[str, Any] = {
    fields.VERB.name: Literal[
        "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy",
        "head", "post", "put", "options", "connect", "trace",
    ],
    fields.STAGE.name: Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"],
}  # fmt: skip


def usual_struct(struct: Any) -> Any:
    """The Struct of an event, for verbs and stages that kube-apiserver knows: it decodes quicker."""
    members: list[Any] = []
    for field in msgspec.structs.fields(struct):
        type_ = _USUAL.get(field.name, field.type)
        members.append((field.name, type_) if field.required else (field.name, type_, field.default))
    return _struct("UsualEvent", members, namespace={"NO_REF": struct.NO_REF})


def entry_struct(body: type) -> Any:
    """A Struct of a log entry, ``[head, body]``."""
    return _struct("Entry", [("head", Raw), ("body", body)], array_like=True, forbid_unknown_fields=True)


def text_struct(key: str, instead_of: Collection[str]) -> Any:
    """A Struct of a record that has an event as JSON text under a key.

    Args:
        key: the key.
        instead_of: keys that would take precedence if the record had them.
    """
    others = [(name, Raw | UnsetType, UNSET) for name in instead_of]
    return _struct("Text", [("text", str), *others], rename={"text": key})


def user_struct() -> Any:
    """A Struct of a user."""
    return _struct("User", [("username", str, ""), ("groups", tuple[str, ...], ())])


def _struct(name: str, members: list[Any], **options: Any) -> Any:
    return msgspec.defstruct(name, members, frozen=True, gc=False, kw_only=True, **options)


def event_of_struct(event: Any, user: Any) -> dict[str, Any]:
    """A decoded event with the fields of a Struct, for an evaluator.

    Args:
        event: the Struct.
        user: its user, decoded: a mapping.
    """
    decoded: dict[str, Any] = msgspec.structs.asdict(event)
    for name, value in decoded.items():
        if isinstance(value, msgspec.Struct):
            values = msgspec.structs.astuple(value)
            decoded[name] = dict(zip(value.__struct_encode_fields__, values, strict=True))
    if event.objectRef is event.NO_REF:
        del decoded[OBJECT_REF]
    return {**decoded, USER: user}


class FieldReader:
    """Reads the fields of an event one by one, whatever their types; for an evaluator.

    Args:
        fields: the fields to read.
        max_groups: elements that a list may have.
    """

    def __init__(self, fields: Sequence[Field], max_groups: int) -> None:
        self._fields = fields
        self._max_groups = max_groups
        self._names_in = {
            parent: tuple(field.name for field in fields if field.parent == parent)
            for parent in {field.parent for field in fields}
        }

    def read(self, codec: Codec, members: Mapping[str, Raw]) -> dict[str, Any]:
        """Read the fields of an event.

        Args:
            codec: the encoding.
            members: the map that may be an event.

        Returns:
            The fields that the event has with a value of their type. A ``user`` or ``objectRef`` that is null
            is None.

        Raises:
            DECODE_ERRORS: the fields can't be read.
            TooManyItemsError: a list has more elements than ``max_groups``.
        """
        event: dict[str, Any] = {}
        identity = members.get(IDENTITY)
        if identity is not None and codec.kind(identity) == "string":
            event[IDENTITY] = codec.text(identity)
        objects: dict[str, Mapping[str, Raw]] = {"": members}
        for field in self._fields:
            if field.parent not in objects:
                objects[field.parent] = self._open_object(codec, members, field.parent, event)
            raw = objects[field.parent].get(field.name)
            value = None if raw is None else _value(codec, raw, field, self._max_groups)
            if value is not None:
                (event[field.parent] if field.parent else event)[field.name] = value
        return event

    def _open_object(
        self, codec: Codec, members: Mapping[str, Raw], name: str, event: dict[str, Any]
    ) -> Mapping[str, Raw]:
        raw = members.get(name)
        if raw is None:
            return {}
        if codec.kind(raw) == "map":
            event[name] = {}
            return codec.some_members(raw, self._names_in[name])
        # For a policy, a value that is not a map is no object. But an event whose user is null is an event.
        event[name] = None if bytes(memoryview(raw)) in (b"\xc0", b"null") else ()
        return {}


def _value(codec: Codec, raw: Raw, field: Field, max_items: int) -> Any:
    kind = codec.kind(raw)
    if field.type == "text":
        return codec.text(raw) if kind == "string" else None
    if field.type == "integer":
        return codec.integer(raw) if kind == "other" else None
    if kind != "array":
        return None
    elements = codec.elements(raw, max_items)
    return [codec.text(element) if codec.kind(element) == "string" else "" for element in elements]
