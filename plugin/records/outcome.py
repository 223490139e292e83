"""What a decision means for an event, and what becomes of it."""

from __future__ import annotations

import enum
from typing import Final

from filter_engine import Decision, Level

from .counters import Tally


class Fate(enum.Enum):
    """What becomes of a value. If it is to be replaced, its new bytes stand in place of a Fate."""

    KEEP = enum.auto()
    DROP = enum.auto()
    UNDECIDED = enum.auto()


KEEP: Final = Fate.KEEP
DROP: Final = Fate.DROP
UNDECIDED: Final = Fate.UNDECIDED


class Outcome:
    """A decision, as this filter carries it out.

    Args:
        decision: what the policy says.
        tally: counts the events.
        recorded: the level at which the events were recorded; None if it is not known.
        reduce: whether kept events are to be reduced to the decision's level.

    Attributes:
        decision: the argument.
        tally: the argument.
        fate: KEEP or DROP.
        at_once: the fate; None if the event's bytes have to be looked at before.
        changes_level: whether events have to be reduced to the decision's level.
        may_reduce: whether an event's bytes have to be looked at, to reduce it to the level or to remove
            its managed fields.
    """

    __slots__ = ("at_once", "changes_level", "decision", "fate", "may_reduce", "tally")

    def __init__(self, decision: Decision, tally: Tally, *, recorded: Level | None, reduce: bool) -> None:
        self.decision = decision
        self.tally = tally
        self.fate = KEEP if decision.keep else DROP
        is_below = recorded is not None and recorded <= decision.level
        is_reduced = reduce and decision.keep
        self.changes_level = is_reduced and decision.level < Level.REQUEST_RESPONSE and not is_below
        self.may_reduce = self.changes_level or (is_reduced and decision.omit_managed_fields)
        self.at_once = None if self.may_reduce else self.fate
