"""Counts repeated messages: a client sends a message again if it has not seen it acknowledged."""

from __future__ import annotations

# How many identifiers are remembered, and the most bytes of one: agents' identifiers have 25 bytes.
_REMEMBERED = 4096
_LONGEST = 64
# Bytes at the beginning and at the end of a message by which it is recognised: the times and identifiers of
# its first and last records are there.
_LOOKED_AT = 256


class Repeats:
    """Counts messages that came before. They are sent on again: nobody knows which of them arrived.

    The same identifier of a chunk is not enough for a repeat: a client may number its chunks, and begin anew
    with each connection. The connection does not matter: agents repeat messages on a new one. So the message
    has to be the same too. Records that an agent has put into a new message are not recognised: Fluent Bit
    gives it another identifier.

    Attributes:
        count: how many messages repeated one of the last few thousand.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seen: dict[bytes, int] = {}

    def note(self, chunk: bytes, message: memoryview) -> None:
        """Remember a message and its chunk's identifier, and count it if it came before."""
        if len(chunk) > _LONGEST:
            return
        known_by = hash((len(message), bytes(message[:_LOOKED_AT]), bytes(message[-_LOOKED_AT:])))
        if self._seen.get(chunk) == known_by:
            self.count += 1
            return
        self._seen.pop(chunk, None)
        self._seen[chunk] = known_by
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
