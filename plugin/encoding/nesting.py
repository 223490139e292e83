"""How deep a record is nested, and how many items a list has, without taking it apart."""

from __future__ import annotations

import re

from .msgpack_format import HEADERS

# First bytes of maps and arrays; those that are no such byte.
_OPENERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_OTHERS = bytes(set(range(256)) - set(_OPENERS))
_STRING = re.compile(rb'"[^"]*"?')
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_NO_BRACKET = _NO_STRUCTURE + b","
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")


def is_deeper(record: bytes | memoryview, depth: int, *, is_json: bool) -> bool:
    """Whether a record's maps and arrays are nested in more levels.

    Nearly every record is settled by counting what might open a level, which takes a microsecond
    for each kilobyte.

    Args:
        record: one MessagePack object, or JSON text.
        depth: so many levels are not deeper.
        is_json: which of the two it is.
    """
    data = bytes(record)
    if is_json:
        return data.count(b"{") + data.count(b"[") > depth and _is_deeper_json(data, depth)
    return len(data.translate(None, _OTHERS)) > depth and _is_deeper_msgpack(data, depth)


def has_more_items(value: bytes, items: int) -> bool:
    """Whether JSON text that is an array or an object has more items."""
    level = commas = 0
    for byte in _structure(value).translate(None, _NO_STRUCTURE):
        if byte in _OPENING:
            level += 1
        elif byte in _CLOSING:
            level -= 1
        elif level == 1:
            commas += 1
            if commas >= items:
                return True
    return False


def _structure(text: bytes) -> bytes:
    """JSON text without its strings. A pattern that has to look for escaped quotes is slow."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _STRING.sub(b"", text)


def _is_deeper_json(text: bytes, depth: int) -> bool:
    level = 0
    for byte in _structure(text).translate(None, _NO_BRACKET):
        if byte in _OPENING:
            level += 1
            if level > depth:
                return True
        else:
            level -= 1
    return False


def _is_deeper_msgpack(data: bytes, depth: int) -> bool:
    at, end = 0, len(data)
    left = [1]  # how many values each open level still has to come
    while at < end:
        size, payload, more = HEADERS[data[at]]
        if size:
            length = int.from_bytes(data[at + 1 : at + 1 + size], "big")
            payload, more = payload + length * (more == 0), length * more
        is_container = data[at] in _OPENERS
        at += 1 + size + payload
        left[-1] -= 1
        if is_container:
            left.append(more)
            if len(left) - 1 > depth:
                return True
        while left and not left[-1]:
            left.pop()
    return False
