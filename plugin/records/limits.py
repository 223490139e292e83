"""What bounds the filter's memory and time, whatever the input is."""

from __future__ import annotations

from dataclasses import dataclass

# The reader of the package msgpack accepts no more levels than this.
MAX_DEPTH = 1024


@dataclass(frozen=True)
class Limits:
    """Bounds for one stream. A record beyond one of them goes on undecided.

    Attributes:
        depth: the most levels of maps and arrays in a record; MAX_DEPTH or less.
        list_items: the most elements of a list of events, or of a list in an event that is to be reduced.
        groups: the most groups of a user, and the most addresses of an event, if the policy looks at them.
        memo_size: bytes of memory for remembered decisions; with 0, none is remembered.
    """

    depth: int = MAX_DEPTH
    list_items: int = 200_000
    groups: int = 10_000
    memo_size: int = 16 << 20


DEFAULT_LIMITS = Limits()
