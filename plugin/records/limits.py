"""What bounds the filter's memory and time, whatever the input is."""

from __future__ import annotations

from dataclasses import dataclass

# More levels than these msgpack's reader does not take.
MAX_DEPTH = 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of one stream; a record beyond one of them goes on undecided.

    Attributes:
        depth: levels of maps and arrays in a record, at most MAX_DEPTH.
        list_items: elements of a list of events, or of a list in an event that is to be reduced.
        groups: groups of a user.
        memo_size: bytes in which decisions are remembered; 0: none is.
    """

    depth: int = MAX_DEPTH
    list_items: int = 200_000
    groups: int = 10_000
    memo_size: int = 16 << 20


DEFAULT_LIMITS = Limits()
