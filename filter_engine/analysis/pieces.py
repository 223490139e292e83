"""Sets of requests, and how lines are subtracted from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from filter_engine.analysis.request_space import Half, Line

# How many subtractions of a line are done to describe the requests of one question.
_MAX_STEPS = 5_000


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


class Subtracted(NamedTuple):
    """A line that is to be subtracted.

    Attributes:
        line: the line.
        kept: lines, such as those of a rule's exceptions. What is in one of them stays.
    """

    line: Line
    kept: Sequence[Line] = ()


class Budget:
    """How much work is left for a description.

    Args:
        pieces: how many pieces are looked at.
    """

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.steps = _MAX_STEPS

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.pieces <= 0 or self.steps <= 0


def subtract(piece: Piece, subtracted: Sequence[Subtracted], budget: Budget) -> Iterator[Piece]:
    """A piece without some lines, as pieces that don't overlap. Stops once the budget is spent."""
    # Pieces, how many lines were subtracted from each, and the lines one of which has to keep it.
    stack: list[tuple[Piece, int, Sequence[Line] | None]] = [(piece, 0, None)]
    while stack:
        piece, start, kept = stack.pop()
        if kept is not None:
            stack.extend((part, start, rest) for part, rest in _kept(piece, kept))
            continue
        for index in range(start, len(subtracted)):
            line, exceptions = subtracted[index]
            if _meets(piece, line):
                break
        else:
            yield piece
            continue
        budget.steps -= 1
        if budget.is_spent:
            return
        outside, inside = _split(piece, line)
        if exceptions:
            stack.append((inside, index + 1, exceptions))
        stack.extend((part, index + 1, None) for part in reversed(outside))


def _meets(piece: Piece, line: Line) -> bool:
    """Whether a piece and a line have something in common, as far as single fields show."""
    if line.groups and not line.groups & ~piece.avoided:
        return False
    return all(map(int.__and__, piece.box, line.masks))


def _kept(piece: Piece, kept: Sequence[Line]) -> Iterator[tuple[Piece, Sequence[Line] | None]]:
    """The part of a piece in the first line that it meets, and the others, for the lines after that one."""
    for number, line in enumerate(kept):
        if _meets(piece, line):
            outside, inside = _split(piece, line)
            yield inside, None
            for part in outside:
                yield part, kept[number + 1 :]
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
