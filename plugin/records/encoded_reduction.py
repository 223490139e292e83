"""Reducing an event in its encoded form: only the maps on the way to what is removed are written anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filter_engine import Decision, reduce_event

from ..encoding.codec import JSON, Buffer, Codec

# What of an event reduce_event looks into; all else stays encoded. None: a plain value.
_OBJECT: dict[str, Any] = {"metadata": {}}
_BODY: dict[str, Any] = {
    "kind": None,
    "metadata": {},
    "items": [_OBJECT],
    "rows": [{"object": _OBJECT}],
}
_EVENT: dict[str, Any] = {"level": None, "verb": None}
_EVENT_WITH_BODIES: dict[str, Any] = {**_EVENT, "requestObject": _BODY, "responseObject": _BODY}


def reduce_bytes(codec: Codec, raw: Buffer, decision: Decision, max_items: int) -> bytes | None:
    """:func:`filter_engine.reduce_event` on an encoded event.

    Args:
        codec: the event's encoding.
        raw: the event.
        decision: what it is to be reduced to.
        max_items: longer lists are not taken apart.

    Returns:
        The reduced event; None where nothing changes.

    Raises:
        DECODE_ERRORS: the event can't be taken apart.
    """
    has_managed_fields = b"managedFields" in bytes(memoryview(raw))
    shape = _EVENT_WITH_BODIES if decision.omit_managed_fields and has_managed_fields else _EVENT
    event = _open(codec, raw, shape, max_items)
    reduced = reduce_event(event, decision)
    if reduced == event:
        return None
    if isinstance(event.get("level"), bytes) and isinstance(reduced["level"], str):
        reduced["level"] = reduced["level"].encode()
    return codec.encode(reduced if codec is JSON else _with_keys_as_sent(reduced))


class _BinKey(str):
    """A key that was sent as msgpack bin."""

    __slots__ = ()


def _open(codec: Codec, raw: Buffer, shape: Any, max_items: int) -> Any:
    kind = codec.kind(raw)
    if shape is None:
        return codec.value(raw) if kind == "string" else raw
    if isinstance(shape, list):
        if kind != "array":
            return raw
        elements = codec.elements(raw, max_items)
        return [_open(codec, element, shape[0], max_items) for element in elements]
    if kind != "map":
        return raw
    opened: dict[Any, Any] = {}
    for key, value in codec.entries(raw).items():
        name = _BinKey(key, "utf-8", "surrogateescape") if isinstance(key, bytes) else key
        if name in opened:
            raise ValueError(f"the key {name!r} is there as text and as binary")
        opened[name] = _open(codec, value, shape[name], max_items) if name in shape else value
    return opened


def _with_keys_as_sent(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key.encode("utf-8", "surrogateescape") if isinstance(key, _BinKey) else key: _with_keys_as_sent(
                item
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_keys_as_sent(item) for item in value]
    return value
