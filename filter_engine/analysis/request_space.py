"""Sets of requests that the rules of one or two policies can tell apart.

Every field has finitely many classes (:mod:`.domains`), so a rule is a union of *lines*, each a set of
classes for each field, minus the lines of its exceptions. Requests for resources and other requests have
different fields, and stand in two halves. A user's groups are a set: of some groups, a line asks for at least
one. What is never seen (:mod:`.facts`) is a union of lines too. :mod:`.search` finds requests in these sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from filter_engine import conditions as of_rules
from filter_engine.analysis.condition_sets import GROUPS, Sets, sets_of
from filter_engine.analysis.domains import Domain
from filter_engine.analysis.facts import Owners, facts_of, owners_of
from filter_engine.analysis.request_fields import Used, fields_of, users_of
from filter_engine.conditions import Condition, conditions_of
from filter_engine.evaluator import LevelMatch
from filter_engine.policy import Policy


class Line(NamedTuple):
    """A set of requests.

    Attributes:
        masks: for each field, the set of its classes.
        groups: of these groups, a user has at least one; 0 for any user.
    """

    masks: tuple[int, ...]
    groups: int = 0


@dataclass
class RuleLines:
    """The lines of a rule, as bits: those that it matches, and those of its exceptions."""

    mains: int = 0
    exceptions: int = 0
    groups: int = 0


@dataclass
class Half:
    """Requests for resources, or all others.

    Attributes:
        is_resource: which of both.
        domains: the fields.
        at: the number of a field by its name.
        lines: the lines of all rules, those of the first policy first, and of all facts.
        rules: by policy, its rules.
        facts: the lines of what is never seen, as bits.
        columns: by field, by class: the lines that have the class, as bits.
        with_groups: the lines with a condition on groups, as bits.
    """

    is_resource: bool
    domains: tuple[Domain, ...]
    at: Mapping[str, int]
    lines: list[Line] = field(default_factory=list)
    rules: list[list[RuleLines]] = field(default_factory=list)
    facts: int = 0
    columns: list[list[int]] = field(default_factory=list)
    with_groups: int = 0

    def line(self, sets: Mapping[str, int]) -> Line | None:
        """A line of sets by the names of fields. None if it is empty, or about fields of the other half."""
        masks = [domain.all for domain in self.domains]
        for name, mask in sets.items():
            if name == GROUPS:
                continue
            if name not in self.at or not mask:
                return None
            masks[self.at[name]] &= mask
        groups = sets.get(GROUPS)
        if groups == 0 or not all(masks):
            return None
        return Line(tuple(masks), groups or 0)

    def add(self, sets: Iterable[Mapping[str, int]]) -> int:
        """Add lines. Returns them as bits."""
        found = 0
        for line in dict.fromkeys(self.line(each) for each in sets):
            if line is not None:
                found |= 1 << len(self.lines)
                self.lines.append(line)
        return found

    def index(self) -> None:
        """Fill ``columns`` once all lines are there."""
        self.columns = []
        for number, domain in enumerate(self.domains):
            everywhere, column = 0, [0] * len(domain.values)
            for bit, line in enumerate(self.lines):
                mask = line.masks[number]
                if mask == domain.all:
                    everywhere |= 1 << bit
                    continue
                while mask:
                    low = mask & -mask
                    column[low.bit_length() - 1] |= 1 << bit
                    mask ^= low
            self.columns.append([each | everywhere for each in column])
        self.with_groups = sum(1 << bit for bit, line in enumerate(self.lines) if line.groups)


class Space:
    """All requests, as the rules of some policies can tell them apart.

    Args:
        policies: the policies, each with the ``level_match`` of its evaluator.

    Raises:
        TooManyClassesError: the patterns divide a field into more classes than can be looked at.

    Attributes:
        policies: the policies.
        users: the classes of users and groups.
        halves: requests for resources, and other requests.
        owners: with ``ownNamespace``, by the classes of user and namespace and by their relation: a user's
            name and a namespace that are so related.
    """

    def __init__(self, policies: Sequence[tuple[Policy, LevelMatch]]) -> None:
        self.policies = [policy for policy, _ in policies]
        compiled = [
            [
                conditions_of(rule, compares_levels=match == "exact", has_patterns=policy.has_patterns)
                for rule in policy.rules
            ]
            for policy, match in policies
        ]
        used = Used(rule for rules in compiled for rule in rules)
        self.users = users_of(used)
        self.owners: Owners = {}
        self.halves = []
        for is_resource in (True, False):
            domains = fields_of(used, self.users, is_resource=is_resource)
            half = Half(is_resource, domains, {domain.name: at for at, domain in enumerate(domains)})
            fields = {domain.name: domain for domain in (*domains, self.users.groups)}
            half.rules = [[_rule(half, fields, rule) for rule in rules] for rules in compiled]
            if "ownNamespace" in fields:
                self.owners = owners_of(fields, self.users)
            half.facts = half.add(facts_of(fields, self.owners))
            half.index()
            self.halves.append(half)


def _rule(half: Half, fields: Mapping[str, Domain], rule: Sequence[Condition]) -> RuleLines:
    own = [condition for condition in rule if not isinstance(condition, of_rules.Except)]
    found = RuleLines(half.add(_product(fields, own)))
    if not found.mains:
        return found
    found.groups = half.lines[-1].groups
    for condition in rule:
        if isinstance(condition, of_rules.Except):
            for each in condition.sets:
                found.exceptions |= half.add(_product(fields, each))
    return found


def _product(fields: Mapping[str, Domain], conditions: Sequence[Condition]) -> Iterator[Sets]:
    """Sets of classes, in one of which is what meets all conditions."""
    for chosen in product(*(list(sets_of(fields, condition)) for condition in conditions)):
        sets: Sets = {}
        for choice in chosen:
            for name, mask in choice.items():
                sets[name] = sets.get(name, mask) & mask
        yield sets
