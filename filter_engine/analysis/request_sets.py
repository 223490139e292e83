"""Sets of requests in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from filter_engine.analysis.condition_sets import GROUPS
from filter_engine.analysis.domains import Domain
from filter_engine.analysis.pieces import Budget, Piece
from filter_engine.analysis.user_domains import Users

# How many sets describe one difference, and how many are looked at for it.
MAX_SETS = 20
MAX_PIECES = 60
NOT_GROUPS = "not userGroups"


@dataclass(frozen=True)
class Values:
    """A set of values of one field, in words.

    Attributes:
        labels: names of values, and of classes of values such as ``any other user``.
        is_complement: whether all other values are meant.
    """

    labels: tuple[str, ...]
    is_complement: bool = False

    def __str__(self) -> str:
        return ("any but " if self.is_complement else "") + ", ".join(self.labels)


@dataclass(frozen=True)
class RequestSet:
    """A set of events: all those whose fields have these values.

    Attributes:
        fields: by the name of a field, in a rule's words where there is one (``users``, ``userGroups``,
            ``userGroups 2`` (one of these, too), ``not userGroups`` (none of these), ``verbs``,
            ``apiGroups``, ``resources``, ``subresources``, ``resourceNames``, ``namespaces``,
            ``nonResourceURLs``, ``stages``, ``levels``, ``responseCodes``, ``userAgents``, ``sourceIPs``,
            ``impersonatedUsers``, ``annotations[KEY]``, ``ownNamespace``): its values. A field that is
            missing may have any value.
        is_resource: whether the requests are for resources.
    """

    fields: Mapping[str, Values]
    is_resource: bool

    def __str__(self) -> str:
        kind = "requests for resources" if self.is_resource else "non-resource requests"
        return "; ".join([kind, *(f"{name}: {values}" for name, values in self.fields.items())])


def in_words(pieces: Iterable[Piece], budget: Budget, users: Users) -> tuple[tuple[RequestSet, ...], bool]:
    """Sets of requests in words, and whether these are all of them.

    Args:
        pieces: what :meth:`~.search.Searcher.sets` finds.
        budget: the budget that it was given.
        users: the classes of groups.
    """
    found = merged(list(pieces))
    is_complete = not budget.is_spent and len(found) <= MAX_SETS
    return tuple(_set(piece, users) for piece in found[:MAX_SETS]), is_complete


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """The same requests in fewer sets: two that differ in one field alone become one."""
    left = list(pieces)
    number = 0
    while number < len(left):
        for other in range(number + 1, len(left)):
            if (union := _union(left[number], left[other])) is not None:
                del left[other]
                left[number] = union
                number = -1
                break
        number += 1
    return left


def _union(one: Piece, other: Piece) -> Piece | None:
    if one.half is not other.half or one[2:] != other[2:]:
        return None
    differing = [number for number in range(len(one.box)) if one.box[number] != other.box[number]]
    if len(differing) > 1:
        return None
    return one._replace(box=tuple(map(int.__or__, one.box, other.box)))


def _set(piece: Piece, users: Users) -> RequestSet:
    fields = {
        domain.name: _values(domain, mask)
        for domain, mask in zip(piece.half.domains, piece.box, strict=True)
        if mask != domain.all
    }
    needs = list(dict.fromkeys(need & ~piece.avoided for need in piece.needs))
    for number, need in enumerate(needs):
        fields[GROUPS if number == 0 else f"{GROUPS} {number + 1}"] = Values(_labels(users.groups, need))
    if piece.avoided:
        fields[NOT_GROUPS] = Values(_labels(users.groups, piece.avoided))
    return RequestSet(fields, piece.half.is_resource)


def _labels(domain: Domain, mask: int) -> tuple[str, ...]:
    chosen = [index for index in range(len(domain.labels)) if mask >> index & 1]
    chosen.sort(key=lambda index: domain.several >> index & 1)  # names first
    return tuple(domain.labels[index] for index in chosen)


def _values(domain: Domain, mask: int) -> Values:
    rest = domain.all & ~mask
    # A label of several values, such as "any other user", is not good in the shorter form.
    shorter = rest.bit_count() < mask.bit_count() and not rest & domain.several
    return Values(_labels(domain, rest), True) if shorter else Values(_labels(domain, mask))
