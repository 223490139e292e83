"""Walks along paths through a value, and replaces what they lead to.

All paths of a set are walked at once: a :class:`Node` stands for what is left of them after some steps. Nodes
are made when the first value needs them. A map is searched for the names that the node knows, and only if
there is a ``*`` are all of its keys looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

from filter_engine.patterns import Pattern
from filter_engine.redaction.paths import ANY, ELEMENT, Key, Path
from filter_engine.redaction.replacement import REMOVED, Replacement, replace_value
from filter_engine.redaction.values import DECODED, Values

# Nodes that are remembered for each set of paths. A policy with more combinations makes them again.
_MAX_NODES = 10_000
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# The last step of a path to a place that holds an object of the same kind, as a map or as JSON text.
SAME_KIND = Key("\0same kind")


class Node:
    """What is left of several paths.

    Args:
        paths: what is left of each.
        replacement: makes what comes in the place of values.
        root: the node at which the paths begin; None for this one.

    Attributes:
        replacement: the argument.
        is_end: whether one of them ends here: the value is to be replaced.
        holds_same_kind: whether the value is another object of the kind that the paths are for.
        root: the node at which the paths begin.
        names: the names that lead on.
        has_patterns: whether other keys may lead on.
        element: the node of a list's elements; None if no path leads there.
    """

    def __init__(self, paths: frozenset[Path], replacement: Replacement, root: Node | None = None) -> None:
        self.root = root or self
        self.replacement = replacement
        self.is_end = () in paths
        self.holds_same_kind = (SAME_KIND,) in paths
        self._paths = [path for path in paths if path and path[0] != SAME_KIND]
        firsts = [path[0] for path in self._paths]
        self.names = tuple(dict.fromkeys(sorted(step.name for step in firsts if isinstance(step, Key))))
        self.has_patterns = ANY in firsts or any(isinstance(step, Pattern) for step in firsts)
        self._by_name: dict[str, Node | None] = {}
        self._made: dict[frozenset[Path], Node] = {} if root is None else root._made
        self.element = self._next(path[1:] for path in self._paths if path[0] in (ANY, ELEMENT))

    def child(self, name: str) -> Node | None:
        """The node of a key's value; None if no path leads there."""
        if name not in self._by_name:
            node = self._next(path[1:] for path in self._paths if _leads(path[0], name))
            if name not in self.names:  # keys of events are not remembered: there may be any number of them
                return node
            self._by_name[name] = node
        return self._by_name[name]

    def _next(self, paths: Iterable[Path]) -> Node | None:
        left = frozenset(paths)
        if not left:
            return None
        if len(self._made) > _MAX_NODES:
            self._made.clear()
        if left not in self._made:
            self._made[left] = Node(left, self.replacement, self.root)
        return self._made[left]


def _leads(step: Any, name: str) -> bool:
    if isinstance(step, Key):
        return step.name == name
    return step == ANY or (isinstance(step, Pattern) and step.matches(name))


def walk(values: Values, value: Any, node: Node) -> Any:
    """Replace all that a node's paths lead to.

    Returns:
        The value itself if nothing had to be replaced, a new value, or REMOVED.
    """
    if node.is_end:
        return replace_value(values, value, node.replacement)
    kind = values.kind(value)
    if kind == "map":
        if node.holds_same_kind:
            return walk(values, value, node.root)
        return _walk_map(values, value, node)
    if kind == "array" and node.element is not None:
        return walk_elements(values, value, node.element)
    if kind == "string":
        return _walk_text(values, value, node)
    return value


def _walk_map(values: Values, value: Any, node: Node) -> Any:
    members = values.members(value)
    changed: dict[str, Any] | None = None
    for name in members if node.has_patterns else node.names:
        child = node.child(name)
        if child is None or name not in members:
            continue
        new = walk(values, members[name], child)
        if new is not members[name]:
            changed = dict(members) if changed is None else changed
            put(changed, name, new)
    return value if changed is None else changed


def walk_elements(values: Values, value: Any, node: Node) -> Any:
    """Replace all that a node's paths lead to in each element of a list."""
    elements = values.elements(value)
    new = _without_removed(elements, [walk(values, each, node) for each in elements])
    return value if new is elements else new


def _without_removed(old: Any, new: list[Any]) -> Any:
    """A new list, without what was removed; the old one if all of its elements are the same."""
    if all(map(is_, new, old)):
        return old
    return [each for each in new if each is not REMOVED]


def put(members: dict[str, Any], name: str, value: Any) -> None:
    """Put a value into a map, or leave the key out if the value is REMOVED."""
    if value is REMOVED:
        del members[name]
    else:
        members[name] = value


def _may_be_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


def _walk_text(values: Values, value: Any, node: Node) -> Any:
    if not (node.holds_same_kind or _may_be_json(values.text(value))):
        return value
    inner = node.root if node.holds_same_kind else node
    return in_json_text(values, value, lambda decoded: walk(DECODED, decoded, inner), node.replacement)


def in_json_text(values: Values, value: Any, change: Callable[[Any], Any], replacement: Replacement) -> Any:
    """Change what is JSON text in a string. Where it should be JSON and is not, all of it is replaced.

    Args:
        values: how to look into the string.
        value: the string.
        change: returns the decoded text itself if nothing had to be changed, a new value, or REMOVED.
        replacement: makes what comes in the place of text that is not JSON.
    """
    text = values.text(value)
    try:
        decoded = json.loads(text)
        new = change(decoded)
        if new is decoded:
            return value
        if new is REMOVED:
            return REMOVED
        written = _to_json(new)
    except (ValueError, RecursionError):
        return replace_value(values, value, replacement)
    return values.string(written + text[len(text.rstrip()) :], value)
