"""The paths of ``redact``: which values of an event they lead to.

A path has names with dots between them. ``*`` stands for any key of a map and any element of a list,
``[*]`` for the elements of a list only, ``["a name"]`` for a name with dots or brackets in it. In a name,
``*`` stands for any run of characters::

    requestObject.spec.containers[*].env[*].value
    annotations["patch.webhook.admission.k8s.io/*"]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from filter_engine.patterns import Pattern, parse_pattern

# Any key or element, and any element.
ANY: Final = "*"
ELEMENT: Final = "[*]"


@dataclass(frozen=True)
class Key:
    """A step into a map, by one name."""

    name: str


Step = Key | Pattern | Literal["*", "[*]"]
Path = tuple[Step, ...]

_STEP = re.compile(r'\.?\[\*\]|\.?\["((?:[^"\\]|\\.)*)"\]|\.?([^.\[\]"]+)', re.DOTALL)
# An event without these is no event, and nobody could say what was redacted.
_IDENTITY = ("kind", "apiVersion", "auditID", "level", "stage", "verb")
_FIELDS = (
    "requestURI", "user", "impersonatedUser", "authenticationMetadata", "sourceIPs", "userAgent", "objectRef",
    "responseStatus", "requestObject", "responseObject", "requestReceivedTimestamp", "stageTimestamp",
    "annotations",
)  # fmt: skip


def parse_path(text: str) -> Path:
    """Read a path.

    Raises:
        ValueError: the text is not a path into an audit event; the message says what was expected.
    """
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or (not steps and match[0].startswith((".", "["))):
            raise ValueError(
                f"at character {at + 1}: expected names with dots between them, * or [*], such as"
                ' requestObject.data.*, or ["name"] for a name with dots in it'
            )
        steps.append(_step(match))
        at = match.end()
        if steps[-1] != ELEMENT and text[at : at + 1] not in ("", ".", "["):
            raise ValueError(f"at character {at + 1}: expected . or [ behind a name")
    first = steps[0] if steps else None
    if isinstance(first, Key) and first.name in _IDENTITY:
        raise ValueError(f"{first.name} says what the event is, and can't be redacted")
    if not isinstance(first, Key) or first.name not in _FIELDS:
        raise ValueError(f"expected the name of a field of audit events first: one of {', '.join(_FIELDS)}")
    return tuple(steps)


def _step(match: re.Match[str]) -> Step:
    quoted, name = match[1], match[2]
    if quoted is not None:
        # In quotes, a backslash stands before a quotation mark; those before * and \ are the pattern's own.
        name = quoted.replace('\\"', '"')
    elif name is None:
        return ELEMENT
    elif name == ANY:
        return ANY
    found = parse_pattern(name)
    return found if isinstance(found, Pattern) else Key(found)
