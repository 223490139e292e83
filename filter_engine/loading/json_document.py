"""JSON text as a document."""

from __future__ import annotations

import re
import sys
from typing import Any, NoReturn

from filter_engine.loading.document import Budget, DocumentError, Node, scalar_size, without_surrogates

_SPACE = re.compile(r"[ \t\r\n]*")


def read(data: bytes) -> Node:
    """Read JSON text. As in Go, bytes that are not UTF-8 and unpaired surrogates are replaced.

    Raises:
        DocumentError: the text is not one JSON value, or is too large or nested too deeply.
    """
    return _JSONReader(without_surrogates(data.decode("utf-8", "surrogateescape"))).read()


class _JSONReader:
    """Reads one JSON value, strictly by RFC 8259, with the line of each member."""

    def __init__(self, text: str) -> None:
        import json  # noqa: PLC0415 - a YAML policy does not need it

        self._json = json
        self._scalars = json.JSONDecoder(parse_float=_finite, parse_constant=self._not_json)
        self._text = text
        self._budget = Budget("json: ")
        self._line_at = 0
        self._line_no = 1

    def read(self) -> Node:
        try:
            node, end = self._value(self._space(0), 0)
        except self._json.JSONDecodeError as error:
            raise DocumentError(f"json: {error.msg}", error.lineno) from None
        except ValueError:
            raise DocumentError("json: a number has too many digits", self._line_no) from None
        end = self._space(end)
        if end != len(self._text):
            self._expected("the end of the document", end)
        return node

    def _value(self, at: int, depth: int) -> tuple[Node, int]:
        line = self._line(at)
        self._budget.check_depth(depth, line)
        opening = self._text[at : at + 1]
        if opening == "{":
            return self._object(at, depth)
        if opening == "[":
            return self._array(at, depth)
        value, end = self._scalar(at, line)
        return Node(value, line), end

    def _scalar(self, at: int, line: int) -> tuple[Any, int]:
        value, end = self._scalars.raw_decode(self._text, at)
        self._budget.spend(scalar_size(value), line)
        return (without_surrogates(value) if isinstance(value, str) else value), end

    def _array(self, at: int, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        line = self._line(at)
        self._budget.spend(1, line)
        at = self._space(at + 1)
        while self._text[at : at + 1] != "]":
            at = self._separator(at, first=not items)
            item, at = self._value(at, depth + 1)
            items.append(item)
            at = self._space(at)
        return Node(items, line), at + 1

    def _object(self, at: int, depth: int) -> tuple[Node, int]:
        members: dict[str, Node] = {}
        mapping = Node(members, self._line(at))
        self._budget.spend(1, mapping.line)
        first = True
        at = self._space(at + 1)
        while self._text[at : at + 1] != "}":
            at = self._separator(at, first=first)
            first = False
            line = self._line(at)
            if self._text[at : at + 1] != '"':
                self._expected("a field name in double quotes", at)
            key, at = self._scalar(at, line)
            at = self._space(at)
            if self._text[at : at + 1] != ":":
                self._expected("':'", at)
            value, at = self._value(self._space(at + 1), depth + 1)
            value.line = line
            if key in members:
                mapping.note_duplicate(key, line)
                value = _decoded_into(members[key], value)
            members[key] = value
            at = self._space(at)
        return mapping, at + 1

    def _separator(self, at: int, *, first: bool) -> int:
        if first:
            return at
        if self._text[at : at + 1] != ",":
            self._expected("','", at)
        return self._space(at + 1)

    def _space(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        assert match is not None
        return match.end()

    def _line(self, at: int) -> int:
        self._line_no += self._text.count("\n", self._line_at, at)
        self._line_at = at
        return self._line_no

    def _expected(self, what: str, at: int) -> NoReturn:
        found = repr(self._text[at]) if at < len(self._text) else "the end of the text"
        raise DocumentError(f"json: expected {what}, found {found}", self._line(at))

    def _not_json(self, constant: str) -> NoReturn:
        raise DocumentError(f"json: {constant} is not a JSON value", None)


def _finite(digits: str) -> float:
    """A number. A number that is too large for a float becomes the largest float."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(digits)))


def _decoded_into(old: Node, new: Node) -> Node:
    """What Go makes of a key that is set twice: it decodes the later object or array into the earlier one.

    The earlier node is changed in place, so that the cost depends only on the size of the later one.
    """
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        for key, value in new.value.items():
            old.value[key] = _decoded_into(old.value[key], value) if key in old.value else value
        for key, line in new.duplicates or ():
            old.note_duplicate(key, line)
        old.line = new.line
        return old
    if isinstance(old.value, list) and isinstance(new.value, list):
        for i, item in enumerate(new.value[: len(old.value)]):
            new.value[i] = _decoded_into(old.value[i], item)
        return new
    if new.value is None and isinstance(old.value, str):
        old.line = new.line
        return old
    return new
