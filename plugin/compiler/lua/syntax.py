"""Writes Lua: strings, tables and comments. Text of a policy gets into a script only through these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

WIDTH = 100


def quote(value: str) -> str:
    """A Lua string literal in printable ASCII, whatever the value is."""
    return '"' + "".join(map(_escape, value.encode("utf-8", "surrogatepass"))) + '"'


def _escape(byte: int) -> str:
    # Three digits, because a digit may follow.
    return chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03}"


def comment(value: str) -> str:
    """A value in a comment: on one line, and in ASCII."""
    return quote(value)[1:-1].replace("\\034", '"')


def boolean(value: bool) -> str:
    """A Lua boolean."""
    return "true" if value else "false"


def table(start: str, values: Iterable[str | int], *, end: str = "") -> list[str]:
    """A table that is a set of strings or numbers, with some text before and behind it."""
    keys = (quote(value) if isinstance(value, str) else str(value) for value in dict.fromkeys(values))
    entries = [f"[{key}] = true" for key in keys]
    if not entries:
        return [f"{start}{{}}{end}"]
    joined = f"{start}{{ {', '.join(entries)} }}{end}"
    if len(joined) <= WIDTH:
        return [joined]
    return [f"{start}{{", *(f"  {entry}," for entry in entries), f"}}{end}"]


def indented(lines: Iterable[str], levels: int = 1) -> Iterator[str]:
    """Lines, each some levels further to the right."""
    return ("  " * levels + line for line in lines)
