"""Reads the fields of an event that a policy needs from its bytes. Made from ``filter_engine.fields``.

Nearly every event has these fields as kube-apiserver writes them. Then a typed decode in C takes just these
and skips the rest. If a field has another type, or a string is binary, the fields are read one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from filter_engine import fields
from filter_engine.fields import FIELDS, Field

from ..encoding.codec import Codec

# Beside the fields that a policy reads, these make a map an event.
IDENTITY = "auditID"
USER = "user"
OBJECT_REF = "objectRef"
# A user's fields are read apart from the rest: mostly, its bytes are those of a user that was seen before.
_OF_USER = (fields.USERNAME, fields.GROUPS)
_ALWAYS = (fields.VERB, fields.REQUEST_URI)
_TYPES: dict[str, Any] = {"text": (str, ""), "integer": (int | None, None)}


# All keys of an event that may have to be read.
NAMES = tuple(dict.fromkeys((IDENTITY, *(field.parent or field.name for field in FIELDS))))
_NAMES_IN = {
    parent: tuple(field.name for field in FIELDS if field.parent == parent)
    for parent in {field.parent for field in FIELDS}
}


def event_struct(read: Collection[Field]) -> Any:
    """A Struct of an audit event.

    Args:
        read: the fields that it has, beside those that make a map an event. The fewer fields it has, the
            faster is decoding.

    Returns:
        The Struct. Its ``user`` stays encoded. If an event has no ``objectRef``, its instance has
        ``Struct.NO_REF`` there.
    """
    objects: dict[str, list[Any]] = {OBJECT_REF: []}
    for field in FIELDS:
        if field.parent and field not in _OF_USER and field in read:
            objects.setdefault(field.parent, []).append((field.name, *_TYPES[field.type]))
    members: list[Any] = [(IDENTITY, str), (USER, Raw)]
    members += [
        (field.name, str) if field is fields.VERB else (field.name, *_TYPES[field.type])
        for field in FIELDS
        if not field.parent and (field in read or field in _ALWAYS)
    ]
    for name, own in objects.items():
        struct = _struct(name, own)
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
            decoded[name] = msgspec.structs.asdict(value)
    if event.objectRef is event.NO_REF:
        del decoded[OBJECT_REF]
    return {**decoded, USER: user}


def read_event(codec: Codec, members: Mapping[str, Raw], max_groups: int) -> dict[str, Any]:
    """The fields of an event that any rule may read, whatever their types; for an evaluator.

    Args:
        codec: the encoding.
        members: the map that may be an event.
        max_groups: elements that a list may have.

    Returns:
        The fields that the event has with a value of their type. A ``user`` or ``objectRef`` that is null is
        None.

    Raises:
        DECODE_ERRORS: the fields can't be read.
        TooManyItemsError: a list has more elements than ``max_groups``.
    """
    event: dict[str, Any] = {}
    identity = members.get(IDENTITY)
    if identity is not None and codec.kind(identity) == "string":
        event[IDENTITY] = codec.text(identity)
    objects: dict[str, Mapping[str, Raw]] = {"": members}
    for field in FIELDS:
        if field.parent not in objects:
            objects[field.parent] = _open_object(codec, members, field.parent, event)
        raw = objects[field.parent].get(field.name)
        value = None if raw is None else _value(codec, raw, field, max_groups)
        if value is not None:
            (event[field.parent] if field.parent else event)[field.name] = value
    return event


def _open_object(
    codec: Codec, members: Mapping[str, Raw], name: str, event: dict[str, Any]
) -> Mapping[str, Raw]:
    raw = members.get(name)
    if raw is None:
        return {}
    if codec.kind(raw) == "map":
        event[name] = {}
        return codec.some_members(raw, _NAMES_IN[name])
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
