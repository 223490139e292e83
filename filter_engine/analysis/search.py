"""Finds a request that some rules match and others don't, or shows that there is none.

A search goes through the fields one by one and chooses a class for each. What matters of the choices so far is which
lines are still *alive*: none of the choices is outside of them. A search fails as soon as a line of something that
must not match is certain, because it allows all that is left; and the classes that leave the same lines alive are tried
once. What was found to fail is remembered by the field and the lines alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

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


class Piece(NamedTuple):
    """A set of requests.

    Attributes:
        half: requests of which kind.
        box: for each field, the set of its classes.
        needs: sets of groups; the user is in at least one of each.
        avoided: groups that the user does not have.
        is_last: whether there may be more pieces, which are left out.
    """

    half: Half
    box: tuple[int, ...]
    needs: tuple[int, ...]
    avoided: int
    is_last: bool = False


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


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits of a number, in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Searcher:
    """Finds requests in a space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._halves = [_HalfSearcher(space, half) for half in space.halves]

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
        """The earlier rules of the same policy that have something in common with a rule, as far as single fields
        show.
        """
        earlier = self.partners(rule.policy, rule.number, rule.policy)
        return sorted(number for number in earlier if number is not None and number < rule.number)

    def partners(self, policy: int, rule: int | None, other: int) -> set[int | None]:
        """The rules of another policy that may decide on what a rule matches, as far as single fields show.

        Args:
            policy: the rule's policy.
            rule: the rule; None for all requests.
            other: the other policy.

        Returns:
            The numbers of its rules, and None if there may be requests that match none of them. It has no rules
            behind one that matches all that the rule does.
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
        self,
        matched: Sequence[Rule],
        unmatched: Unmatched,
        within: Mapping[str, int] | None = None,
        *,
        limit: int,
    ) -> Iterator[Piece]:
        """The requests that some rules match and others don't, as sets that don't overlap, each with a believable
        request.

        Args:
            matched: rules that match them.
            unmatched: rules that don't.
            within: sets of classes that they have to be in, by the name of a field.
            limit: how many sets to look at, with or without believable requests.

        Yields:
            The sets. If there may be more, the last one says so, and does not count.
        """
        for half in self._halves:
            yield from half.sets(matched, unmatched, within or {}, limit)


def deciding(space: Space, decided: Sequence[tuple[int, int | None]]) -> tuple[list[Rule], list[Earlier]]:
    """The rules that have to match, and those that must not, so that certain rules decide."""
    matched, unmatched = [], []
    for policy, number in decided:
        unmatched.append(Earlier(policy, len(space.policies[policy].rules) if number is None else number))
        if number is not None:
            matched.append(Rule(policy, number))
    return matched, unmatched


@dataclass
class _Task:
    """One search.

    Attributes:
        box: for each field, the classes that are allowed.
        needs: sets of groups: the user is in at least one of each.
        avoided: groups that the user must not have.
        rest: for each field, the lines that allow all of the box from there on.
        plain: lines that must not match, whatever else does.
        excused: rules that must not match, and have exceptions.
        failed: what was tried in vain.
        has_groups: whether the groups of users matter.
        excused_mains: the main lines of ``excused``.
    """

    box: tuple[int, ...]
    needs: tuple[int, ...]
    avoided: int
    rest: list[int]
    plain: int
    excused: list[RuleLines]
    failed: set[tuple[int, int, int]] = field(default_factory=set)
    has_groups: bool = False
    excused_mains: int = 0


class _HalfSearcher:
    def __init__(self, space: Space, half: Half) -> None:
        self.half = half
        self._users = space.users
        self._order = len(half.domains)
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
        task.rest = [0] * (self._order + 1)
        task.rest[self._order] = rest
        for number in reversed(range(self._order)):
            rest &= self._covering(number, box[number])
            task.rest[number] = rest
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
        certain = alive & task.rest[number]
        if certain & task.plain:
            return None
        if certain & task.excused_mains:
            for lines in task.excused:
                if certain & lines.mains and not alive & lines.exceptions:
                    return None
        if number == self._order:
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
        column = self.half.columns[number]
        found: dict[tuple[int, int], int] = {}
        for index in (*bits(mask & ~domain.odd), *bits(mask & domain.odd)):
            found.setdefault((alive & column[index], self._who[index] if with_users else who), index)
        choices = [(after, group, index) for (after, group), index in found.items()]
        if len(choices) > 1:
            odd = domain.odd
            choices.sort(key=lambda choice: (odd >> choice[2] & 1, bin(choice[0]).count("1"), choice[2]))
        return choices

    def _groups(self, task: _Task, alive: int, who: int) -> int | None:
        """Groups of a user with which none of the lines alive matches that must not; None if there are none."""
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
        self,
        matched: Sequence[Rule],
        unmatched: Unmatched,
        within: Mapping[str, int],
        limit: int,
    ) -> Iterator[Piece]:
        half = self.half
        left = [limit, _MAX_STEPS]
        for box, needs in self.boxes(matched, within):
            near = self.meeting(box)
            # A line to subtract, and the lines that keep parts of it in.
            subtracted: list[tuple[Line, list[Line]]] = []
            for rule in matched:
                exceptions = half.rules[rule.policy][rule.number].exceptions
                subtracted += [(half.lines[number], []) for number in bits(exceptions & near)]
            plain, excused = self._unmatched(unmatched, near)
            subtracted += [(half.lines[number], []) for number in bits(plain & near)]
            for lines in excused:
                kept = [half.lines[number] for number in bits(lines.exceptions & near)]
                subtracted += [(half.lines[number], kept) for number in bits(lines.mains & near)]
            for piece in _subtract(Piece(half, box, needs, 0), subtracted, 0, left):
                if min(left) <= 0:
                    break
                left[0] -= 1
                if self.find_in(piece.box, piece.needs, (), (), piece.avoided) is not None:
                    yield piece
            if min(left) <= 0:
                yield Piece(half, box, needs, 0, is_last=True)
                return


# How many subtractions of a line are done to describe the sets of one question.
_MAX_STEPS = 5_000


def _subtract(
    piece: Piece, subtracted: Sequence[tuple[Line, Sequence[Line]]], start: int, left: list[int]
) -> Iterator[Piece]:
    """A piece without some lines, as pieces that don't overlap."""
    for index in range(start, len(subtracted)):
        line, kept = subtracted[index]
        if not all(map(int.__and__, piece.box, line.masks)) or (
            line.groups and not line.groups & ~piece.avoided
        ):
            continue
        left[1] -= 1
        outside, inside = _split(piece, line)
        for each in outside:
            yield from _subtract(each, subtracted, index + 1, left)
            if min(left) <= 0:
                return
        yield from _excused(inside, kept, subtracted, index + 1, left)
        return
    yield piece


def _excused(
    piece: Piece,
    kept: Sequence[Line],
    subtracted: Sequence[tuple[Line, Sequence[Line]]],
    start: int,
    left: list[int],
) -> Iterator[Piece]:
    """The parts of a piece that some exceptions keep in, without the lines that are still to be subtracted."""
    for number, exception in enumerate(kept):
        if all(map(int.__and__, piece.box, exception.masks)):
            beside, within = _split(piece, exception)
            yield from _subtract(within, subtracted, start, left)
            for part in beside:
                yield from _excused(part, kept[number + 1 :], subtracted, start, left)
            return


def _split(piece: Piece, line: Line) -> tuple[list[Piece], Piece]:
    """The parts of a piece outside of a line, and the one inside."""
    outside = []
    box = list(piece.box)
    for number, mask in enumerate(line.masks):
        if box[number] & ~mask:
            part = (*box[:number], box[number] & ~mask, *box[number + 1 :])
            outside.append(piece._replace(box=part))
            box[number] &= mask
    inside = piece._replace(box=tuple(box))
    if not line.groups:
        return outside, inside
    without = inside._replace(avoided=inside.avoided | line.groups)
    if all(need & ~without.avoided for need in without.needs):
        outside.append(without)
    return outside, inside._replace(needs=(*inside.needs, line.groups))


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
