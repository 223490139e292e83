"""The named sets in the bodies of requests and responses.

Where a set has places depends on a body's kind: its own, and that of the resource that the request was for,
since the body of a patch says no kind. A body may be an object, a list of objects, an event of a watch, a
table, a patch, or the status of a request that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from filter_engine.redaction.kinds import STATUS, Table, paths_of
from filter_engine.redaction.patches import redact_patch
from filter_engine.redaction.replacement import Replacement, replace_value
from filter_engine.redaction.values import Values
from filter_engine.redaction.walk import Node, put, walk

_NONE: frozenset[str] = frozenset()


class Places:
    """Where several named sets have places in objects, by kind.

    Args:
        tables: the sets.
        replacement: makes what comes in the place of a value.
    """

    def __init__(self, tables: Sequence[Table], replacement: Replacement) -> None:
        self.kinds = frozenset(kind for table in tables for kind in table)
        self.replacement = replacement
        self._tables = tables
        self._nodes: dict[frozenset[str], Node | None] = {_NONE: None}
        self._each = {kind: frozenset((kind,)) for kind in self.kinds}
        self.status = Node(paths_of(STATUS), replacement)

    def having(self, kind: str | None) -> frozenset[str]:
        """The kinds that an object may have of which one is known: none if there are no places in it.

        Args:
            kind: the kind; None if it is not known, and may be any.
        """
        return self.kinds if kind is None else self._each.get(kind, _NONE)

    def node(self, kinds: frozenset[str]) -> Node | None:
        """The node of all places in objects of some kinds; None if there are none."""
        if kinds not in self._nodes:
            paths = [
                path for kind in kinds for table in self._tables for path in paths_of(table.get(kind, ()))
            ]
            self._nodes[kinds] = Node(frozenset(paths), self.replacement) if paths else None
        return self._nodes[kinds]


class Bodies:
    """Redacts the bodies of one event.

    Args:
        values: how to look into them.
        places: where to look.
        redacts_status: tells whether a Status is redacted if the request was for a kind that has places.
    """

    def __init__(self, values: Values, places: Places, redacts_status: Callable[[], bool]) -> None:
        self._values = values
        self._places = places
        self._redacts_status = redacts_status

    def redact(self, body: Any, kind: str | None, *, is_patch: bool = False) -> Any:
        """Redact a body.

        Args:
            body: the body.
            kind: the kind of what the request was for: empty if there are no places in it; None if it is not
                known, and may be any.
            is_patch: whether a list is a JSON patch.

        Returns:
            The body itself if nothing had to be redacted, a new one, or REMOVED.
        """
        form = self._values.kind(body)
        kinds = self._places.having(kind)
        if form == "map":
            return self._object(body, kinds)
        node = self._places.node(kinds)
        if form == "array" and is_patch:
            return body if node is None else redact_patch(self._values, body, node)
        if form == "array":
            return self._list(body, kinds)
        # Text is a body that the API server could not read as JSON. Where in it the places are, nobody knows.
        return body if node is None else replace_value(self._values, body, self._places.replacement)

    def _object(self, body: Any, kinds: frozenset[str]) -> Any:
        members = self._values.members(body)
        own = self._text(members, "kind")
        if own == "Status":
            node = self._places.status if self._places.node(kinds) and self._redacts_status() else None
        else:
            kinds = self._with(kinds, own)
            node = self._places.node(kinds)
        new = members if node is None else walk(self._values, members, node)
        if "items" in members:
            new = self._put(new, "items", self._list(members["items"], kinds))
        if "rows" in members and own == "Table":
            new = self._put(new, "rows", self._rows(members["rows"], kinds))
        if "object" in members and "type" in members:  # an event of a watch
            new = self._put(new, "object", self._inner(members["object"], kinds))
        return body if new is members else new

    def _with(self, kinds: frozenset[str], own: str) -> frozenset[str]:
        """Kinds, with the one that an object or a list of objects says that it has."""
        if not own:
            return kinds
        with_own = self._places.having(own.removesuffix("List"))
        return with_own if kinds == self._places.kinds else kinds | with_own

    def _put(self, members: Any, name: str, value: Any) -> Any:
        if value is members[name]:
            return members
        members = dict(members)
        put(members, name, value)
        return members

    def _list(self, elements: Any, kinds: frozenset[str]) -> Any:
        return self._each(elements, lambda element: self._inner(element, kinds))

    def _rows(self, rows: Any, kinds: frozenset[str]) -> Any:
        return self._each(rows, lambda row: self._row(row, kinds))

    def _each(self, elements: Any, redact: Callable[[Any], Any]) -> Any:
        if self._values.kind(elements) != "array":
            return elements
        before = self._values.elements(elements)
        after = list(map(redact, before))
        return elements if all(new is old for new, old in zip(after, before, strict=True)) else after

    def _row(self, row: Any, kinds: frozenset[str]) -> Any:
        if self._values.kind(row) != "map":
            return row
        members = self._values.members(row)
        if "object" not in members:
            return row
        new = self._put(members, "object", self._inner(members["object"], kinds))
        return row if new is members else new

    def _inner(self, value: Any, kinds: frozenset[str]) -> Any:
        return self._object(value, kinds) if self._values.kind(value) == "map" else value

    def _text(self, members: Mapping[str, Any], name: str) -> str:
        value = members.get(name)
        return self._values.text(value) if value is not None and self._values.kind(value) == "string" else ""
