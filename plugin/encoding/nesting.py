"""How deep a record is nested, and how many items a list has, without taking it apart."""

from __future__ import annotations

from collections.abc import Iterator

from .msgpack_format import CONTAINERS, HEADERS

_NO_OPENER = bytes(set(range(256)) - CONTAINERS)
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_NO_BRACKET = _NO_STRUCTURE + b","
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")
# Bytes of JSON text that are looked at together.
_PIECE = 1 << 16


def is_deeper(record: bytes | memoryview, depth: int, *, is_json: bool) -> bool:
    """Whether a record's maps and arrays are nested in more levels than ``depth``.

    For nearly every record it is enough to count the bytes that might open a level, which takes a
    microsecond for each kilobyte.

    Args:
        record: one MessagePack object, or JSON text.
        depth: the most levels that are allowed.
        is_json: whether the record is JSON text.
    """
    data = bytes(record)
    if is_json:
        return data.count(b"{") + data.count(b"[") > depth and _is_deeper_json(data, depth)
    return len(data.translate(None, _NO_OPENER)) > depth and _is_deeper_msgpack(data, depth)


def has_more_items(value: bytes | memoryview, items: int) -> bool:
    """Whether a JSON array or object has more items than ``items``."""
    level = commas = 0
    for piece in _structure(value, _NO_STRUCTURE):
        # Empty arrays and objects are removed, level by level: a loop over millions of them would be slow.
        for byte in piece.replace(b"[]", b"").replace(b"{}", b"").replace(b"[]", b"").replace(b"{}", b""):
            if byte in _OPENING:
                level += 1
            elif byte in _CLOSING:
                level -= 1
            elif level == 1:
                commas += 1
                if commas >= items:
                    return True
    return False


def _is_deeper_json(text: bytes, depth: int) -> bool:
    level = 0
    for piece in _structure(text, _NO_BRACKET):
        for byte in piece:
            if byte in _OPENING:
                level += 1
                if level > depth:
                    return True
            else:
                level -= 1
    return False


def _structure(text: bytes | memoryview, others: bytes) -> Iterator[bytes]:
    """JSON text without its strings and without some other bytes, piece by piece.

    A piece never begins in the middle of an escape. It is split at quotes: every other part is a string.
    """
    view = memoryview(text)
    at, is_in_string = 0, False
    while at < len(view):
        piece = bytes(view[at : at + _PIECE])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = bytes(view[at : at + len(piece) + 1])
        at += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        yield b"".join(parts[is_in_string::2]).translate(None, others)
        is_in_string ^= len(parts) % 2 == 0


def _is_deeper_msgpack(data: bytes, depth: int) -> bool:
    at, end = 0, len(data)
    left = [1]  # how many values each open level still has to come
    while at < end:
        size, payload, more = HEADERS[data[at]]
        if size:
            length = int.from_bytes(data[at + 1 : at + 1 + size], "big")
            payload, more = payload + length * (more == 0), length * more
        is_container = data[at] in CONTAINERS
        at += 1 + size + payload
        left[-1] -= 1
        if is_container:
            left.append(more)
            if len(left) - 1 > depth:
                return True
        while left and not left[-1]:
            left.pop()
    return False
