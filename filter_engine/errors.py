"""What is wrong with a policy, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyProblem:
    """One thing wrong with a policy.

    Attributes:
        field: path of the field at fault, as kube-apiserver writes it: ``rules[0].level``;
            empty where the document as a whole is at fault.
        message: the whole sentence. For validation errors it is kube-apiserver's own text,
            which starts with the field.
        line: line in the source, counted from 1; None for a policy that came as a mapping.
        lenient: kube-apiserver only warns of it, and ``strict=False`` lets it pass.
        hint: what to do, or what kube-apiserver makes of it; may be empty.
    """

    field: str
    message: str
    line: int | None = None
    lenient: bool = False
    hint: str = ""

    def describe(self, source: str) -> str:
        """The problem on one line: where, what, and what to do."""
        where = source if self.line is None else f"{source}:{self.line}"
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class PolicyError(ValueError):
    """A policy that can't be used. ``problems`` holds every error of it, in the order of the source."""

    def __init__(self, source: str, problems: Sequence[PolicyProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.describe(source) for problem in self.problems))
