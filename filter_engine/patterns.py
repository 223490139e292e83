"""Patterns of a FilterPolicy: ``*`` stands for any run of characters, also an empty one, anywhere.

``\\*`` is a star and ``\\\\`` a backslash; before any other character, a backslash is itself. A pattern has
to match the whole text.

A policy may have hundreds of patterns for one field, and each new user or name is compared with all of them.
So a set of patterns is an index: patterns with a literal beginning are found by it, in one look-up for each
length of a beginning. Those that begin with a star are found by their end in the same way. Only those that
have neither are searched for, with one regular expression for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_PIECE = re.compile(r"\\[*\\]|\*+|[^*\\]+|\\", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """A pattern with at least one star.

    Attributes:
        start: the text before the first star.
        middles: the texts between stars, none of them empty.
        end: the text after the last star.
    """

    start: str
    middles: tuple[str, ...] = ()
    end: str = ""

    def matches(self, text: str) -> bool:
        """Whether the whole text fits."""
        if not (text.startswith(self.start) and text.endswith(self.end)):
            return False
        return self.matches_between(text)

    def matches_between(self, text: str) -> bool:
        """Whether a text fits that is known to have this start and this end, which may still overlap."""
        at, end = len(self.start), len(text) - len(self.end)
        # The leftmost place of each text leaves most for the next: no other choice can do better.
        for middle in self.middles:
            at = text.find(middle, at, end)
            if at < 0:
                return False
            at += len(middle)
        return at <= end

    def __str__(self) -> str:
        return "*".join(map(escaped, (self.start, *self.middles, self.end)))


def parse_pattern(text: str) -> Pattern | str:
    """Read a pattern. Returns the text that it stands for if it has no star."""
    literals = [""]
    for piece in _PIECE.findall(text):
        if piece[0] == "*":
            literals.append("")
        else:
            literals[-1] += piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece
    if len(literals) == 1:
        return literals[0]
    start, *middles, end = literals
    return Pattern(start, tuple(filter(None, middles)), end)


def escaped(literal: str) -> str:
    """The pattern that matches just this text."""
    return re.sub(r"[*\\]", r"\\\g<0>", literal)


class PatternIndex:
    """A set of patterns, and which of them a text matches."""

    def __init__(self) -> None:
        self._patterns: dict[Pattern, None] = {}
        # By length, then by text: patterns with that start, or without a start and with that end.
        self._starts: dict[int, dict[str, list[Pattern]]] = {}
        self._ends: dict[int, dict[str, list[Pattern]]] = {}
        self._open: list[Pattern] = []
        self._any_open: re.Pattern[str] | None = None

    def __iter__(self) -> Iterator[Pattern]:
        return iter(self._patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def add(self, patterns: Iterable[Pattern]) -> None:
        """Add patterns to the set."""
        for pattern in patterns:
            if pattern in self._patterns:
                continue
            self._patterns[pattern] = None
            if pattern.start:
                self._starts.setdefault(len(pattern.start), {}).setdefault(pattern.start, []).append(pattern)
            elif pattern.end:
                self._ends.setdefault(len(pattern.end), {}).setdefault(pattern.end, []).append(pattern)
            else:
                self._open.append(pattern)
                self._any_open = None

    def found(self, text: str) -> Iterator[Pattern]:
        """The patterns that a text matches, in no certain order."""
        for length, by_start in self._starts.items():
            for pattern in by_start.get(text[:length], ()):
                if text.endswith(pattern.end) and pattern.matches_between(text):
                    yield pattern
        for length, by_end in self._ends.items():
            for pattern in by_end.get(text[-length:], ()):
                if pattern.matches_between(text):
                    yield pattern
        if self._open and self._may_match_open(text):
            yield from (pattern for pattern in self._open if pattern.matches_between(text))

    def _may_match_open(self, text: str) -> bool:
        """Whether a text contains the first piece of any pattern that begins and ends with a star."""
        if self._any_open is None:
            firsts = {pattern.middles[0] if pattern.middles else "" for pattern in self._open}
            self._any_open = re.compile("|".join(map(re.escape, sorted(firsts))))
        return self._any_open.search(text) is not None


class Texts:
    """The values of a condition: texts, and patterns of texts.

    Args:
        values: the texts or patterns.
        patterns: whether a ``*`` in a value stands for any run of characters.

    Attributes:
        words: the texts that are not patterns, in their order, as the keys of a mapping.
        patterns: the patterns.
        matches: whether a text is one of the values, or matches one.
        match_any: whether one of several texts does.
    """

    __slots__ = ("_index", "_starts", "match_any", "matches", "patterns", "words")

    def __init__(self, values: Iterable[str], *, patterns: bool = False) -> None:
        read = [parse_pattern(value) for value in values] if patterns else list(values)
        self.words = dict.fromkeys(value for value in read if isinstance(value, str))
        self.matches: Callable[[str], bool] = self.words.__contains__
        self.match_any: Callable[[Iterable[str]], bool] = self._has_any
        self.patterns: tuple[Pattern, ...] = ()
        self._use(value for value in read if isinstance(value, Pattern))

    def with_patterns(self, patterns: Iterable[Pattern]) -> Texts:
        """These texts, and patterns."""
        texts = Texts(self.words)
        texts._use((*self.patterns, *patterns))
        return texts

    def _use(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        if not self.patterns:
            return
        self.match_any = self._match_any
        self._starts = tuple(each.start for each in self.patterns if not (each.middles or each.end))
        if len(self._starts) == len(self.patterns):
            self.matches = self._starts_with_any
        else:
            self._index = PatternIndex()
            self._index.add(self.patterns)
            self.matches = self._matches

    def _starts_with_any(self, text: str) -> bool:
        return text in self.words or text.startswith(self._starts)

    def _matches(self, text: str) -> bool:
        return text in self.words or next(self._index.found(text), None) is not None

    def _has_any(self, texts: Iterable[str]) -> bool:
        return not self.words.keys().isdisjoint(texts)

    def _match_any(self, texts: Iterable[str]) -> bool:
        return any(map(self.matches, texts))
