"""What a decision means for an event, and what becomes of it."""

from __future__ import annotations

import enum
from typing import Final

from filter_engine import Decision, Level
from filter_engine.actions import Actions

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
        actions: what is done with events that it keeps.
        tally: counts the events.
        left_out: counts the events that are not in the rule's sample; None if it has none.
        recorded: the level at which the events were recorded; None if it is not known.

    Attributes:
        actions: the argument.
        tally: the argument.
        left_out: the argument.
        fate: KEEP or DROP.
        at_once: the fate; None if the event's bytes have to be looked at before.
        changes_level: whether each event has to be reduced to the decision's level.
        changes_event: whether each event has to be written anew.
        looks_at_event: whether an event may have to be written anew: each, or those with managed fields.
    """

    __slots__ = (
        "actions",
        "at_once",
        "changes_event",
        "changes_level",
        "fate",
        "left_out",
        "looks_at_event",
        "tally",
    )

    def __init__(
        self,
        decision: Decision,
        actions: Actions,
        tally: Tally,
        *,
        left_out: Tally | None,
        recorded: Level | None,
    ) -> None:
        self.actions = actions
        self.tally = tally
        self.fate = KEEP if decision.keep else DROP
        self.left_out = left_out if decision.keep else None
        is_below = recorded is not None and recorded <= decision.level
        self.changes_level = actions.reduces and decision.level < Level.REQUEST_RESPONSE and not is_below
        removes_fields = actions.reduces and decision.omit_managed_fields
        self.changes_event = decision.keep and (self.changes_level or actions.annotates)
        self.looks_at_event = decision.keep and (self.changes_event or removes_fields)
        self.at_once = None if self.looks_at_event or self.left_out is not None else self.fate
