"""A policy made ready to decide on the events of a stream, whatever their encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filter_engine import Decision, Level, PolicyEvaluator

from ..encoding.codec import JSON, MSGPACK, Codec
from .counters import Tallies
from .outcome import Outcome
from .plain_events import PlainEvents


class EvaluationError(Exception):
    """The evaluator raised, which it never should. Not one of DECODE_ERRORS, whatever was raised."""


class Decider:
    """Gives events their outcomes.

    Args:
        evaluator: the policy.
        tallies: where events are to be counted.
        reduce: reduce kept events to the level of their decision.
        memo_size: bytes in which outcomes are remembered, for each encoding.

    Attributes:
        plain: decides on bare events by their bytes, for each encoding.
    """

    def __init__(
        self,
        evaluator: PolicyEvaluator,
        tallies: Tallies,
        *,
        reduce: bool,
        memo_size: int,
    ) -> None:
        self._evaluator = evaluator
        self._tallies = tallies
        self._reduce = reduce
        self._outcomes: dict[Decision, Outcome] = {}
        self.plain: dict[Codec, PlainEvents] = {
            codec: PlainEvents(codec, evaluator, self.evaluate, memo_size) for codec in (MSGPACK, JSON)
        }

    def expect_events(self) -> None:
        """Make all tallies that the policy's rules may need. Call it where events are counted."""
        self._tallies.expect(self._evaluator.policy)

    def retire(self) -> None:
        """Give all memory back at once, not when cycles are next looked for. Don't use it again."""
        self.plain.clear()

    def evaluate(self, event: Mapping[str, Any]) -> Outcome:
        """The outcome for a decoded event.

        Raises:
            EvaluationError: the evaluator failed.
        """
        try:
            decision = self._evaluator.evaluate(event)
        except Exception as error:
            raise EvaluationError(repr(error)) from error
        outcome = self._outcomes.get(decision)
        if outcome is None:
            reduces = decision.level < Level.REQUEST_RESPONSE or decision.omit_managed_fields
            tally = self._tallies.of(decision, self._evaluator.policy)
            outcome = Outcome(decision, tally, may_reduce=self._reduce and decision.keep and reduces)
            self._outcomes[decision] = outcome
        return outcome
