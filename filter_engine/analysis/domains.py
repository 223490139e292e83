"""The values of one field of a request, divided into the classes that rules can tell apart.

A class has a number, an example, and a label for people. A set of classes is a number too: its bits are the
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from filter_engine.analysis import world
from filter_engine.analysis.text_classes import (
    MAX_STATES,
    PatternSet,
    TooManyClassesError,
    Tracker,
    other_examples,
)
from filter_engine.conditions import Codes, SourceIPs
from filter_engine.patterns import Pattern, Texts

_MAPPED = 0xFFFF << 32  # where IPv4 addresses are in IPv6


@dataclass
class Domain:
    """A field's values.

    Attributes:
        name: what the field is called in a rule.
        values: an example of each class.
        labels: their names.
        odd: classes that a witness should have only if it must, as bits.
        several: classes of more than one value, as bits.
    """

    name: str
    values: list[Any] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    odd: int = 0
    several: int = 0

    @property
    def all(self) -> int:
        """The set of all classes."""
        return (1 << len(self.values)) - 1

    def add(self, value: Any, label: str, *, odd: bool = False) -> None:
        """Add a class."""
        if odd:
            self.odd |= 1 << len(self.values)
        self.values.append(value)
        self.labels.append(label)

    def where(self, test: Callable[[Any], bool]) -> int:
        """The classes whose values pass a test. All values of a class have to be alike for it."""
        return sum(1 << index for index, value in enumerate(self.values) if test(value))

    def among(self, values: Iterable[Any]) -> int:
        """The classes that consist of one of these values alone."""
        wanted = frozenset(values)
        return self.where(lambda value: value in wanted)


@dataclass
class TextDomain(Domain):
    """Texts that rules compare with words and patterns.

    Attributes:
        words: the words, and their classes.
        sets: the sets of patterns.
    """

    words: dict[str | None, int] = field(default_factory=dict)
    sets: tuple[PatternSet, ...] = ()
    _others: dict[Any, int] = field(default_factory=dict)

    def add_word(self, word: str | None, label: str | None = None, *, odd: bool = False) -> None:
        """Add a class of one value. None stands for a field that is not there."""
        if word not in self.words:
            self.words[word] = len(self.values)
            self.add(word, label or word or "none", odd=odd)

    def add_other(self, example: str, label: str, more: Any = None, *, odd: bool = False) -> None:
        """Add the class of an example, if it is a new one.

        Args:
            example: a text that is not a word.
            label: the name of its class; the patterns that it matches are added.
            more: what tells it from other texts that match the same patterns.
            odd: as for :meth:`add`.
        """
        signature = self.signature(example), more
        if signature in self._others:
            return
        self._others[signature] = len(self.values)
        self.several |= 1 << len(self.values)
        shown = [_shown(self.sets[index]) for index in self.signature(example)]
        shown = [each for each in shown if each not in _HIDDEN]
        self.add(example, f"{label} like {' and '.join(shown)}" if shown else label, odd=odd)

    def class_of(self, text: str | None, more: Any = None) -> int | None:
        """The class of a text; None if there is none, because no text of the field is like that."""
        if text in self.words:
            return self.words[text]
        return None if text is None else self._others.get((self.signature(text), more))

    def signature(self, text: str) -> tuple[int, ...]:
        """The sets of patterns that a text matches, by their indexes."""
        return tuple(
            index for index, each in enumerate(self.sets) if any(pattern.matches(text) for pattern in each)
        )

    def matching(self, texts: Texts) -> int:
        """The classes whose texts a condition accepts."""
        if texts.patterns:
            return self.where(lambda value: value is not None and texts.matches(value))
        found = 0
        for word in texts.words:
            if word in self.words:
                found |= 1 << self.words[word]
        return found


def _shown(patterns: PatternSet) -> str:
    first, *more = map(str, patterns)
    if not more:
        return first
    return f"one of {first}, {', '.join(more[:2])}" + (", …" if len(more) > 2 else "")


_HIDDEN = frozenset(map(str, (*world.USER_PATTERNS, *world.GROUP_PATTERNS, world.LONG_PATHS)))


@dataclass(frozen=True)
class TextField:
    """A field with texts.

    Attributes:
        name: its name.
        other: what to call a text that is no word.
        preferred: examples to take where they fit.
        words: values that are always words, and their labels. None stands for a field that is not there.
        forbidden: letters that no text has.
        patterns: patterns that matter beside those of conditions.
        tracker: restricts the texts.
        allows: whether a word can be a text of the field.
        without: beginnings of texts, each a pattern of the field too. Their classes are left out, but for
            words.
        words_first: whether a witness should have one of ``words`` rather than any other text.
        fills_stars: whether examples should have something in the place of the stars of patterns.
    """

    name: str
    other: str
    preferred: Sequence[str]
    words: Mapping[str | None, str] = field(default_factory=dict)
    forbidden: str = "*/"
    patterns: Sequence[Pattern] = ()
    tracker: Tracker | None = None
    allows: Callable[[str], bool] = lambda _: True
    without: tuple[str, ...] = ()
    words_first: bool = False
    fills_stars: bool = True


def texts_domain(of: TextField, used: Collection[Texts]) -> TextDomain:
    """The classes of a field with texts.

    Args:
        of: the field.
        used: the texts that conditions compare it with.

    Raises:
        TooManyClassesError: there are too many.
    """
    domain = TextDomain(of.name, sets=pattern_sets(used, of.patterns))
    words = dict.fromkeys(word for texts in used for word in texts.words if word and word not in of.words)
    named = [word for word in words if not set(of.forbidden) & set(word) and of.allows(word)]
    avoided = {word for word in (*named, *of.words) if word is not None}
    if of.words_first:
        _add_words(domain, of.words)
    # Where all are alike, a witness should have none of the names that the rules have.
    nice = [*of.preferred, *(filled(domain.sets, of.forbidden) if of.fills_stars else ())]
    nicer = {domain.signature(each): each for each in reversed(nice) if each not in avoided}
    for example in other_examples(domain.sets, avoided, forbidden=of.forbidden, tracker=of.tracker):
        if not example.startswith(of.without):
            domain.add_other(nicer.get(domain.signature(example), example), of.other)
    for word in named:
        domain.add_word(word)
    _add_words(domain, of.words)
    return domain


def pattern_sets(used: Iterable[Texts], more: Iterable[Pattern] = ()) -> tuple[PatternSet, ...]:
    """The sets of patterns of some texts, and more patterns, each of which is a set."""
    return tuple(
        dict.fromkeys((*(texts.patterns for texts in used if texts.patterns), *((each,) for each in more)))
    )


def filled(sets: Sequence[PatternSet], forbidden: str) -> list[str]:
    """Examples of texts that match some patterns, one, or two at a time."""
    patterns = [pattern for each in sets for pattern in each]
    found = dict.fromkeys("x".join((each.start, *each.middles, each.end)) for each in patterns)
    some = patterns[:30]
    found.update(dict.fromkeys(f"{one.start}x{other.end}" for one in some for other in some))
    return [each for each in found if not set(forbidden) & set(each)]


def _add_words(domain: TextDomain, words: Mapping[str | None, str]) -> None:
    for word, label in words.items():
        domain.add_word(word, label)


@dataclass
class CodeDomain(Domain):
    """Response codes.

    Attributes:
        classes: the class of each code.
    """

    classes: dict[int, int] = field(default_factory=dict)


def codes_domain(used: Collection[Codes], more: Collection[int]) -> CodeDomain:
    """The classes of response codes; that of events without a code is None.

    Args:
        used: the conditions.
        more: codes that are to be classes of their own.
    """
    domain = CodeDomain("responseCodes")
    classes: dict[Any, list[int]] = {}
    for code in (*_COMMON_CODES, *range(100, 600)):
        of = tuple(any(first <= code <= last for first, last in each.ranges) for each in used)
        alike = classes.setdefault((of, code if code in more else None), [])
        if code not in alike:
            alike.append(code)
    for alike in classes.values():
        domain.classes.update(dict.fromkeys(alike, len(domain.values)))
        domain.add(alike[0], _ranges(sorted(alike)))
    domain.add(None, "none")
    return domain


# In the order in which witnesses should have them. A hijacked connection (exec) is answered with 101.
_COMMON_CODES = (200, 403, 404, 500, 201, 409, 401, 101, 503)


def _ranges(codes: Sequence[int]) -> str:
    """Codes as people write them: 400-403, 500."""
    parts: list[list[int]] = []
    for code in codes:
        if parts and parts[-1][1] == code - 1:
            parts[-1][1] = code
        else:
            parts.append([code, code])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def addresses_domain(used: Sequence[SourceIPs]) -> Domain:
    """The classes of lists of source addresses, by the conditions that they meet.

    Raises:
        TooManyClassesError: the networks overlap in too many ways.
    """
    edges = {0, _MAPPED}
    for each in used:
        for length, firsts in each.networks.prefixes.items():
            for first in firsts:
                edges |= {first, first + (1 << 128 - length)}

    def met(addresses: tuple[str, ...]) -> tuple[bool, ...]:
        return tuple(each.networks.have_all(addresses) for each in used)

    single: dict[Any, str] = {}
    for edge in sorted(each for each in edges if each < 1 << 128):
        address = _address(edge)
        single.setdefault(met((address,)), address)
    for nice in ("2001:db8::1", "203.0.113.7", "10.0.0.1", "192.168.0.1"):
        single[met((nice,))] = nice
    # A list of addresses meets the conditions that each of them meets.
    classes: dict[Any, tuple[str, ...]] = {of: (address,) for of, address in single.items()}
    queue = list(classes)
    while queue:
        addresses = classes[queue.pop()]
        for address in single.values():
            longer = (address, *addresses)
            if met(longer) not in classes:
                classes[met(longer)] = longer
                queue.append(met(longer))
                if len(classes) > MAX_STATES:
                    raise TooManyClassesError(f"sourceIPs have more than {MAX_STATES} classes")
    domain = Domain("sourceIPs")
    for addresses in classes.values():
        domain.add(addresses, f"like {', '.join(addresses)}", odd=len(addresses) > 1)
    return domain


def _address(number: int) -> str:
    is_mapped = number >> 32 == _MAPPED >> 32
    return str(IPv4Address(number & 0xFFFFFFFF) if is_mapped else IPv6Address(number))
