"""Questions about a policy: which of these requests does it not record?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from filter_engine.analysis.outcomes import level_of, numbers_of_rules
from filter_engine.analysis.pieces import Budget, Piece
from filter_engine.analysis.request_fields import STAGES
from filter_engine.analysis.request_sets import MAX_PIECES, RequestSet, in_words
from filter_engine.analysis.request_space import Space
from filter_engine.analysis.search import Searcher, deciding
from filter_engine.analysis.witnesses import Witnesses
from filter_engine.evaluator import LevelMatch
from filter_engine.model import Conditions, Level, PolicyRule, Sample
from filter_engine.policy import Policy


@dataclass(frozen=True)
class Question:
    """A set of events to ask about.

    Attributes:
        id: a short name that stays the same from version to version.
        text: what is asked about, in words: "refused requests".
        why: why it matters that they are recorded, as a sentence.
        any_of: sets of conditions as a FilterPolicy has them, ``*`` in names being a pattern. An event is
            asked about if it meets one of these sets, and none of ``but_not``.
        but_not: sets of conditions that exclude events.
    """

    id: str
    text: str
    why: str
    any_of: tuple[Conditions, ...]
    but_not: tuple[Conditions, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of the events that a question is about: those on which one rule decides.

    Attributes:
        rule: index of the rule; None for events that match no rule.
        level: the level of the decision.
        is_recorded: whether the events are recorded: the level is not None, and their stage is not omitted.
        stage_omitted: whether the rule or the policy omits their stage.
        sample: the rule's sample, if only a part of them is recorded.
        sets: the events, as sets that do not overlap, each with at least one believable event.
        is_complete: whether ``sets`` has all of them, as in :class:`~.compare.Difference`.
        witness: one of the events, complete, replayed on the policy.
    """

    rule: int | None
    level: Level
    is_recorded: bool
    stage_omitted: bool
    sample: Sample | None
    sets: tuple[RequestSet, ...]
    is_complete: bool
    witness: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a policy does with the events of a question.

    Attributes:
        question: the question.
        parts: in the order of the rules; those that match no rule come last. Empty if there are no such
            events.
    """

    question: Question
    parts: tuple[Part, ...]

    @property
    def unrecorded(self) -> tuple[Part, ...]:
        """The parts that are not recorded."""
        return tuple(part for part in self.parts if not part.is_recorded)

    @property
    def recorded(self) -> tuple[Part, ...]:
        """The parts that are recorded."""
        return tuple(part for part in self.parts if part.is_recorded)


def query(policy: Policy, question: Question, *, level_match: LevelMatch = "kubernetes") -> Answer:
    """What a policy does with the events of a question.

    An ``audit.k8s.io`` Policy does not see the response: a rule that drops by user or verb drops what was
    refused as well.

    Args:
        policy: the policy.
        question: the question.
        level_match: that of the :class:`~filter_engine.PolicyEvaluator` that uses the policy.

    Raises:
        TooManyClassesError: the patterns divide a field into more classes than can be looked at.
    """
    asked = Policy(
        tuple(
            PolicyRule(Level.METADATA, **vars(each), exceptions=question.but_not) for each in question.any_of
        ),
        kind="FilterPolicy",
    )
    policies: list[tuple[Policy, LevelMatch]] = [(asked, "kubernetes"), (policy, level_match)]
    space = Space(policies)
    searcher, witnesses = Searcher(space), Witnesses(space, policies)
    parts = []
    for rule in numbers_of_rules(policy):
        for is_omitted, stages in _by_omission(policy, rule):
            found = None
            sets: list[Piece] = []
            budget = Budget(MAX_PIECES)
            for number in range(len(asked.rules)):
                decided = [(0, number), (1, rule)]
                within = {"stages": stages}
                this = searcher.decided_by(decided, within)
                if this is None:
                    continue
                if found is None:
                    found = witnesses.replayed(this, decided)
                matched, unmatched = deciding(space, decided)
                sets += searcher.sets(matched, unmatched, within, budget)
            if found is None:
                continue
            level = level_of(policy, rule)
            words, is_complete = in_words(sets, budget, space.users)
            is_recorded = level is not Level.NONE and not is_omitted
            sample = None if rule is None else policy.rules[rule].sample
            parts.append(Part(rule, level, is_recorded, is_omitted, sample, words, is_complete, found))
    return Answer(question, tuple(parts))


def _by_omission(policy: Policy, rule: int | None) -> Iterator[tuple[bool, int]]:
    """The stages that a rule does not omit, and those that it omits, as sets."""
    omitted = policy.omit_stages if rule is None else (*policy.omit_stages, *policy.rules[rule].omit_stages)
    for is_omitted in (False, True):
        mask = sum(1 << number for number, stage in enumerate(STAGES) if (stage in omitted) is is_omitted)
        if mask:
            yield is_omitted, mask
