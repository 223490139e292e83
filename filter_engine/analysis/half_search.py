"""The search for a request, in one half of a space.

It goes through the fields one by one and chooses a class for each. What matters of the choices so far is
which lines are still *alive*: those that have all of the chosen classes. A search fails as soon as a line of
something that must not match is certain: it is alive, and allows all that is left. Classes that leave the
same lines alive are tried once, and what has failed is remembered by the field and the lines alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from filter_engine.analysis.pieces import Budget, Piece, Subtracted, subtract
from filter_engine.analysis.request_space import Half, Line, RuleLines, Space


class Found(NamedTuple):
    """A request.

    Attributes:
        half: requests of which kind it belongs to.
        classes: its class in each field.
        groups: the user's groups, as bits.
    """

    half: Half
    classes: tuple[int, ...]
    groups: int


class Rule(NamedTuple):
    """A rule of one of the policies of a space, by their indexes."""

    policy: int
    number: int


class Earlier(NamedTuple):
    """The first rules of one of the policies, by its index, and how many they are."""

    policy: int
    length: int


# Rules that must not match.
Unmatched = Sequence[Rule | Earlier]


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits of a number, in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass
class _Task:
    """One search.

    Attributes:
        box: for each field, the classes that are allowed.
        needs: sets of groups: the user is in at least one of each.
        avoided: groups that the user must not have.
        certain: for each field, the lines that allow all of the box from there on.
        plain: lines that must not match, whatever else does.
        excused: rules that must not match, and have exceptions.
        failed: what was tried in vain.
        has_groups: whether the groups of users matter.
        excused_mains: the main lines of ``excused``.
    """

    box: tuple[int, ...]
    needs: tuple[int, ...]
    avoided: int
    certain: list[int]
    plain: int
    excused: list[RuleLines]
    failed: set[tuple[int, int, int]] = field(default_factory=set)
    has_groups: bool = False
    excused_mains: int = 0


class HalfSearcher:
    """Finds requests in one half of a space."""

    def __init__(self, space: Space, half: Half) -> None:
        self.half = half
        self._end = len(half.domains)
        self._at_users = half.at["users"]
        # Lines that allow some, or all, of a set of classes.
        self._some: list[dict[int, int]] = [{} for _ in half.domains]
        self._every: list[dict[int, int]] = [{} for _ in half.domains]
        self._prefixes: dict[int, list[tuple[int, list[RuleLines]]]] = {}
        # The certain and possible groups of users, without those that no line asks for.
        asked = 0
        for line in half.lines:
            asked |= line.groups
        self._who: list[int] = []
        self._kinds: list[tuple[int, int]] = []
        for certain, possible in zip(space.users.certain, space.users.possible, strict=True):
            kind = certain & asked, possible & asked
            if kind not in self._kinds:
                self._kinds.append(kind)
            self._who.append(self._kinds.index(kind))
        self._of_kind = [
            sum(1 << user for user, kind in enumerate(self._who) if kind == number)
            for number in range(len(self._kinds))
        ]

    def find(self, matched: Sequence[Rule], unmatched: Unmatched, within: Mapping[str, int]) -> Found | None:
        """Find a request, as :meth:`.search.Searcher.find` does."""
        for box, needs in self.boxes(matched, within):
            if (found := self.find_in(box, needs, matched, unmatched)) is not None:
                return found
        return None

    def boxes(
        self, matched: Sequence[Rule], within: Mapping[str, int]
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """What rules have in common, without their exceptions: boxes, and needed groups."""
        half = self.half
        start = [domain.all for domain in half.domains]
        for name, mask in within.items():
            if name not in half.at:
                return
            start[half.at[name]] &= mask
        if not all(start):
            return
        mains = [list(bits(half.rules[rule.policy][rule.number].mains)) for rule in matched]
        for chosen in product(*mains):
            box, needs = tuple(start), []
            for number in chosen:
                line = half.lines[number]
                box = tuple(one & other for one, other in zip(box, line.masks, strict=True))
                if line.groups:
                    needs.append(line.groups)
            if all(box):
                yield box, tuple(needs)

    def find_in(
        self,
        box: tuple[int, ...],
        needs: tuple[int, ...],
        matched: Sequence[Rule],
        unmatched: Unmatched,
        avoided: int = 0,
    ) -> Found | None:
        """Find a request in a box: one that matches none of the exceptions of some rules, nor other rules.

        Args:
            box: the box.
            needs: sets of groups: the user is in at least one of each.
            matched: the rules whose exceptions must not match.
            unmatched: the rules that must not match.
            avoided: groups that the user must not have.
        """
        half = self.half
        near = self.meeting(box)
        plain, excused = self._unmatched(unmatched, near)
        plain |= half.facts
        for rule in matched:
            plain |= half.rules[rule.policy][rule.number].exceptions
        alive = plain
        for lines in excused:
            alive |= lines.mains | lines.exceptions
        task = _Task(box, needs, avoided, [], plain, excused)
        for lines in excused:
            task.excused_mains |= lines.mains
        alive &= near
        task.has_groups = bool(needs or avoided) or bool(alive & half.with_groups)
        rest = ~half.with_groups
        task.certain = [0] * (self._end + 1)
        task.certain[self._end] = rest
        for number in reversed(range(self._end)):
            rest &= self._covering(number, box[number])
            task.certain[number] = rest
        return self._descend(task, 0, alive, 0, ())

    def _unmatched(self, unmatched: Unmatched, near: int) -> tuple[int, list[RuleLines]]:
        """The lines of rules without exceptions that must not match, and the rules that have exceptions.

        Args:
            unmatched: the rules.
            near: the lines that matter.
        """
        plain, excused = 0, []
        for each in unmatched:
            if isinstance(each, Earlier):
                mains, excepted = self._earlier(each)
                plain |= mains
            else:
                excepted = [self.half.rules[each.policy][each.number]]
            for lines in excepted:
                if not lines.mains & near:
                    continue
                if lines.exceptions & near:
                    excused.append(lines)
                else:
                    plain |= lines.mains
        return plain, excused

    def _earlier(self, earlier: Earlier) -> tuple[int, list[RuleLines]]:
        """The lines of the first rules of a policy that have no exceptions, and the rules that have some."""
        known = self._prefixes.setdefault(earlier.policy, [(0, [])])
        rules = self.half.rules[earlier.policy]
        while len(known) <= earlier.length:
            mains, excepted = known[-1]
            lines = rules[len(known) - 1]
            known.append((mains, [*excepted, lines]) if lines.exceptions else (mains | lines.mains, excepted))
        return known[earlier.length]

    def covering(self, box: Sequence[int]) -> int:
        """The lines that allow all of a box, for users of any groups."""
        found = ~self.half.with_groups
        for number, mask in enumerate(box):
            found &= self._covering(number, mask)
        return found

    def meeting(self, box: Sequence[int]) -> int:
        """The lines that have something in common with a box."""
        found = -1
        for number, mask in enumerate(box):
            known = self._some[number]
            if mask not in known:
                column = self.half.columns[number]
                some = 0
                for index in bits(mask):
                    some |= column[index]
                known[mask] = some
            found &= known[mask]
        return found

    def _covering(self, number: int, mask: int) -> int:
        """The lines that allow all of a set of classes of a field."""
        known = self._every[number]
        if mask not in known:
            column = self.half.columns[number]
            every = -1
            for index in bits(mask):
                every &= column[index]
            known[mask] = every
        return known[mask]

    def _descend(
        self, task: _Task, number: int, alive: int, who: int, chosen: tuple[int, ...]
    ) -> Found | None:
        certain = alive & task.certain[number]
        if certain & task.plain:
            return None
        if certain & task.excused_mains:
            for lines in task.excused:
                if certain & lines.mains and not alive & lines.exceptions:
                    return None
        if number == self._end:
            groups = self._groups(task, alive, who)
            return None if groups is None else Found(self.half, chosen, groups)
        key = number, alive, who
        if key in task.failed:
            return None
        for after, group, index in self._choices(task, number, alive, who):
            if (found := self._descend(task, number + 1, after, group, (*chosen, index))) is not None:
                return found
        task.failed.add(key)
        return None

    def _choices(self, task: _Task, number: int, alive: int, who: int) -> list[tuple[int, int, int]]:
        """The classes of a field that differ: the lines alive after them, the kind of user, the class."""
        domain, mask = self.half.domains[number], task.box[number]
        deciding_lines = alive & ~self._covering(number, mask)
        with_users = number == self._at_users and task.has_groups
        if not deciding_lines and not with_users:
            usual = mask & ~domain.odd or mask
            return [(alive, who, (usual & -usual).bit_length() - 1)]
        # All classes that none of these lines has are alike, and one is enough.
        some, lines = 0, self.half.lines
        for line in bits(deciding_lines):
            some |= lines[line].masks[number]
        rest = mask & ~some
        mask &= some
        for kind in self._of_kind if with_users else (-1,):
            if others := rest & kind:
                usual = others & ~domain.odd or others
                mask |= usual & -usual
        column, odd = self.half.columns[number], domain.odd
        if with_users:
            by_kind: dict[tuple[int, int], int] = {}
            for index in (*bits(mask & ~odd), *bits(mask & odd)):
                by_kind.setdefault((alive & column[index], self._who[index]), index)
            choices = [(after, kind, index) for (after, kind), index in by_kind.items()]
        else:
            by_lines: dict[int, int] = {}
            for index in (*bits(mask & ~odd), *bits(mask & odd)):
                by_lines.setdefault(alive & column[index], index)
            choices = [(after, who, index) for after, index in by_lines.items()]
        if len(choices) > 1:
            choices.sort(key=lambda choice: (odd >> choice[2] & 1, choice[0].bit_count(), choice[2]))
        return choices

    def _groups(self, task: _Task, alive: int, who: int) -> int | None:
        """Groups of a user with which nothing matches that must not; None if there are none."""
        if not task.has_groups:
            return 0
        half = self.half
        avoided = task.avoided
        for number in bits(alive & task.plain):
            avoided |= half.lines[number].groups
        # Either the user is in none of these groups, or in one of those.
        choices: list[tuple[int, int]] = []
        for lines in task.excused:
            mains = alive & lines.mains
            if not mains:
                continue
            exceptions = alive & lines.exceptions
            if exceptions & ~half.with_groups:
                continue
            other = 0
            for number in bits(exceptions):
                other |= half.lines[number].groups
            # All main lines of a rule have the same groups.
            choices.append((lines.groups, other))
        certain, possible = self._kinds[who]
        return _choose(certain, possible, avoided, list(task.needs), choices)

    def sets(
        self, matched: Sequence[Rule], unmatched: Unmatched, within: Mapping[str, int], budget: Budget
    ) -> Iterator[Piece]:
        """Sets of requests, as :meth:`.search.Searcher.sets` finds them, until the budget is spent."""
        half = self.half
        done: list[Subtracted] = []
        for box, needs in self.boxes(matched, within):
            near = self.meeting(box)
            subtracted = list(done)
            for rule in matched:
                exceptions = half.rules[rule.policy][rule.number].exceptions
                subtracted += [Subtracted(half.lines[number]) for number in bits(exceptions & near)]
            plain, excused = self._unmatched(unmatched, near)
            subtracted += [Subtracted(half.lines[number]) for number in bits(plain & near)]
            for lines in excused:
                kept = [half.lines[number] for number in bits(lines.exceptions & near)]
                subtracted += [Subtracted(half.lines[number], kept) for number in bits(lines.mains & near)]
            for piece in subtract(Piece(half, box, needs, 0), subtracted, budget):
                budget.pieces -= 1
                if budget.is_spent:
                    return
                if self.find_in(piece.box, piece.needs, (), (), piece.avoided) is not None:
                    yield piece
            # All boxes have the same needs: those of the rules.
            done.append(Subtracted(Line(box)))


def _choose(
    certain: int, possible: int, avoided: int, needs: list[int], choices: list[tuple[int, int]]
) -> int | None:
    """The smallest set of groups that meets all conditions, or None.

    Args:
        certain: groups that the user has.
        possible: groups that the user may have.
        avoided: groups that the user must not have.
        needs: sets of groups: at least one of each.
        choices: pairs of sets of groups: none of the first (nothing to avoid is impossible: 0), or one of the
            second.
    """
    if certain & avoided or not all(need & possible & ~avoided for need in needs):
        return None
    if choices:
        (first, second), *rest = choices
        if first:
            found = _choose(certain, possible, avoided | first, needs, rest)
            if found is not None:
                return found
        return _choose(certain, possible, avoided, [*needs, second], rest) if second else None
    groups = certain
    for need in needs:
        if not need & groups:
            allowed = need & possible & ~avoided
            groups |= allowed & -allowed
    return groups
