"""The language of ``--event-key``: where in a record the event is."""

from __future__ import annotations

import re
from typing import Final

# A step of an event path: a key, or EACH for every element of an array.
Step = str | None
EACH: Final = None

_SEGMENT = re.compile(r"((?:[^.\\\[\]]|\\.)*)((?:\[\])*)")


def parse_event_path(text: str) -> tuple[Step, ...]:
    """Read the path to an event, such as ``log`` or ``records[].properties.log``.

    Keys are separated by dots, ``[]`` stands for every element of an array, and a backslash before a dot
    or bracket makes it a part of the key.

    Raises:
        ValueError: the text is not such a path.
    """
    steps: list[Step] = []
    at = 0
    while True:
        match = _SEGMENT.match(text, at)
        assert match is not None  # the pattern matches the empty string
        key, arrays = match.groups()
        if not key and not (arrays and at == 0):
            raise ValueError(
                f"expected a key at character {at + 1} of {text!r}, as in records[].properties.log"
            )
        if key:
            steps.append(re.sub(r"\\(.)", r"\1", key))
        steps.extend([EACH] * (len(arrays) // 2))
        at = match.end()
        if at == len(text):
            return tuple(steps)
        if text[at] != ".":
            raise ValueError(
                f"unexpected {text[at]!r} at character {at + 1} of {text!r};"
                " in a key, dots, brackets and backslashes need a backslash before them"
            )
        at += 1


def describe_event_path(path: tuple[Step, ...]) -> str:
    """The text that :func:`parse_event_path` reads as this path."""
    text = ""
    for step in path:
        text += "[]" if step is EACH else ("." if text else "") + re.sub(r"([.\\\[\]])", r"\\\1", step)
    return text
