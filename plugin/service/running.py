"""What a running filter tells about itself, for metrics and health checks; exec and forward have it."""

from __future__ import annotations

from typing import Protocol


class Running(Protocol):
    """A running filter. Any thread may ask it."""

    @property
    def last_read(self) -> float:
        """When input last came, in seconds since the epoch; 0 before the first input."""

    @property
    def blocked_for(self) -> float:
        """For how many seconds the oldest output that is not taken has been waiting."""

    def trouble(self) -> str | None:
        """The fault that keeps the filter from working at all, for ``/healthz``; None if there is none."""

    def unready(self) -> str | None:
        """The reason why the filter can't decide on records, for ``/readyz``; None if there is none."""
