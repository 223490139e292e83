"""Changes an event in its encoded form: only the maps around what is changed are written anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Raw

from filter_engine.actions import Actions
from filter_engine.redaction.redactor import FAILED, FAILURE_ANNOTATION, Redactor

from ..encoding.codec import DECODE_ERRORS, Buffer, Codec, TooManyItemsError
from .encoded_values import A_STRING, EncodedValues

# The parts of an event that reduce_event looks into, with None for a string. All other parts stay encoded.
_OBJECT: dict[str, Any] = {"metadata": {}}
_BODY: dict[str, Any] = {
    "kind": None,
    "metadata": {},
    "items": [_OBJECT],
    "rows": [{"object": _OBJECT}],
}
_EVENT: dict[str, Any] = {"level": None, "verb": None, "annotations": {}}
_EVENT_WITH_BODIES: dict[str, Any] = {**_EVENT, "requestObject": _BODY, "responseObject": _BODY}


class Written(NamedTuple):
    """An event that goes on.

    Attributes:
        event: its new bytes; None if nothing changed.
        redacted: whether something in it was redacted.
        redaction_failed: whether a part of it was left out because it could not be redacted.
    """

    event: bytes | None
    redacted: bool
    redaction_failed: bool


def change_bytes(codec: Codec, raw: Buffer, actions: Actions, values: EncodedValues) -> Written:
    """:meth:`filter_engine.actions.Actions.change` on an encoded event.

    Args:
        codec: the event's encoding.
        raw: the event.
        actions: what to do with it.
        values: how to look into values of this encoding.

    Raises:
        DECODE_ERRORS: the event can't be taken apart.
        TooManyItemsError: a list or map is too long to be taken apart.
    """
    removes_fields = actions.reduces and actions.decision.omit_managed_fields
    has_managed_fields = removes_fields and codec.may_contain(raw, "managedFields")
    shape = _EVENT if actions.reduces or actions.annotates else {}
    event = _open(codec, raw, _EVENT_WITH_BODIES if has_managed_fields else shape, values.max_items)
    changed, redacted, failed = actions.change(event, values)
    if changed is event or changed == event:
        return Written(None, redacted, failed)
    return Written(bytes(memoryview(_close(codec, changed, event))), redacted, failed)


# The fields of an event that are known to have no body in them.
_PLAIN_FIELDS = (
    "kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser",
    "sourceIPs", "userAgent", "objectRef", "responseStatus", "requestReceivedTimestamp", "stageTimestamp",
)  # fmt: skip


def without_what_is_redacted(codec: Codec, raw: Buffer, redactor: Redactor) -> bytes:
    """What is left of an event that can't be taken apart: the fields in which nothing is redacted."""
    names = tuple(name for name in _PLAIN_FIELDS if name not in redactor.names)
    try:
        members: dict[str, Any] = dict(codec.some_members(raw, names))
    except (*DECODE_ERRORS, TooManyItemsError):
        members = {}
    members["annotations"] = {FAILURE_ANNOTATION: FAILED}
    return codec.encode(members)


class _Text(str):
    """A string, with its encoded bytes."""

    encoded: Raw


def _open(codec: Codec, raw: Buffer, shape: Any, max_items: int) -> Any:
    kind = codec.kind(raw)
    if shape is None:
        if kind != "string":
            return raw
        text = _Text(codec.text(raw))
        text.encoded = Raw(raw) if not isinstance(raw, Raw) else raw
        return text
    if isinstance(shape, list):
        if kind != "array":
            return raw
        elements = codec.elements(raw, max_items)
        return [_open(codec, element, shape[0], max_items) for element in elements]
    if kind != "map":
        return raw
    return {
        key: _open(codec, value, shape[key], max_items) if key in shape else value
        for key, value in codec.members(raw).items()
    }


def _close(codec: Codec, value: Any, before: Any = None) -> Raw:
    """Encode a value that was opened and then changed, a new string as the one that was in its place."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, _Text):
        return value.encoded
    if isinstance(value, Mapping):
        old = before if isinstance(before, Mapping) else {}
        members = {
            key: member if isinstance(member, Raw) else _close(codec, member, old.get(key))
            for key, member in value.items()
        }
        return Raw(codec.encode(members))
    if isinstance(value, list):
        return Raw(codec.encode([_close(codec, element) for element in value]))
    return Raw(codec.encode_string(value.encode(), before.encoded if isinstance(before, _Text) else A_STRING))
