"""What the rules of a policy can tell apart.

Rules compare a field with words, and paths with prefixes too. To them, two events are the same whose
fields hold the same words of the policy: every other value is as good as any other. So a policy divides
all events into a number of classes that depends on the policy alone. Whoever remembers decisions remembers
them by class, and a question about a policy can be answered by asking it once for each class.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from filter_engine.fields import Field

# The number of a value that is none of a policy's words.
OTHER = 0


class Words(Protocol):
    """What conditions add their words to."""

    def add(self, field: Field, words: Iterable[str | int]) -> None:
        """Add words that a condition compares a field with."""

    def add_prefixes(self, field: Field, prefixes: Iterable[str]) -> None:
        """Add beginnings that a condition looks for in a field."""


class Vocabulary:
    """All words of a policy, for each field, with a number each. Make one with conditions' ``add_words``.

    Attributes:
        words: for each field that is compared with words, these and their numbers, counted from 1.
        prefixes: for each field that is compared with prefixes, these.
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
        """A field's words and their numbers; a value that is not among them is :data:`OTHER`."""
        return self.words.get(field, {})

    def class_of_text(self, field: Field, value: str) -> Hashable:
        """What rules can tell of a text: equal for two values that they don't tell apart."""
        found = self._prefixes_in(field, value)
        return (self.numbers(field).get(value, OTHER), *found)

    def class_of_texts(self, field: Field, values: Iterable[str]) -> frozenset[str]:
        """What rules can tell of a list of texts: those of them that are words."""
        return frozenset(self.numbers(field)).intersection(values)

    def _prefixes_in(self, field: Field, value: str) -> Iterator[str]:
        for length, prefixes in self._by_length.get(field, {}).items():
            if value[:length] in prefixes:
                yield value[:length]
