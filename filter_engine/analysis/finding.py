"""A finding: one thing that a policy says and its author may not mean."""

from __future__ import annotations

from dataclasses import dataclass

from filter_engine.errors import MAX_MESSAGE, shortened

# The kinds of findings. Their names stay the same from version to version.
IDS = (
    "nothing-kept",
    "no-catch-all",
    "literal-wildcard",
    "upper-case",
    "version-as-group",
    "pattern-matches-nothing",
    "unrendered-template",
)


@dataclass(frozen=True)
class Finding:
    """Something that a policy says and its author may not mean.

    Attributes:
        id: the kind of finding, one of ``IDS``.
        message: one sentence that says what is found, what follows from it and what to write instead.
        rule: index of the rule, counted from 0; None if the finding is about the whole policy.
        line: the rule's line in the source; None if it is not known.
    """

    id: str
    message: str
    rule: int | None = None
    line: int | None = None

    def describe(self, source: str) -> str:
        """The finding on one line: where, what, and its id."""
        where = source if self.line is None else f"{source}:{self.line}"
        return f"{where}: {shortened(self.message, MAX_MESSAGE)} [{self.id}]"
