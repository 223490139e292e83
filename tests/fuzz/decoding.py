"""Framing and decoding with msgpack and json alone, more leniently than the filter's."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any

import msgpack

SURE_DEPTH = 100  # how deep what the filter must be able to read may be nested


@dataclass
class Record:
    """A record of the input: its bytes, the same with no ext types below 0, and how deep it is nested."""

    data: bytes
    plain: bytes
    depth: int = 0


def frame_msgpack(data: bytes) -> tuple[list[Record], bytes]:
    """The whole records of a stream, and what comes after them."""
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(data)
    plain = bytearray(data)
    records: list[Record] = []
    start = 0
    with contextlib.suppress(msgpack.OutOfData, msgpack.FormatError):
        while start < len(data):
            open_values, deepest = [1], 1
            while open_values:
                at = unpacker.tell()
                first = data[at] if at < len(data) else 0xC0
                open_values[-1] -= 1
                if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
                    open_values.append(2 * unpacker.read_map_header())
                elif 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
                    open_values.append(unpacker.read_array_header())
                else:
                    unpacker.skip()
                    if (type_at := at + _TYPE_OF_EXT.get(first, 0)) > at and data[type_at] > 0x7F:
                        plain[type_at] = 1
                deepest = max(deepest, len(open_values))
                while open_values and open_values[-1] == 0:
                    open_values.pop()
            end = unpacker.tell()
            records.append(Record(data[start:end], bytes(plain[start:end]), deepest - 1))
            start = end
    return records, data[start:]


# Where behind its first byte an ext has its type. Negative ones, as that of a timestamp, may be refused.
_TYPE_OF_EXT = {0xC7: 2, 0xC8: 3, 0xC9: 5, **dict.fromkeys(range(0xD4, 0xD9), 1)}


def frame_json(data: bytes) -> tuple[list[Record], bytes]:
    *lines, tail = data.split(b"\n")
    return [Record(text + b"\n", text) for text in lines], tail


class UnreadableError(Exception):
    """Not even a lenient decoder reads it."""


@dataclass(frozen=True)
class Text:
    """JSON text in a string: what is around it, and what it says."""

    before: bytes
    value: Any
    after: bytes


@dataclass
class Reader:
    """Decodes leniently. ``sure`` becomes False where a stricter reader may refuse."""

    sure: bool = True
    is_ambiguous: bool = False  # a key is there as str and as bin
    has_list: bool = False  # of events, each of which may be refused on its own

    def msgpack(self, data: bytes) -> Any:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            use_list=False,
            unicode_errors="surrogateescape",
            object_pairs_hook=self._map,
        )

    def json(self, data: bytes) -> Any:
        text = data.decode("utf-8", "surrogateescape")
        try:
            value = json.loads(
                text, parse_constant=self._unsure_constant, parse_int=self._int, parse_float=self._float
            )
        except (ValueError, RecursionError) as error:
            raise UnreadableError from error
        # A list without the word itself is not looked into.
        self.sure &= b"auditID" in data or b"\\u" not in data
        self.look_at(value, 0)
        return value

    def text(self, value: str | bytes) -> Text | None:
        """What a string holds if it is JSON text that may be looked into."""
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        match = re.fullmatch(rb"((?:\xef\xbb\xbf)?[ \t\r\n]*)([{\[].*?)([ \t\r\n]*)", data, re.DOTALL)
        return match and Text(match[1], self.json(match[2]), match[3])

    def _map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.is_ambiguous |= len({as_text(key) for key, _ in pairs if isinstance(key, (str, bytes))}) < len(
            {key for key, _ in pairs if isinstance(key, (str, bytes))}
        )
        self.sure &= all(isinstance(key, (str, bytes, int, float, type(None))) for key, _ in pairs)
        return {key if _is_hashable(key) else ("unhashable", repr(key)): value for key, value in pairs}

    def _unsure_constant(self, name: str) -> float:
        self.sure = False
        return float(name)

    def _int(self, digits: str) -> float | int:
        self.sure &= len(digits) < 300
        return int(digits) if len(digits) < 300 else 0.5

    def _float(self, digits: str) -> float:
        value = float(digits)
        self.sure &= abs(value) < 1e300
        return value

    def look_at(self, value: Any, depth: int) -> None:
        self.sure &= depth < SURE_DEPTH
        if isinstance(value, dict):
            for key, item in value.items():
                self.look_at(key, depth)
                self.look_at(item, depth + 1)
        elif is_array(value):
            for item in value:
                self.look_at(item, depth + 1)
        elif isinstance(value, str):  # a lone surrogate is no JSON, and invalid UTF-8 may be refused
            self.sure &= not any("\ud800" <= character <= "\udfff" for character in value)


def as_text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def is_array(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType)


def _is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
