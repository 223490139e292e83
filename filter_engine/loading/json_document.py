"""JSON text as a document."""

from __future__ import annotations

from typing import NoReturn

from filter_engine.loading.document import MAX_DEPTH, DocumentError, Node, set_member


def read(data: bytes) -> Node:
    """Read JSON text; bytes that are no UTF-8 are replaced.

    Raises:
        DocumentError: it is not one JSON value.
    """
    return _JSONReader(data.decode("utf-8", "replace")).read()


class _JSONReader:
    """Reads one JSON value, strictly as RFC 8259 has it, with the line of each member."""

    def __init__(self, text: str) -> None:
        import json  # noqa: PLC0415 - a YAML policy does not need it

        self._json = json
        self._scalars = json.JSONDecoder(parse_constant=self._not_json)
        self._text = text
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
        if depth > MAX_DEPTH:
            raise DocumentError(f"json: nested more than {MAX_DEPTH} levels deep", line)
        opening = self._text[at : at + 1]
        if opening == "{":
            return self._object(at, depth)
        if opening == "[":
            items: list[Node] = []
            at = self._space(at + 1)
            while self._text[at : at + 1] != "]":
                at = self._separator(at, first=not items)
                item, at = self._value(at, depth + 1)
                items.append(item)
                at = self._space(at)
            return Node(items, line), at + 1
        value, end = self._scalars.raw_decode(self._text, at)
        return Node(value, line), end

    def _object(self, at: int, depth: int) -> tuple[Node, int]:
        mapping = Node({}, self._line(at))
        first = True
        at = self._space(at + 1)
        while self._text[at : at + 1] != "}":
            at = self._separator(at, first=first)
            first = False
            line = self._line(at)
            if self._text[at : at + 1] != '"':
                self._expected("a field name in double quotes", at)
            key, at = self._scalars.raw_decode(self._text, at)
            at = self._space(at)
            if self._text[at : at + 1] != ":":
                self._expected("':'", at)
            value, at = self._value(self._space(at + 1), depth + 1)
            value.line = line
            set_member(mapping, key, value, merge=_merge_json)
            at = self._space(at)
        return mapping, at + 1

    def _separator(self, at: int, *, first: bool) -> int:
        if first:
            return at
        if self._text[at : at + 1] != ",":
            self._expected("','", at)
        return self._space(at + 1)

    def _space(self, at: int) -> int:
        while self._text[at : at + 1] in (" ", "\t", "\r", "\n"):
            at += 1
        return at

    def _line(self, at: int) -> int:
        self._line_no += self._text.count("\n", self._line_at, at)
        self._line_at = at
        return self._line_no

    def _expected(self, what: str, at: int) -> NoReturn:
        found = repr(self._text[at]) if at < len(self._text) else "the end of the text"
        raise DocumentError(f"json: expected {what}, found {found}", self._line(at))

    def _not_json(self, constant: str) -> NoReturn:
        raise DocumentError(f"json: {constant} is not a JSON value", None)


def _merge_json(old: Node, new: Node) -> Node:
    """What Go makes of a key set twice: it decodes a later object or array into the earlier one."""
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        merged = dict(old.value)
        for key, value in new.value.items():
            merged[key] = _merge_json(merged[key], value) if key in merged else value
        return Node(merged, new.line, old.duplicates + new.duplicates)
    if isinstance(old.value, list) and isinstance(new.value, list):
        items = [
            _merge_json(old.value[i], item) if i < len(old.value) else item
            for i, item in enumerate(new.value)
        ]
        return Node(items, new.line)
    return new
