"""The two encodings of a record, each one level at a time.

A value that nothing has to look into stays the bytes that came, a :class:`msgspec.Raw`, and is
written back as such: float widths, big integers, ext types and invalid UTF-8 survive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw

from .nesting import has_more_items

Kind = Literal["map", "array", "string", "other"]

# What reading one level of broken or hostile bytes may raise: wrong syntax or UTF-8, values that
# can't be the key of a map, more nesting than the interpreter's stack allows.
DECODE_ERRORS = (msgspec.DecodeError, ValueError, TypeError, RecursionError)


class Codec(Protocol):
    """Reads and writes one level of an encoded value. Reading raises one of DECODE_ERRORS."""

    def kind(self, raw: Buffer) -> Kind:
        """What a value is, by its first byte."""

    def entries(self, raw: Buffer) -> dict[Any, Raw]:
        """A map's values by key; a key that is there twice has its last value."""

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        """An array's values. One of more is not taken apart, but a ValueError."""

    def string(self, raw: Buffer) -> bytes:
        """A string's bytes."""

    def value(self, raw: Buffer) -> Any:
        """A value decoded whole; invalid UTF-8 becomes surrogate escapes."""

    def encode(self, value: Any) -> bytes:
        """Write maps, arrays and plain values; Raw goes in as it is."""

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        """Write a string of the same type as another one."""

    def fields_decoder(self, fields: type) -> Callable[[Buffer], Any]:
        """A function that decodes just the fields of a msgspec Struct and skips the rest."""


Buffer = bytes | memoryview | Raw


class MsgpackCodec:
    """MessagePack. Keys may be of any type, strings of type str or bin."""

    def __init__(self) -> None:
        self._entries = msgspec.msgpack.Decoder(dict[object, Raw])
        self._elements = msgspec.msgpack.Decoder(list[Raw])
        self._encoder = msgspec.msgpack.Encoder()

    def kind(self, raw: Buffer) -> Kind:
        first = memoryview(raw)[0]
        if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
            return "map"
        if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            return "array"
        return "string" if 0xA0 <= first <= 0xBF or first in _STRING_HEADERS else "other"

    def entries(self, raw: Buffer) -> dict[Any, Raw]:
        return self._entries.decode(raw)

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        view = memoryview(raw)
        size = 3 if view[0] == 0xDC else 5
        if (view[0] & 0x0F if view[0] <= 0x9F else int.from_bytes(view[1:size], "big")) > at_most:
            raise _too_many(at_most)
        return self._elements.decode(raw)

    def string(self, raw: Buffer) -> bytes:
        return bytes(self.string_view(raw))

    def string_view(self, raw: Buffer) -> memoryview:
        """A string's bytes, where they are."""
        view = memoryview(raw)
        return view[_STRING_HEADERS.get(view[0], 1) :]

    def value(self, raw: Buffer) -> Any:
        import msgpack  # noqa: PLC0415 - msgspec, faster, refuses invalid UTF-8

        return msgpack.unpackb(memoryview(raw), strict_map_key=False, unicode_errors="surrogateescape")

    def encode(self, value: Any) -> bytes:
        return self._encoder.encode(value)

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        if memoryview(like)[0] in (0xC4, 0xC5, 0xC6):
            return self._encoder.encode(text)
        size = len(text)
        if size < 32:
            return bytes([0xA0 | size]) + text
        if size < 1 << 8:
            return b"\xd9" + size.to_bytes(1, "big") + text
        return (
            b"\xda" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xdb" + size.to_bytes(4, "big")
        ) + text

    def fields_decoder(self, fields: type) -> Callable[[Buffer], Any]:
        return msgspec.msgpack.Decoder(fields).decode


# Size of the header of str 8, 16, 32 and bin 8, 16, 32; that of fixstr is 1.
_STRING_HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5, 0xC4: 2, 0xC5: 3, 0xC6: 5}


class JSONCodec:
    """JSON (RFC 8259); reading whole values also takes NaN and lone surrogates, which some writers emit."""

    def __init__(self) -> None:
        self._entries = msgspec.json.Decoder(dict[str, Raw])
        self._elements = msgspec.json.Decoder(list[Raw])
        self._string = msgspec.json.Decoder(str)
        self._encoder = msgspec.json.Encoder()

    def kind(self, raw: Buffer) -> Kind:
        return _JSON_KINDS.get(bytes(memoryview(raw)[:1]), "other")

    def entries(self, raw: Buffer) -> dict[Any, Raw]:
        return self._entries.decode(raw)

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        text = bytes(memoryview(raw))
        # Few commas are soon counted; of many, most separate something else than these elements.
        if text.count(b",") >= at_most and has_more_items(text, at_most):
            raise _too_many(at_most)
        return self._elements.decode(raw)

    def string(self, raw: Buffer) -> bytes:
        return self._string.decode(raw).encode()

    def value(self, raw: Buffer) -> Any:
        return json.loads(bytes(memoryview(raw)).decode("utf-8", "surrogateescape"))

    def encode(self, value: Any) -> bytes:
        return self._encoder.encode(value)

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        return self._encoder.encode(text.decode())

    def fields_decoder(self, fields: type) -> Callable[[Buffer], Any]:
        return msgspec.json.Decoder(fields).decode


_JSON_KINDS: dict[bytes, Kind] = {b"{": "map", b"[": "array", b'"': "string"}

MSGPACK = MsgpackCodec()
JSON = JSONCodec()


def _too_many(at_most: int) -> ValueError:
    return ValueError(f"more than {at_most} elements")


def read_members(codec: Codec, raw: Buffer, names: Collection[str]) -> Any:
    """A value: of a map just some members, all others unread; anything else whole.

    Raises:
        DECODE_ERRORS: one of these can't be read.
    """
    if codec.kind(raw) != "map":
        return codec.value(raw)
    members = {
        key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key: value
        for key, value in codec.entries(raw).items()
    }
    return {name: codec.value(members[name]) for name in names if name in members}
