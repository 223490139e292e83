"""What the rules of a policy can tell apart.

Rules compare a field with words, with patterns, and addresses with networks. If the fields of two events hold
the same words of the policy and match the same of its patterns, all rules treat the two events alike; other
values make no difference. So a policy divides all events into classes, and their number depends on the policy
alone. Decisions are remembered by class, and a question about a policy can be answered by asking it once for
each class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol

from filter_engine.fields import Field
from filter_engine.patterns import Pattern, PatternIndex

# The number of all values that are not words of a policy.
OTHER = 0


class Words(Protocol):
    """What conditions add their words to."""

    def add(self, field: Field, words: Iterable[str | int]) -> None:
        """Add words that a condition compares a field with."""

    def add_patterns(self, field: Field, patterns: Iterable[Pattern]) -> None:
        """Add patterns that a condition compares a field with."""

    def add_test(self, field: Field, test: Callable[[Any], Hashable]) -> None:
        """Add a function of a field's value. Values with the same result are alike to a condition."""


class Vocabulary:
    """All words and patterns of a policy by field. Fill it with the ``add_words`` of conditions.

    Attributes:
        words: the words that each field is compared with, and their numbers, counted from 1.
        patterns: the patterns that each field is compared with.
    """

    def __init__(self) -> None:
        self.words: dict[Field, dict[Any, int]] = {}
        self.patterns: dict[Field, PatternIndex] = {}
        self._tests: dict[Field, list[Callable[[Any], Hashable]]] = {}

    def copy(self) -> Vocabulary:
        """A vocabulary with the same words and patterns, to which more can be added."""
        same = Vocabulary()
        same.words = {field: dict(words) for field, words in self.words.items()}
        same.patterns = dict(self.patterns)
        same._tests = {field: list(tests) for field, tests in self._tests.items()}
        return same

    def add(self, field: Field, words: Iterable[str | int]) -> None:
        """Add words that a condition compares a field with."""
        numbers = self.words.setdefault(field, {})
        for word in words:
            numbers.setdefault(word, len(numbers) + 1)

    def add_patterns(self, field: Field, patterns: Iterable[Pattern]) -> None:
        """Add patterns that a condition compares a field with."""
        for pattern in patterns:
            self.patterns.setdefault(field, PatternIndex()).add((pattern,))

    def add_test(self, field: Field, test: Callable[[Any], Hashable]) -> None:
        """Add a function of a field's value. Values with the same result are alike to a condition."""
        self._tests.setdefault(field, []).append(test)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields whose values can make a difference."""
        return tuple(filter(self.reads, dict.fromkeys((*self.words, *self.patterns, *self._tests))))

    def reads(self, field: Field) -> bool:
        """Whether a field's value can make a difference."""
        return bool(self.words.get(field)) or field in self.patterns or field in self._tests

    def has_words_only(self, field: Field) -> bool:
        """Whether the number of a value's word is its class."""
        return field.type != "texts" and field not in self.patterns and field not in self._tests

    def numbers(self, field: Field) -> Mapping[Any, int]:
        """A field's words and their numbers. The number of any other value is :data:`OTHER`."""
        return self.words.get(field, {})

    def class_of(self, field: Field, value: Any) -> Hashable:
        """The class of a value: equal for two values that the rules can't tell apart."""
        numbers, patterns = self.numbers(field), self.patterns.get(field)
        if field.type == "texts":
            found: Hashable = frozenset(numbers).intersection(value)
            if patterns is not None:
                found = found, frozenset(pattern for text in value for pattern in patterns.found(text))
        else:
            found = numbers.get(value, OTHER)
            if patterns is not None:
                found = found, frozenset(patterns.found(value))
        tests = self._tests.get(field)
        return found if tests is None else (found, *(test(value) for test in tests))
