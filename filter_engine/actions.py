"""What is done with an event after a rule has matched it: the order of the steps, here and nowhere else.

    the rule that matches ─► level None, or the stage omitted? ─► drop
                                     │ no
                                     ▼
                     sample ─► not in the sample ─► drop
                                     │ in it: the rate becomes an annotation
                                     ▼
                     reduce to the rule's level ─► redact ─► remove managed fields ─► keep

Each step is one for each event: decisions are remembered, what comes after them is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from filter_engine import sampling
from filter_engine.evaluator import Decision
from filter_engine.fields import text
from filter_engine.model import Sample
from filter_engine.policy import Policy
from filter_engine.redaction.redactor import Redactor
from filter_engine.redaction.redactors import Redactors
from filter_engine.redaction.values import DECODED, Values
from filter_engine.reduction import lower_event, remove_managed_fields


class Changed(NamedTuple):
    """An event that goes on.

    Attributes:
        event: the event; the one that came if nothing had to change.
        redacted: whether something in it was redacted.
        redaction_failed: whether a part of it was left out because it could not be redacted.
    """

    event: Mapping[str, Any]
    redacted: bool = False
    redaction_failed: bool = False


@dataclass(frozen=True)
class Actions:
    """What is done with the events of one decision that keeps them.

    Attributes:
        decision: the decision.
        sample: which of the events go on; None for all.
        reduces: whether events are reduced to the decision's level, and lose their managed fields if the
            decision says so.
        redactor: redacts the events; None if nothing is redacted.
    """

    decision: Decision
    sample: Sample | None = None
    reduces: bool = False
    redactor: Redactor | None = None

    @property
    def annotates(self) -> bool:
        """Whether the rate of the sample is written into events."""
        return self.sample is not None and self.sample.annotate

    def keeps(self, audit_id: str) -> bool:
        """Whether an event with this auditID goes on."""
        return self.sample is None or sampling.keeps(audit_id, sampling.threshold(self.sample.rate))

    def apply(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What becomes of a decoded event: None if it is dropped, else the event that goes on.

        The event itself is not changed, and is returned if nothing has to change.
        """
        if not (self.decision.keep and self.keeps(text(event.get("auditID")))):
            return None
        return self.change(event).event

    def change(self, event: Mapping[str, Any], values: Values = DECODED) -> Changed:
        """Change an event that is in the sample.

        Args:
            event: the event. What steps other than the redaction look at is decoded.
            values: how the redaction looks into it.
        """
        if self.annotates and self.sample is not None:
            event = sampling.with_rate(event, self.sample.rate)
        if self.reduces:
            event = lower_event(event, self.decision.level)
        before, failed = event, False
        if self.redactor is not None:
            event, failed = self.redactor.redact(event, values)
        redacted = event is not before
        if self.reduces and self.decision.omit_managed_fields:
            event = remove_managed_fields(event)
        return Changed(event, redacted, failed)


class PolicyActions:
    """What a policy does with events, by decision.

    Args:
        policy: the policy.
        reduce: whether to reduce events to their decision's level if the policy says nothing of it.

    Raises:
        PolicyError: the key for hashes can't be read.

    Attributes:
        reduces: whether events are reduced.
        redactors: the redactors of the rules.
    """

    def __init__(self, policy: Policy, *, reduce: bool = False) -> None:
        self._policy = policy
        self.reduces = reduce if policy.reduce is None else policy.reduce
        self.redactors = Redactors(policy)

    def of(self, decision: Decision) -> Actions:
        """What is done with the events of a decision."""
        sample = None if decision.rule is None else self._policy.rules[decision.rule].sample
        redactor = self.redactors.of(decision.rule) if decision.keep else None
        return Actions(decision, sample, self.reduces, redactor)
