"""What a running filter tells of itself, whichever filter it is: for metrics and for health checks."""

from __future__ import annotations

from typing import Protocol


class Running(Protocol):
    """A running filter. Any thread may ask it."""

    @property
    def last_read(self) -> float:
        """When input came last, in seconds since the epoch; 0: none came yet."""

    @property
    def blocked_for(self) -> float:
        """For how many seconds the output that waits longest has been waiting to be taken."""

    def trouble(self) -> str | None:
        """What keeps it from working at all, the answer of ``/healthz``; None: nothing."""

    def unready(self) -> str | None:
        """What keeps it from deciding on records, the answer of ``/readyz``; None: nothing."""
