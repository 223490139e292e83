"""All classes of texts that words and patterns tell apart, each with an example.

Two texts are in one class if they are the same word, or if neither is a word and both match the same sets of
patterns, each being those of one condition. To find the classes, all patterns run as one automaton, whose
states are sets of positions in the patterns (as bits of a number). Each state that can be reached shows a
class, and the way to it is an example.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Protocol, TypeVar

from filter_engine.patterns import Pattern

# Patterns that mean the same to a condition: one of them has to match.
PatternSet = tuple[Pattern, ...]
State = TypeVar("State", bound=Hashable)
# How many states a search may visit. Only many patterns with stars in the middle come near it.
MAX_STATES = 20_000
# Letters that stand for all those that no pattern has.
_FILLERS = "xyzabcdefghijklmnopqrstuvw0123456789"


class TooManyClassesError(ValueError):
    """The patterns for one field divide its values into more classes than can be looked at."""


class Tracker(Protocol):
    """A machine that says whether a text may be read.

    Attributes:
        start: its state before the first letter.
        letters: the letters that make a difference to it.
    """

    start: Any
    letters: frozenset[str]

    def step(self, state: Any, letter: str) -> Any:
        """The state after one more letter; None if no text goes on so."""

    def accepts(self, state: Any) -> bool:
        """Whether what was read is a whole text."""


class Automaton:
    """Sets of patterns, matched letter by letter, all at once.

    Args:
        sets: the sets. A text matches a set if it matches one of its patterns.

    Attributes:
        start: the state before the first letter.
        letters: the letters of the patterns.
    """

    def __init__(self, sets: Iterable[PatternSet]) -> None:
        self._places: dict[str, int] = {}
        self._letter_at: list[str] = []
        self._stars = start = self._decided = 0
        # For each set: its positions, those at which it matches, and those at which it matches for good.
        self._sets: list[tuple[int, int, int]] = []
        for patterns in sets:
            first, ends, decided = len(self._letter_at), 0, 0
            for pattern in patterns:
                start |= 1 << len(self._letter_at)
                end = self._add(pattern)
                ends |= end
                decided |= end if not pattern.end else 0
            positions = (1 << len(self._letter_at)) - (1 << first)
            self._sets.append((positions, ends, decided))
            self._decided |= decided
        self.letters = frozenset(self._places)
        self.start = self._settled(start)

    def _add(self, pattern: Pattern) -> int:
        """Add the positions of a pattern. Returns its last one, as a bit."""
        for index, piece in enumerate((pattern.start, *pattern.middles, pattern.end)):
            if index:
                self._stars |= 1 << len(self._letter_at)
            for letter in piece:
                self._places[letter] = self._places.get(letter, 0) | 1 << len(self._letter_at)
                self._letter_at.append(letter)
        self._letter_at.append("")
        return 1 << len(self._letter_at) - 1

    def step(self, state: int, letter: str) -> int:
        """The state after one more letter."""
        return self._settled(state & self._stars | (state & self._places.get(letter, 0)) << 1)

    def _settled(self, state: int) -> int:
        """The same state for all texts that match a set, whatever follows, whichever pattern it was."""
        if state & self._decided:
            for positions, _, decided in self._sets:
                if state & decided:
                    state = state & ~positions | (decided & -decided)
        return state

    def run(self, text: str) -> int:
        """The state after a text."""
        state = self.start
        for letter in text:
            state = self.step(state, letter)
        return state

    def matched(self, state: int) -> tuple[bool, ...]:
        """Which of the sets what was read matches."""
        return tuple(bool(state & ends) for _, ends, _ in self._sets)

    def letters_at(self, state: int) -> set[str]:
        """The letters that make a difference in a state."""
        found = set()
        while state:
            low = state & -state
            found.add(self._letter_at[low.bit_length() - 1])
            state ^= low
        found.discard("")
        return found


def filler_beside(letters: Collection[str]) -> str:
    """A letter that stands for all those that are not among some letters."""
    for letter in _FILLERS:
        if letter not in letters:
            return letter
    return next(chr(code) for code in range(0xA1, 0x110000) if chr(code) not in letters)


def examples(
    start: State,
    step: Callable[[State, str], State | None],
    letters_at: Callable[[State], Iterable[str]],
    class_of: Callable[[State], Any],
    first: str = "",
) -> dict[Any, str]:
    """The classes of all texts that a machine can read, each with one of its shortest texts.

    Args:
        start: the machine's state before the first letter.
        step: the next state; None if no text goes on like this.
        letters_at: the letters to try in a state.
        class_of: the class of the text that was read; None if it is not a whole text.
        first: what the texts begin with, before ``start``.

    Raises:
        TooManyClassesError: the machine has more than ``MAX_STATES`` states.
    """
    found: dict[Any, str] = {}
    seen: set[State] = {start}
    queue = deque([(start, first)])
    while queue:
        state, text = queue.popleft()
        reached = class_of(state)
        if reached is not None:
            found.setdefault(reached, text)
        for letter in letters_at(state):
            after = step(state, letter)
            if after is None or after in seen:
                continue
            if len(seen) >= MAX_STATES:
                raise TooManyClassesError(f"the patterns of one field have more than {MAX_STATES} states")
            seen.add(after)
            queue.append((after, text + letter))
    return found


def other_examples(
    sets: Collection[PatternSet],
    words: Collection[str],
    *,
    starts: str = "",
    forbidden: str = "*",
    tracker: Tracker | None = None,
) -> list[str]:
    """An example of each class of texts, not empty, that are not words.

    Args:
        sets: the sets of patterns.
        words: the words.
        starts: what all texts begin with.
        forbidden: letters that no text has.
        tracker: restricts the texts.

    Raises:
        TooManyClassesError: there are too many.
    """
    automaton = Automaton(sets)
    filler = filler_beside(automaton.letters | set(forbidden) | (tracker.letters if tracker else set()))

    def find(avoided: frozenset[str]) -> dict[Any, str]:
        beginnings = {word[:length] for word in avoided for length in range(len(word) + 1)}

        def along(text: str | None) -> str | None:
            return text if text in beginnings else None

        def step(state: Any, letter: str) -> Any:
            if letter in forbidden:
                return None
            inner, tracked, text = state
            if tracker is not None:
                tracked = tracker.step(tracked, letter)
                if tracked is None:
                    return None
            return (
                automaton.step(inner, letter),
                tracked,
                along(text + letter) if text is not None else None,
            )

        def letters_at(state: Any) -> Iterable[str]:
            inner, _, text = state
            letters = automaton.letters_at(inner) | (tracker.letters if tracker else frozenset())
            if text is not None:
                letters |= {each[len(text)] for each in beginnings if len(each) == len(text) + 1}
            return [filler, *sorted(letters)]

        def class_of(state: Any) -> Any:
            inner, tracked, text = state
            if text in avoided or (tracker and not tracker.accepts(tracked)):
                return None
            return automaton.matched(inner)

        tracked = tracker.start if tracker else None
        for letter in starts:
            tracked = tracker.step(tracked, letter) if tracker else None
        return examples(
            (automaton.run(starts), tracked, along(starts)), step, letters_at, class_of, first=starts
        )

    found = find(frozenset({""}))
    if not words or all(example not in words for example in found.values()):
        return list(found.values())
    return list(find(frozenset((*words, ""))).values())
