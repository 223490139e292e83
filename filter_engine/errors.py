"""What is wrong with a policy, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# How many problems a message shows. Behind them it says how many more there are.
MAX_SHOWN = 20
# Characters of a value that a message quotes, and of the message about one problem.
MAX_VALUE = 300
MAX_MESSAGE = 1500


@dataclass(frozen=True)
class PolicyProblem:
    """One thing wrong with a policy.

    Attributes:
        field: path of the field at fault, as kube-apiserver writes it: ``rules[0].level``;
            empty if the document as a whole is at fault.
        message: the whole sentence. For validation errors it is kube-apiserver's own text,
            which starts with the field; values of more than ``MAX_VALUE`` characters are shortened in it.
        line: line in the source, counted from 1; None for a policy that came as a mapping.
        lenient: whether kube-apiserver only warns about it, and ``strict=False`` accepts it.
        hint: what to do, or what kube-apiserver does with it; may be empty.
    """

    field: str
    message: str
    line: int | None = None
    lenient: bool = False
    hint: str = ""

    def describe(self, source: str) -> str:
        """The problem on one line: where, what, and what to do, in at most ``MAX_MESSAGE`` characters."""
        where = source if self.line is None else f"{source}:{self.line}"
        text = self.message + (f" ({self.hint})" if self.hint else "")
        # A key of the policy may hold a line break.
        return f"{where}: {shortened(text, MAX_MESSAGE)}".replace("\n", "\\n")


class PolicyError(ValueError):
    """A policy that can't be used.

    Attributes:
        source: what the policy is called.
        problems: what is wrong with it, in the order of the source. If there are very many problems, only
            the first ones are listed.
        count: how many problems there are in all.
    """

    def __init__(self, source: str, problems: Sequence[PolicyProblem], count: int | None = None) -> None:
        self.source = source
        self.problems = tuple(problems)
        self.count = len(self.problems) if count is None else count
        shown = [problem.describe(source) for problem in self.problems[:MAX_SHOWN]]
        super().__init__("\n".join(up_to(MAX_SHOWN, shown, self.count, f"{source}: and %d more problems")))


class Problems:
    """Collects problems. There may be any number: it keeps the first of each kind and counts the rest.

    Attributes:
        count: how many there were.
        errors: how many of them were not lenient.
    """

    LIMIT = 200

    def __init__(self) -> None:
        self.count = self.errors = 0
        self._kept: list[PolicyProblem] = []

    def takes(self, *, lenient: bool) -> bool:
        """Count one more problem. Returns whether to describe it and add it too."""
        self.count += 1
        self.errors += not lenient
        return (self.count - self.errors if lenient else self.errors) <= self.LIMIT

    def add(self, problem: PolicyProblem) -> None:
        """Add a problem that was counted."""
        self._kept.append(problem)

    def in_order(self) -> list[PolicyProblem]:
        """The problems that were kept, in the order of their lines."""
        return sorted(self._kept, key=lambda problem: problem.line or 0)

    def fields_at_fault(self) -> frozenset[str]:
        """The fields that have errors."""
        return frozenset(problem.field for problem in self._kept if not problem.lenient)


def shortened(text: str, limit: int = MAX_VALUE) -> str:
    """A text for a message. If it has more than ``limit`` characters, its beginning and its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def up_to(limit: int, lines: Sequence[str], count: int, rest: str) -> list[str]:
    """The first lines. If there are more than these, ``rest`` follows, with their number for ``%d``."""
    shown = list(lines[:limit])
    return shown if count <= len(shown) else [*shown, rest % (count - len(shown))]
