"""A document as a tree with line numbers, made of YAML, JSON or a mapping; and the bounds on its size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from filter_engine.errors import shortened

MAX_DEPTH = 100
# Nodes of a document. Nodes that aliases repeat and that merge keys copy are counted each time. A policy of
# 20,000 rules has a third of this number. So many nodes take 100 MB.
MAX_NODES = 500_000
# A scalar counts as one more node for each of these: aliases that repeat a long text are bounded too.
_CHARACTERS_PER_NODE = 128


@dataclass(slots=True)
class Node:
    """A value and the line it stands on, counted from 1 (None where there is no text).

    For the value of a key, ``line`` is the line of the key. ``duplicates`` lists the keys of a
    mapping that were set more than once, with the line of the later one; it is None if there are none.
    ``size`` counts the nodes in the value; nodes that aliases repeat are counted each time.
    """

    value: bool | int | float | str | list[Node] | dict[str, Node] | None
    line: int | None = None
    duplicates: list[tuple[str, int | None]] | None = None
    size: int = 1

    def note_duplicate(self, key: str, line: int | None) -> None:
        """Remember that a key was set again on a line."""
        if self.duplicates is None:
            self.duplicates = []
        self.duplicates.append((key, line))


class DocumentError(Exception):
    """Text that is not a document; ``line`` counts from 1, or is None. ``hint`` says what to do."""

    def __init__(self, message: str, line: int | None, hint: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


class Budget:
    """How many more nodes may be built of a document. Each node is counted before it is built.

    Args:
        kind: what error messages begin with, such as ``yaml: ``.
    """

    def __init__(self, kind: str = "") -> None:
        self._kind = kind
        self._left = MAX_NODES

    def spend(self, nodes: int, line: int | None) -> None:
        """Count nodes that are about to be built. Raises DocumentError if there are too many."""
        self._left -= nodes
        if self._left < 0:
            raise DocumentError(
                f"{self._kind}document is too large or contains excessive aliasing:"
                f" expected at most {MAX_NODES:,} values",
                line,
            )

    def check_depth(self, depth: int, line: int | None) -> None:
        """Raise DocumentError if a value is nested too deeply."""
        if depth > MAX_DEPTH:
            raise DocumentError(f"{self._kind}nested more than {MAX_DEPTH} levels deep", line)


def scalar_size(value: Any) -> int:
    """How many nodes a scalar counts for."""
    return 1 + len(value) // _CHARACTERS_PER_NODE if isinstance(value, str) else 1


def without_surrogates(text: str) -> str:
    """A text as Go would hold it: each surrogate is replaced with U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


_SURROGATE = re.compile("[\ud800-\udfff]")


def from_mapping(value: Mapping[str, Any]) -> Node:
    """Wrap JSON-like data: mappings with string keys, lists, tuples, strings, numbers, booleans, None.

    Raises:
        DocumentError: the data holds a value of another type, is nested too deeply or is too large.
    """
    return _wrap(value, 0, Budget())


def _wrap(value: Any, depth: int, budget: Budget) -> Node:
    budget.check_depth(depth, None)
    budget.spend(scalar_size(value), None)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DocumentError(f"unsupported map key {shortened(repr(key))}: expected a string", None)
        return Node({key: _wrap(item, depth + 1, budget) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return Node([_wrap(item, depth + 1, budget) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return Node(value)
    raise DocumentError(f"unsupported value of type {type(value).__name__}", None)


def children(node: Node) -> Iterator[Node]:
    """The values right below a node."""
    if isinstance(node.value, dict):
        yield from node.value.values()
    elif isinstance(node.value, list):
        yield from node.value
