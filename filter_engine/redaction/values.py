"""How redaction looks into values, whether they are decoded or still in an agent's encoding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from filter_engine import fields

Kind = Literal["map", "array", "string", "null", "other"]


class Values(Protocol):
    """One level of a value at a time. Reading a broken value may raise any error."""

    def kind(self, value: Any) -> Kind:
        """The kind of a value; ``other`` for a number, a boolean and whatever JSON does not have."""

    def members(self, value: Any) -> Mapping[str, Any]:
        """A map's values by key."""

    def elements(self, value: Any) -> Sequence[Any]:
        """A list's values."""

    def text(self, value: Any) -> str:
        """A string."""

    def may_contain(self, value: Any, text: str) -> bool:
        """Whether a text may be in a value, as a key or in a string. False is certain."""

    def plain(self, value: Any) -> bytes:
        """The text of a string, number or boolean, the same in all encodings: what is hashed."""

    def string(self, text: str, like: Any) -> Any:
        """A new string, of the type of the string in whose place it comes, if it was one."""


_USUAL_KINDS: dict[type, Kind] = {
    dict: "map", list: "array", str: "string", bytes: "string", type(None): "null", int: "other",
    float: "other", bool: "other",
}  # fmt: skip


class Decoded:
    """Values as Python objects."""

    def kind(self, value: Any) -> Kind:
        kind = _USUAL_KINDS.get(type(value))
        if kind is not None:
            return kind
        if isinstance(value, Mapping):
            return "map"
        if isinstance(value, (list, tuple)):
            return "array"
        if isinstance(value, (str, bytes)):
            return "string"
        return "other"

    def members(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return value

    def elements(self, value: Sequence[Any]) -> Sequence[Any]:
        return value

    def text(self, value: Any) -> str:
        return fields.text(value)

    def may_contain(self, value: Any, text: str) -> bool:
        return True

    def plain(self, value: Any) -> bytes:
        return plain(value)

    def string(self, text: str, like: Any) -> Any:
        return text.encode("utf-8", "surrogateescape") if isinstance(like, bytes) else text


DECODED = Decoded()


def plain(value: Any) -> bytes:
    """The text of a decoded string, number or boolean."""
    if isinstance(value, bytes):
        return value
    if type(value) is int:
        return b"%d" % value
    if not isinstance(value, str):
        return json.dumps(value).encode() if isinstance(value, (bool, int, float)) else repr(value).encode()
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate
        return value.encode("utf-8", "surrogatepass")
