"""Finds a request that some rules match and others don't, or shows that there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from filter_engine.analysis.half_search import Earlier, Found, HalfSearcher, Rule, Unmatched
from filter_engine.analysis.pieces import Budget, Piece
from filter_engine.analysis.request_space import Space

# The fields that are the same at all stages of a request.
_OF_REQUESTS = frozenset(
    (
        "users",
        "verbs",
        "apiGroups",
        "resources",
        "subresources",
        "namespaces",
        "resourceNames",
        "nonResourceURLs",
    )
)


class Searcher:
    """Finds requests in a space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._halves = [HalfSearcher(space, half) for half in space.halves]

    def find(
        self,
        matched: Sequence[Rule],
        unmatched: Unmatched = (),
        within: Mapping[str, int] | None = None,
    ) -> Found | None:
        """Find a believable request.

        Args:
            matched: rules that match it.
            unmatched: rules that don't.
            within: sets of classes that it has to be in, by the name of a field.

        Returns:
            None if there is no such request.
        """
        for half in self._halves:
            if (found := half.find(matched, unmatched, within or {})) is not None:
                return found
        return None

    def decided_by(
        self, decided: Sequence[tuple[int, int | None]], within: Mapping[str, int] | None = None
    ) -> Found | None:
        """Find a believable request on which certain rules decide.

        Args:
            decided: policies, and the rule of each that decides; None for a request that matches none of its
                rules.
            within: sets of classes that the request has to be in, by the name of a field.
        """
        matched, unmatched = deciding(self.space, decided)
        return self.find(matched, unmatched, within)

    def at_stage(self, found: Found, stage: int, decided: Sequence[tuple[int, int | None]]) -> Found | None:
        """Find a request as :meth:`decided_by` does, of a certain stage: if possible, one like another.

        Args:
            found: the other.
            stage: the class of the stage.
            decided: policies, and the rule of each that decides.
        """
        half = found.half
        near = {
            domain.name: 1 << found.classes[number]
            for number, domain in enumerate(half.domains)
            if domain.name in _OF_REQUESTS
        }
        matched, unmatched = deciding(self.space, decided)
        searcher = self._halves[self.space.halves.index(half)]
        like = searcher.find(matched, unmatched, near | {"stages": 1 << stage})
        return like or self.find(matched, unmatched, {"stages": 1 << stage})

    def meeting(self, rule: Rule) -> list[int]:
        """The earlier rules that a rule has something in common with, as far as single fields show."""
        earlier = self.partners(rule.policy, rule.number, rule.policy)
        return sorted(number for number in earlier if number is not None and number < rule.number)

    def partners(self, policy: int, rule: int | None, other: int) -> set[int | None]:
        """The rules of another policy that may decide on what a rule matches, as far as single fields show.

        Args:
            policy: the rule's policy.
            rule: the rule; None for all requests.
            other: the other policy.

        Returns:
            The numbers of its rules, and None if there may be requests that match none of them. There are no
            rules behind one that matches all that the rule does.
        """
        found: set[int | None] = set()
        for searcher in self._halves:
            matched = [] if rule is None else [Rule(policy, rule)]
            for box, _ in searcher.boxes(matched, {}):
                near, covering = searcher.meeting(box), searcher.covering(box)
                for number, lines in enumerate(searcher.half.rules[other]):
                    if lines.mains & near:
                        found.add(number)
                        if lines.mains & covering and not lines.exceptions & near:
                            break
                else:
                    found.add(None)
        return found

    def sets(
        self, matched: Sequence[Rule], unmatched: Unmatched, within: Mapping[str, int], budget: Budget
    ) -> Iterator[Piece]:
        """The requests that some rules match and others don't, as sets that don't overlap.

        Args:
            matched: rules that match them.
            unmatched: rules that don't.
            within: sets of classes that they have to be in, by the name of a field.
            budget: how much may be done. If it is spent, some of the sets are missing.

        Yields:
            Sets, each with at least one believable request.
        """
        for half in self._halves:
            yield from half.sets(matched, unmatched, within, budget)


def deciding(space: Space, decided: Sequence[tuple[int, int | None]]) -> tuple[list[Rule], list[Earlier]]:
    """The rules that have to match, and those that must not, so that certain rules decide."""
    matched, unmatched = [], []
    for policy, number in decided:
        unmatched.append(Earlier(policy, len(space.policies[policy].rules) if number is None else number))
        if number is not None:
            matched.append(Rule(policy, number))
    return matched, unmatched
