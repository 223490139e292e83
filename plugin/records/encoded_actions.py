"""Changes an event in its encoded form: only the maps around what is changed are written anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from filter_engine.actions import Actions

from ..encoding.codec import Buffer, Codec

# The parts of an event that reduce_event looks into, with None for a string. All other parts stay encoded.
_OBJECT: dict[str, Any] = {"metadata": {}}
_BODY: dict[str, Any] = {
    "kind": None,
    "metadata": {},
    "items": [_OBJECT],
    "rows": [{"object": _OBJECT}],
}
# A string of MessagePack; JSON has one type only.
_A_STRING = b"\xa0"
_EVENT: dict[str, Any] = {"level": None, "verb": None, "annotations": {}}
_EVENT_WITH_BODIES: dict[str, Any] = {**_EVENT, "requestObject": _BODY, "responseObject": _BODY}


def change_bytes(codec: Codec, raw: Buffer, actions: Actions, max_items: int) -> bytes | None:
    """:meth:`filter_engine.actions.Actions.change` on an encoded event.

    Args:
        codec: the event's encoding.
        raw: the event.
        actions: what to do with it.
        max_items: lists longer than this are not taken apart.

    Returns:
        The event as it goes on; None if nothing changes.

    Raises:
        DECODE_ERRORS: the event can't be taken apart.
        TooManyItemsError: a list or map is too long to be taken apart.
    """
    removes_fields = actions.reduces and actions.decision.omit_managed_fields
    has_managed_fields = removes_fields and codec.may_contain(raw, "managedFields")
    event = _open(codec, raw, _EVENT_WITH_BODIES if has_managed_fields else _EVENT, max_items)
    changed = actions.change(event)
    if changed == event:
        return None
    return bytes(memoryview(_close(codec, changed, event)))


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
    return Raw(
        codec.encode_string(value.encode(), before.encoded if isinstance(before, _Text) else _A_STRING)
    )
