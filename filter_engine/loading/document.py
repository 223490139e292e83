"""A document as a tree that knows its lines, whatever it was written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 100
MAX_NODES = 1_000_000


@dataclass
class Node:
    """A value and the line it stands on, counted from 1 (None where there is no text).

    For the value of a key, ``line`` is the line of the key. ``duplicates`` lists the keys of a
    mapping that were set more than once, with the line of the later one. ``size`` counts the
    nodes in it, those that aliases repeat included.
    """

    value: bool | int | float | str | list[Node] | dict[str, Node] | None
    line: int | None = None
    duplicates: list[tuple[str, int | None]] = field(default_factory=list)
    size: int = 1


class DocumentError(Exception):
    """Text that is not a document; ``line`` counts from 1, or is None."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def from_mapping(value: Any, depth: int = 0) -> Node:
    """Wrap JSON-like data: mappings with string keys, lists, tuples, strings, numbers, booleans, None.

    Raises:
        DocumentError: the data holds anything else, or nests too deeply.
    """
    if depth > MAX_DEPTH:
        raise DocumentError(f"nested more than {MAX_DEPTH} levels deep", None)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DocumentError(f"unsupported map key {key!r}: expected a string", None)
        return Node({key: from_mapping(item, depth + 1) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return Node([from_mapping(item, depth + 1) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return Node(value)
    raise DocumentError(f"unsupported value of type {type(value).__name__}", None)


def set_member(
    mapping: Node, key: str, value: Node, merge: Callable[[Node, Node], Node] | None = None
) -> None:
    """Set a member of a mapping; one that is there already is noted, and ``merge`` joins the two."""
    assert isinstance(mapping.value, dict)
    if key in mapping.value:
        mapping.duplicates.append((key, value.line))
        if merge is not None:
            value = merge(mapping.value[key], value)
    mapping.value[key] = value
    mapping.size += value.size
