"""What the rules of a policy can tell apart.

Rules compare a field with words, and paths with prefixes too. If the fields of two events hold the same words
of the policy, all rules treat the two events alike; other values make no difference. So a policy divides all
events into classes, and their number depends on the policy alone. Decisions are remembered by class, and a
question about a policy can be answered by asking it once for each class.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from filter_engine.fields import Field

# The number of all values that are not words of a policy.
OTHER = 0


class Words(Protocol):
    """What conditions add their words to."""

    def add(self, field: Field, words: Iterable[str | int]) -> None:
        """Add words that a condition compares a field with."""

    def add_prefixes(self, field: Field, prefixes: Iterable[str]) -> None:
        """Add beginnings that a condition looks for in a field."""


class Vocabulary:
    """All words of a policy by field, each with a number. Fill it with the ``add_words`` of conditions.

    Attributes:
        words: the words that each field is compared with, and their numbers, counted from 1.
        prefixes: the prefixes that each field is compared with.
    """

    def __init__(self) -> None:
        self.words: dict[Field, dict[Any, int]] = {}
        self.prefixes: dict[Field, tuple[str, ...]] = {}
        self._by_length: dict[Field, dict[int, set[str]]] = {}

    def add(self, field: Field, words: Iterable[str | int]) -> None:
        """Add words that a condition compares a field with."""
        numbers = self.words.setdefault(field, {})
        for word in words:
            numbers.setdefault(word, len(numbers) + 1)

    def add_prefixes(self, field: Field, prefixes: Iterable[str]) -> None:
        """Add beginnings that a condition looks for in a field."""
        known = self._by_length.setdefault(field, {})
        for prefix in prefixes:
            known.setdefault(len(prefix), set()).add(prefix)
        self.prefixes[field] = tuple(sorted(prefix for some in known.values() for prefix in some))

    def reads(self, field: Field) -> bool:
        """Whether a field's value can make a difference."""
        return bool(self.words.get(field) or self.prefixes.get(field))

    def numbers(self, field: Field) -> Mapping[Any, int]:
        """A field's words and their numbers. The number of any other value is :data:`OTHER`."""
        return self.words.get(field, {})

    def class_of_text(self, field: Field, value: str) -> Hashable:
        """The class of a text: equal for two texts that the rules can't tell apart."""
        found = self._prefixes_in(field, value)
        return (self.numbers(field).get(value, OTHER), *found)

    def class_of_texts(self, field: Field, values: Iterable[str]) -> frozenset[str]:
        """The class of a list of texts: the words of the policy that are in it."""
        return frozenset(self.numbers(field)).intersection(values)

    def _prefixes_in(self, field: Field, value: str) -> Iterator[str]:
        for length, prefixes in self._by_length.get(field, {}).items():
            if value[:length] in prefixes:
                yield value[:length]
