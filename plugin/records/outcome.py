"""What a decision means for an event, and what becomes of it."""

from __future__ import annotations

import enum
from typing import Final

from filter_engine import Decision

from .counters import Tally


class Fate(enum.Enum):
    """What becomes of a value. Where it is to be replaced, its new bytes stand in place of a Fate."""

    KEEP = enum.auto()
    DROP = enum.auto()
    NO_EVENT = enum.auto()


KEEP: Final = Fate.KEEP
DROP: Final = Fate.DROP
NO_EVENT: Final = Fate.NO_EVENT


class Outcome:
    """A decision, and what it means for an event.

    Attributes:
        fate: KEEP or DROP.
        at_once: the fate where it is all there is to an event; None where the event's bytes have to
            be looked at, because it may have to be reduced.
        tally: counts the events.
    """

    __slots__ = ("at_once", "decision", "fate", "tally")

    def __init__(self, decision: Decision, tally: Tally, *, may_reduce: bool) -> None:
        self.decision = decision
        self.tally = tally
        self.fate = KEEP if decision.keep else DROP
        self.at_once = None if may_reduce else self.fate
