"""The two encodings of a record, MessagePack and JSON, each one level at a time.

A value that nobody has to look into stays encoded, as a :class:`msgspec.Raw`, and is
written back as such: float widths, big integers, ext types and invalid UTF-8 survive. No record is ever
decoded whole, so that no value takes more memory than a small multiple of its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, Protocol

import msgspec
from msgpack import Unpacker
from msgspec import UNSET, Raw, UnsetType

from .msgpack_format import ARRAYS, BINARIES, HEADERS, MAPS, STRINGS, map_header
from .nesting import has_more_items

Kind = Literal["map", "array", "string", "other"]
Buffer = bytes | memoryview | Raw

# A map with more members is not taken apart: each costs up to a hundred times its bytes.
MAX_MEMBERS = 100_000
# Bytes. Of a larger value no copy is made to count its commas.
_LARGE = 1 << 22
# The errors that reading one level of broken or hostile bytes may raise: wrong syntax or UTF-8, values that
# can't be the key of a map, more nesting than the interpreter's stack allows.
DECODE_ERRORS = (msgspec.DecodeError, ValueError, TypeError, RecursionError)


class TooManyItemsError(Exception):
    """A list has more elements than may be taken apart. It is not one of DECODE_ERRORS."""


class BinaryKey(str):
    """The key of a map that was sent as MessagePack bin."""

    __slots__ = ()


class OtherKey(str):
    """A key that is not a name: not a string, or not UTF-8. It never equals a key that is a name.

    Such keys are not decoded: Python's hashes of numbers are not secret, and a map whose keys are numbers
    chosen by an attacker would take quadratic time.
    """

    __slots__ = ()

    def __new__(cls, encoded: bytes) -> OtherKey:
        # A name never has a lone surrogate: UTF-8 can't encode one.
        return super().__new__(cls, "\ud800" + encoded.decode("latin-1"))

    @property
    def encoded(self) -> bytes:
        """The key's encoded bytes."""
        return self[1:].encode("latin-1")


class Codec(Protocol):
    """Reads and writes one level of an encoded value. Reading raises one of DECODE_ERRORS."""

    def kind(self, raw: Buffer) -> Kind:
        """The kind of a value, by its first byte."""

    def members(self, raw: Buffer) -> dict[str, Raw]:
        """A map's values by key, in order. A key that is there twice has its last value.

        Raises TooManyItemsError if there are more than :data:`MAX_MEMBERS`.
        """

    def some_members(self, raw: Buffer, names: tuple[str, ...]) -> dict[str, Raw]:
        """A map's values by key, of some keys only: all others are skipped."""

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        """An array's values. Raises TooManyItemsError if there are more than ``at_most``."""

    def string(self, raw: Buffer) -> bytes | memoryview:
        """A string's bytes. They are a view of the value if it holds them unescaped."""

    def text(self, raw: Buffer) -> str:
        """A string; invalid UTF-8 becomes surrogate escapes."""

    def integer(self, raw: Buffer) -> int | None:
        """An integer; None for anything else."""

    def encode(self, value: Any) -> bytes:
        """Encode maps, arrays and plain values. A Raw is inserted as it is."""

    def extended(self, raw: Buffer, more: dict[str, Raw]) -> bytes:
        """A map with more members behind its own. These keep their bytes."""

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        """Encode a string, of the same type as another encoded string."""

    def struct_decoder(self, struct: type) -> Callable[[Any], Any]:
        """A function that decodes just the fields of a msgspec Struct and skips the rest."""

    def may_contain(self, raw: Buffer, name: str) -> bool:
        """Whether a value may contain a name, as a key or as text. False is certain, True is not."""


class _Finder:
    """Finds members of maps by their names, and builds nothing of the others.

    Args:
        decoder: makes a decoder of a type.
    """

    def __init__(self, decoder: Callable[[Any], Any]) -> None:
        self._decoder = decoder
        self._decoders: dict[tuple[str, ...], Callable[[Any], Any]] = {}

    def find(self, raw: Buffer, names: tuple[str, ...]) -> dict[str, Raw]:
        """Values by name. Raises DECODE_ERRORS."""
        decode = self._decoders.get(names)
        if decode is None:
            attributes = [f"member_{index}" for index in range(len(names))]
            struct = msgspec.defstruct(
                "Members",
                [(attribute, Raw | UnsetType, UNSET) for attribute in attributes],
                rename=dict(zip(attributes, names, strict=True)),
                gc=False,
            )
            decode = self._decoders[names] = self._decoder(struct).decode
        found = msgspec.structs.astuple(decode(raw))
        return {name: value for name, value in zip(names, found, strict=True) if value is not UNSET}


class MsgpackCodec:
    """MessagePack. Keys may be of any type, strings of type str or bin."""

    def __init__(self) -> None:
        self._members = msgspec.msgpack.Decoder(dict[str, Raw])
        self._finder = _Finder(msgspec.msgpack.Decoder)
        self._members_by_bin = msgspec.msgpack.Decoder(dict[bytes, Raw])
        self._elements = msgspec.msgpack.Decoder(list[Raw])
        self._integer = msgspec.msgpack.Decoder(int)
        self._encoder = msgspec.msgpack.Encoder()

    def kind(self, raw: Buffer) -> Kind:
        first = memoryview(raw)[0]
        if first in MAPS:
            return "map"
        if first in ARRAYS:
            return "array"
        return "string" if first in STRINGS else "other"

    def members(self, raw: Buffer) -> dict[str, Raw]:
        _check_size(memoryview(raw), 0xDE, MAX_MEMBERS)
        with suppress(*DECODE_ERRORS):
            return self._members.decode(raw)
        try:
            by_bin = self._members_by_bin.decode(raw)
        except DECODE_ERRORS:
            return self._walk(raw)
        return {BinaryKey(key, "utf-8", "surrogateescape"): value for key, value in by_bin.items()}

    def some_members(self, raw: Buffer, names: tuple[str, ...]) -> dict[str, Raw]:
        try:
            return self._finder.find(raw, names)
        except DECODE_ERRORS:  # perhaps for a key that is no text
            members = self.members(raw)
            return {name: members[name] for name in names if name in members}

    def _walk(self, raw: Buffer) -> dict[str, Raw]:
        """The members of a map whose keys are of several types."""
        data = bytes(memoryview(raw))
        unpacker = Unpacker(max_buffer_size=0, read_size=max(len(data), 1))
        unpacker.feed(data)
        keys: list[str] = []
        members: list[tuple[bytes, Raw]] = []
        for _ in range(unpacker.read_map_header()):
            start = unpacker.tell()
            unpacker.skip()
            middle = unpacker.tell()
            unpacker.skip()
            keys.append(self._key(data[start:middle]))
            members.append((data[start:middle], Raw(data[middle : unpacker.tell()])))
        # If a key is there as text and as binary, the text counts.
        texts = {key for key in keys if type(key) is str}
        return {
            OtherKey(encoded) if isinstance(key, BinaryKey) and key in texts else key: value
            for key, (encoded, value) in zip(keys, members, strict=True)
        }

    def _key(self, encoded: bytes) -> str:
        if self.kind(encoded) != "string":
            return OtherKey(encoded)
        text = bytes(self.string(encoded))
        if encoded[0] in BINARIES:
            return BinaryKey(text, "utf-8", "surrogateescape")
        try:
            return text.decode()
        except UnicodeDecodeError:
            return OtherKey(encoded)

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        _check_size(memoryview(raw), 0xDC, at_most)
        return self._elements.decode(raw)

    def string(self, raw: Buffer) -> memoryview:
        view = memoryview(raw)
        return view[_STRING_HEADERS.get(view[0], 1) :]

    def text(self, raw: Buffer) -> str:
        return bytes(self.string(raw)).decode("utf-8", "surrogateescape")

    def integer(self, raw: Buffer) -> int | None:
        try:
            return self._integer.decode(raw)
        except msgspec.ValidationError:
            return None

    def encode(self, value: Any) -> bytes:
        if isinstance(value, dict) and not set(map(type, value)) <= {str}:
            pieces = [map_header(len(value))]
            for key, member in value.items():
                pieces += (
                    self._encode_key(key),
                    bytes(member) if isinstance(member, Raw) else self.encode(member),
                )
            return b"".join(pieces)
        return self._encoder.encode(value)

    def _encode_key(self, key: str) -> bytes:
        if isinstance(key, OtherKey):
            return key.encoded
        data = key.encode("utf-8", "surrogateescape")
        return self._encoder.encode(data if isinstance(key, BinaryKey) else key)

    def extended(self, raw: Buffer, more: dict[str, Raw]) -> bytes:
        view = memoryview(raw)
        length_size, _, _ = HEADERS[view[0]]
        size = int.from_bytes(view[1 : 1 + length_size], "big") if length_size else view[0] & 0x0F
        pieces = [map_header(size + len(more)), bytes(view[1 + length_size :])]
        for key, member in more.items():
            pieces += (self._encode_key(key), bytes(member))
        return b"".join(pieces)

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        if memoryview(like)[0] in BINARIES:
            return self._encoder.encode(text)
        size = len(text)
        if size < 32:
            return bytes([0xA0 | size]) + text
        if size < 1 << 8:
            return b"\xd9" + size.to_bytes(1, "big") + text
        return (
            b"\xda" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xdb" + size.to_bytes(4, "big")
        ) + text

    def struct_decoder(self, struct: type) -> Callable[[Any], Any]:
        return msgspec.msgpack.Decoder(struct).decode

    def may_contain(self, raw: Buffer, name: str) -> bool:
        return name.encode() in bytes(memoryview(raw))


# Size of the header of str 8, 16, 32 and bin 8, 16, 32; that of fixstr is 1.
_STRING_HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5, 0xC4: 2, 0xC5: 3, 0xC6: 5}


class JSONCodec:
    """JSON (RFC 8259). ``NaN``, ``Infinity`` and lone surrogates are not JSON, and can't be read."""

    def __init__(self) -> None:
        self._members = msgspec.json.Decoder(dict[str, Raw])
        self._elements = msgspec.json.Decoder(list[Raw])
        self._finder = _Finder(msgspec.json.Decoder)
        self._string = msgspec.json.Decoder(str)
        self._integer = msgspec.json.Decoder(int)
        self._encoder = msgspec.json.Encoder()

    def kind(self, raw: Buffer) -> Kind:
        return _JSON_KINDS.get(bytes(memoryview(raw)[:1]), "other")

    def members(self, raw: Buffer) -> dict[str, Raw]:
        _check_items(raw, MAX_MEMBERS)
        return self._members.decode(raw)

    def some_members(self, raw: Buffer, names: tuple[str, ...]) -> dict[str, Raw]:
        return self._finder.find(raw, names)

    def elements(self, raw: Buffer, at_most: int) -> list[Raw]:
        _check_items(raw, at_most)
        return self._elements.decode(raw)

    def string(self, raw: Buffer) -> bytes:
        return self._string.decode(raw).encode()

    def text(self, raw: Buffer) -> str:
        try:
            return self._string.decode(raw)
        except ValueError:  # perhaps because it is not UTF-8
            decoded = json.loads(bytes(memoryview(raw)).decode("utf-8", "surrogateescape"))
            return decoded if isinstance(decoded, str) else ""

    def integer(self, raw: Buffer) -> int | None:
        try:
            return self._integer.decode(raw)
        except msgspec.ValidationError:
            return None

    def encode(self, value: Any) -> bytes:
        return self._encoder.encode(value)

    def extended(self, raw: Buffer, more: dict[str, Raw]) -> bytes:
        own, others = bytes(memoryview(raw))[1:-1], self._encoder.encode(more)[1:-1]
        return b"".join((b"{", own, b"," if own.strip() and others else b"", others, b"}"))

    def encode_string(self, text: bytes, like: Buffer) -> bytes:
        return self._encoder.encode(text.decode())

    def struct_decoder(self, struct: type) -> Callable[[Any], Any]:
        return msgspec.json.Decoder(struct).decode

    def may_contain(self, raw: Buffer, name: str) -> bool:
        data = bytes(memoryview(raw))
        # Each letter of a name may be written as an escape.
        return name.encode() in data or b"\\u" in data


_JSON_KINDS: dict[bytes, Kind] = {b"{": "map", b"[": "array", b'"': "string"}

MSGPACK = MsgpackCodec()
JSON = JSONCodec()


def _check_size(value: memoryview, header: int, at_most: int) -> None:
    """Raise TooManyItemsError if a MessagePack array or map has too many items, by its header.

    Args:
        value: the array or map.
        header: the first byte of an array or map whose size has 16 bits. The next number is the first byte
            of one whose size has 32 bits.
        at_most: the number of items that is allowed.
    """
    size = value[0] & 0x0F
    if value[0] >= header:
        size = int.from_bytes(value[1 : 3 if value[0] == header else 5], "big")
    if size > at_most:
        raise TooManyItemsError(f"more than {at_most} items")


def _check_items(raw: Buffer, at_most: int) -> None:
    """Raise TooManyItemsError if a JSON array or object has more items than ``at_most``."""
    view = memoryview(raw)
    # An item and its comma are two bytes at least, and few commas are soon counted.
    if len(view) <= 2 * at_most or (len(view) < _LARGE and bytes(view).count(b",") < at_most):
        return
    if has_more_items(view, at_most):
        raise TooManyItemsError(f"more than {at_most} items")
