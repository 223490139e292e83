"""What comes in the place of a redacted value."""

from __future__ import annotations

import hashlib
import hmac
from operator import is_
from typing import Any, Final
from urllib.parse import unquote_plus

from filter_engine.model import Redaction
from filter_engine.redaction.values import Values, plain

# Needs no escapes in JSON, in a URI or in a JSON pointer.
MASK = "REDACTED"
# Hexadecimal digits of a hash that are kept: with 64 bits, two values of one log hardly ever share a hash.
DIGITS = 16
HASH_PREFIX = "hmac-sha256:"


class Removed:
    """Stands for a value that is left out."""


REMOVED: Final = Removed()


class Replacement:
    """What comes in the place of redacted values.

    Args:
        redaction: the method.
        key: the key of hashes.

    Attributes:
        removes: whether values are left out.
        masks: whether all values get the same text, MASK.
    """

    def __init__(self, redaction: Redaction, key: bytes = b"") -> None:
        self.removes = redaction.method == "remove"
        self.masks = redaction.method == "mask"
        self._hash = hmac.new(key, digestmod=hashlib.sha256) if redaction.method == "hash" else None

    def text(self, values: Values, value: Any) -> str:
        """The text in the place of a string, number or boolean."""
        return MASK if self._hash is None else self._hashed(values.plain(value))

    def text_of_parameter(self, value: str) -> str:
        """The text in the place of a value in the query of a URI."""
        return MASK if self._hash is None else self._hashed(plain(unquote_plus(value)))

    def _hashed(self, data: bytes) -> str:
        assert self._hash is not None
        each = self._hash.copy()
        each.update(data)
        return HASH_PREFIX + each.hexdigest()[:DIGITS]


def replace_value(values: Values, value: Any, replacement: Replacement) -> Any:
    """What comes in the place of a value: the value itself if it is the same, a new one, or REMOVED.

    In a map or a list, each value is replaced and all keys stay, so that databases that expect a map still
    find one. A null has nothing to hide.
    """
    kind = values.kind(value)
    if kind == "null":
        return value
    if replacement.removes:
        return REMOVED
    if kind == "map":
        members = values.members(value)
        changed = {key: replace_value(values, each, replacement) for key, each in members.items()}
        return value if all(map(is_, changed.values(), members.values())) else changed
    if kind == "array":
        elements = values.elements(value)
        replaced = [replace_value(values, each, replacement) for each in elements]
        return value if all(map(is_, replaced, elements)) else replaced
    new = values.string(replacement.text(values, value), value)
    return value if new == value else new
