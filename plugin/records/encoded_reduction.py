"""Reduces an event in its encoded form: only the maps around what is removed are written anew."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from filter_engine import Decision, reduce_event

from ..encoding.codec import Buffer, Codec

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


def reduce_bytes(codec: Codec, raw: Buffer, decision: Decision, max_items: int) -> bytes | None:
    """:func:`filter_engine.reduce_event` on an encoded event.

    Args:
        codec: the event's encoding.
        raw: the event.
        decision: the decision to reduce it to.
        max_items: lists longer than this are not taken apart.

    Returns:
        The reduced event; None if nothing changes.

    Raises:
        DECODE_ERRORS: the event can't be taken apart.
        TooManyItemsError: a list or map is too long to be taken apart.
    """
    has_managed_fields = decision.omit_managed_fields and codec.may_contain(raw, "managedFields")
    event = _open(codec, raw, _EVENT_WITH_BODIES if has_managed_fields else _EVENT, max_items)
    reduced = reduce_event(event, decision)
    if reduced == event:
        return None
    if "level" in event and event["level"] is not reduced["level"]:
        reduced["level"] = codec.encode_string(reduced["level"].encode(), event["level"].encoded)
    return _close(codec, reduced)


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


def _close(codec: Codec, value: Any) -> bytes:
    """Encode a value that was opened and then reduced."""
    if isinstance(value, dict):
        return codec.encode({key: Raw(_close(codec, member)) for key, member in value.items()})
    if isinstance(value, list):
        return codec.encode([Raw(_close(codec, element)) for element in value])
    if isinstance(value, _Text):
        value = value.encoded
    return bytes(memoryview(value))
