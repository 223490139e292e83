"""Chunks that came before: a client sends one again when it has not seen it acknowledged."""

from __future__ import annotations

# Identifiers that are remembered, and the size of one that is: real ones have 25 bytes.
_REMEMBERED = 4096
_LONGEST = 64


class Repeats:
    """Counts chunks that came again. They are passed on again: which of them arrived, nobody knows.

    Attributes:
        count: how many there were, of the last few thousand chunks.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seen: dict[bytes, None] = {}

    def note(self, chunk: bytes) -> None:
        """Take note of a chunk's identifier."""
        if len(chunk) > _LONGEST:
            return
        if chunk in self._seen:
            self.count += 1
            return
        self._seen[chunk] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
