"""JSON text in a line or in a string: where it starts and ends."""

from __future__ import annotations

_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_BLOCK = 256


def json_span(text: bytes | memoryview) -> tuple[int, int]:
    """Where JSON text starts and ends, without a byte order mark and space around it."""
    view = memoryview(text)
    start = len(_BOM) if bytes(view[: len(_BOM)]) == _BOM else 0
    while block := bytes(view[start : start + _BLOCK]):
        left = len(block.lstrip(_SPACE))
        start += len(block) - left
        if left:
            break
    end = len(view)
    while block := bytes(view[max(start, end - _BLOCK) : end]):
        left = len(block.rstrip(_SPACE))
        end -= len(block) - left
        if left:
            break
    return start, end
