"""Redaction looks into an encoded event through this: maps and lists are opened, all else stays encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from filter_engine.redaction.values import DECODED, Kind, plain

from ..encoding.codec import MSGPACK, Codec

# A string of MessagePack; JSON has one type only.
A_STRING = b"\xa0"


class EncodedValues:
    """Values in an agent's encoding; see :class:`filter_engine.redaction.values.Values`.

    A part of an event may already be opened or new, and then is a Python object.

    Args:
        codec: the encoding.
        max_items: lists longer than this are not taken apart.

    Attributes:
        max_items: the argument.
    """

    def __init__(self, codec: Codec, max_items: int) -> None:
        self._codec = codec
        self.max_items = max_items
        self._null = Raw(codec.encode(None))
        self._decode = msgspec.msgpack.decode if codec is MSGPACK else msgspec.json.decode

    def kind(self, value: Any) -> Kind:
        if not isinstance(value, Raw):
            return DECODED.kind(value)
        kind = self._codec.kind(value)
        return "null" if kind == "other" and value == self._null else kind

    def members(self, value: Any) -> Mapping[str, Any]:
        return self._codec.members(value) if isinstance(value, Raw) else DECODED.members(value)

    def elements(self, value: Any) -> Sequence[Any]:
        if not isinstance(value, Raw):
            return DECODED.elements(value)
        return self._codec.elements(value, self.max_items)

    def text(self, value: Any) -> str:
        return self._codec.text(value) if isinstance(value, Raw) else DECODED.text(value)

    def may_contain(self, value: Any, text: str) -> bool:
        return self._codec.may_contain(value, text) if isinstance(value, Raw) else True

    def plain(self, value: Any) -> bytes:
        if not isinstance(value, Raw):
            return plain(value)
        if self._codec.kind(value) == "string":
            return bytes(self._codec.string(value))
        return plain(self._decode(value))

    def string(self, text: str, like: Any) -> Any:
        is_string = isinstance(like, Raw) and self._codec.kind(like) == "string"
        encoded = text.encode("utf-8", "surrogateescape")
        return Raw(self._codec.encode_string(encoded, like if is_string else A_STRING))
