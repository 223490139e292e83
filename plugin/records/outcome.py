"""What a decision means for an event, and what becomes of it."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from filter_engine import Decision, Level
from filter_engine.actions import Actions

from ..encoding.codec import Codec
from .counters import Tally
from .spliced_redaction import Splicer


class Fate(enum.Enum):
    """What becomes of a value. If it is to be replaced, its new bytes stand in place of a Fate."""

    KEEP = enum.auto()
    DROP = enum.auto()
    UNDECIDED = enum.auto()


KEEP: Final = Fate.KEEP
DROP: Final = Fate.DROP
UNDECIDED: Final = Fate.UNDECIDED


class Tallies(NamedTuple):
    """What counts the events of an outcome.

    Attributes:
        events: counts the events.
        left_out: counts the events that are not in the rule's sample; None if it has none.
    """

    events: Tally
    left_out: Tally | None = None


class Outcome:
    """A decision, as this filter carries it out.

    Args:
        decision: what the policy says.
        actions: what is done with events that it keeps.
        tallies: count the events.
        recorded: the level at which the events were recorded; None if it is not known.
        kind: the kind of what the requests were for, if events are redacted; see :meth:`Redactor.kind_of`.

    Attributes:
        decision: the argument.
        actions: the argument.
        tallies: the argument.
        recorded: the argument.
        kind: the argument.
        tally: counts the events.
        left_out: counts the events that are not in the sample; None if there is none.
        fate: KEEP or DROP.
        at_once: the fate; None if the event's bytes have to be looked at before.
        changes_level: whether each event has to be reduced to the decision's level.
        changes_event: whether each event has to be looked into, and mostly written anew.
        looks_at_event: whether an event may have to be written anew: each, or those with managed fields.
        narrowed: outcomes of events in which only some fields may hold something to redact, by these fields.
        splicers: the short way of redaction by encoding; None if there is none.
    """

    __slots__ = (
        "actions", "at_once", "changes_event", "changes_level", "decision", "fate", "kind", "left_out",
        "looks_at_event", "narrowed", "recorded", "splicers", "tallies", "tally",
    )  # fmt: skip

    def __init__(
        self,
        decision: Decision,
        actions: Actions,
        tallies: Tallies,
        recorded: Level | None,
        kind: str | None = None,
    ) -> None:
        self.decision, self.actions, self.tallies = decision, actions, tallies
        self.recorded, self.kind = recorded, kind
        self.tally = tallies.events
        self.left_out = tallies.left_out if decision.keep else None
        self.fate = KEEP if decision.keep else DROP
        is_below = recorded is not None and recorded <= decision.level
        self.changes_level = actions.reduces and decision.level < Level.REQUEST_RESPONSE and not is_below
        removes_fields = actions.reduces and decision.omit_managed_fields
        changes = self.changes_level or actions.annotates or actions.redactor is not None
        self.changes_event = decision.keep and changes
        self.looks_at_event = decision.keep and (self.changes_event or removes_fields)
        self.at_once = None if self.looks_at_event or self.left_out is not None else self.fate
        self.narrowed: dict[tuple[str, ...], Outcome] = {}
        self.splicers: dict[Codec, Splicer | None] = {}
