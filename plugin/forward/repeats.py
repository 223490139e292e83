"""Messages that came before: a client sends one again when it has not seen it acknowledged."""

from __future__ import annotations

# Identifiers that are remembered, and the size of one that is: real ones have 25 bytes.
_REMEMBERED = 4096
_LONGEST = 64
# Bytes of a message, at its beginning and at its end, by which it is known: times and identifiers of its
# first and last records are there.
_LOOKED_AT = 256


class Repeats:
    """Counts messages that came again. They are passed on again: which of them arrived, nobody knows.

    A chunk's identifier alone does not make a repeat: a client may count its chunks, and begin anew with
    each connection. Nor does the connection: agents send again through a new one. So the message has to be
    the same too. Not counted is what an agent has put together anew: Fluent Bit's has another identifier.

    Attributes:
        count: how many there were, of the last few thousand messages.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seen: dict[bytes, int] = {}

    def note(self, chunk: bytes, message: memoryview) -> None:
        """Take note of a message and its chunk's identifier."""
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
