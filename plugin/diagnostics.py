"""What the filter has to say, on stderr; stdout belongs to the agent."""

from __future__ import annotations

import contextlib
import os
import time

STDERR = 2
INTERVAL = 60.0


class Diagnostics:
    """Writes lines to stderr. A stderr that can't be written to is no reason to stop.

    Args:
        interval: seconds in which :meth:`rarely` speaks at most once of a thing.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._spoken: dict[str, float] = {}
        self._withheld: dict[str, int] = {}

    def say(self, message: str) -> None:
        """Write a message, each of its lines with the program's name."""
        lines = "".join(f"kube-audit-filter: {line}\n" for line in message.splitlines())
        with contextlib.suppress(OSError):
            os.write(STDERR, lines.encode("utf-8", "backslashreplace"))

    def rarely(self, thing: str, message: str) -> None:
        """Write a message unless one about the same thing was written a short while ago."""
        now = time.monotonic()
        if now - self._spoken.get(thing, -self._interval) < self._interval:
            self._withheld[thing] = self._withheld.get(thing, 0) + 1
            return
        self._spoken[thing] = now
        withheld = self._withheld.pop(thing, 0)
        self.say(message + (f" ({withheld} messages like this were withheld)" if withheld else ""))
