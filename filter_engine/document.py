"""YAML and JSON text as a tree that knows its lines.

YAML is read as kube-apiserver reads it (sigs.k8s.io/yaml over go-yaml v2, then JSON): YAML 1.1
booleans (``y``, ``no``, ``on``), but dates and ``1:30`` stay strings; only the first document
counts; a key that is set twice, be it through a merge key, keeps its last value. PyYAML's own
resolver differs in each of these, so only its parser is used. Text that starts with ``{`` is
JSON and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

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


def parse(text: str | bytes) -> Node:
    """Read YAML or JSON text.

    Raises:
        DocumentError: it is neither.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data.lstrip().startswith(b"{"):
        return _JSONReader(data.decode("utf-8", "replace")).read()
    return _YAMLReader(data).read()


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


class _YAMLReader:
    """Composes the events of PyYAML's parser into nodes.

    The parser works without recursion and gives events one by one, so depth and aliasing can be
    bounded here; PyYAML's own composer in C overflows the stack on deep input.
    """

    def __init__(self, data: bytes) -> None:
        import yaml  # noqa: PLC0415 - a JSON policy does not need it

        self._yaml = yaml
        self._data = data
        self._anchors: dict[str, Node | None] = {}
        self._total = 0

    def read(self) -> Node:
        yaml = self._yaml
        events = yaml.parse(self._data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        try:
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    root = self._compose(events, next(events), 0)
                    next(events)  # the end of the document: what stands after its value is an error
                    return root
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise DocumentError(f"yaml: {error.problem or error.context}", _line(mark)) from None
        except yaml.YAMLError as error:
            raise DocumentError("yaml: " + " ".join(str(error).split()), None) from None
        return Node(None, 1)

    def _compose(self, events: Iterator[Any], event: Any, depth: int) -> Node:
        yaml, anchor, line = self._yaml, event.anchor, _line(event.start_mark)
        if depth > MAX_DEPTH:
            raise DocumentError(f"yaml: nested more than {MAX_DEPTH} levels deep", line)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(anchor, line)
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event.value, event.tag, event.implicit[0], line), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self._compose(events, item, depth + 1))
            node = Node(items, line, size=1 + sum(item.size for item in items))
        else:
            node = self._mapping(events, line, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        self._total += 1
        if self._total > MAX_NODES or node.size > MAX_NODES:
            raise DocumentError("yaml: document is too large or contains excessive aliasing", line)
        return node

    def _alias(self, anchor: str, line: int | None) -> Node:
        if anchor not in self._anchors:
            raise DocumentError(f"yaml: unknown anchor {anchor!r} referenced", line)
        target = self._anchors[anchor]
        if target is None:
            raise DocumentError(f"yaml: anchor {anchor!r} value contains itself", line)
        return Node(target.value, line, target.duplicates, target.size)

    def _mapping(self, events: Iterator[Any], line: int | None, depth: int) -> Node:
        mapping = Node({}, line)
        while not isinstance(event := next(events), self._yaml.MappingEndEvent):
            is_merge = isinstance(event, self._yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = self._compose(events, event, depth + 1)
            value = self._compose(events, next(events), depth + 1)
            if is_merge:
                self._merge(mapping, value)
            else:
                _set(mapping, _key(key), Node(value.value, key.line, value.duplicates, value.size))
        return mapping

    def _merge(self, mapping: Node, merged: Node) -> None:
        # Earlier elements of a list take precedence: the last one set wins, so go backwards.
        sources = list(reversed(merged.value)) if isinstance(merged.value, list) else [merged]
        for source in sources:
            if not isinstance(source.value, dict):
                raise DocumentError(
                    "yaml: map merge requires map or sequence of maps as the value", merged.line
                )
            for key, value in source.value.items():
                _set(mapping, key, value)


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
            _set(mapping, key, value, merge=_merge_json)
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


def _set(mapping: Node, key: str, value: Node, merge: Any = None) -> None:
    assert isinstance(mapping.value, dict)
    if key in mapping.value:
        mapping.duplicates.append((key, value.line))
        if merge is not None:
            value = merge(mapping.value[key], value)
    mapping.value[key] = value
    mapping.size += value.size


def _line(mark: Any) -> int | None:
    return None if mark is None else mark.line + 1


_BOOLS = {
    spelling: value
    for value, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_FLOAT_WORDS = {
    sign + word: float(sign + word[1:])
    for sign, words in (("", (".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF")),
                        ("+", (".inf", ".Inf", ".INF")),
                        ("-", (".inf", ".Inf", ".INF")))
    for word in words
}  # fmt: skip
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LONGEST_INT = 70  # 64 binary digits, a sign and a prefix; Go reads no longer number as an integer
_TAG = "tag:yaml.org,2002:"
_TAG_TYPES: dict[str, tuple[type, ...]] = {
    _TAG + "bool": (bool,),
    _TAG + "int": (int,),
    _TAG + "float": (float, int),
    _TAG + "null": (type(None),),
}


def _scalar(text: str, tag: str | None, plain: bool, line: int | None) -> bool | int | float | str | None:
    """go-yaml v2's ``resolve``: the value of a scalar."""
    if tag == _TAG + "binary":
        raise DocumentError("yaml: !!binary is not supported in a policy", line)
    if tag in _TAG_TYPES:
        value = _resolve(text)
        if (isinstance(value, bool) and tag != _TAG + "bool") or not isinstance(value, _TAG_TYPES[tag]):
            raise DocumentError(f"yaml: cannot decode {text!r} as a !!{tag[len(_TAG) :]}", line)
        return value
    return _resolve(text) if tag is None and plain else text


def _resolve(text: str) -> bool | int | float | str | None:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text in _FLOAT_WORDS:
        return _FLOAT_WORDS[text]
    if text[0] in "+-.0123456789":
        digits = text if text[0] == "." else text.replace("_", "")
        if len(digits) <= _LONGEST_INT and _INT.fullmatch(digits):
            octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
            number = int("0o".join(octal.groups()), 0) if octal else int(digits, 0)
            if -(1 << 63) <= number < 1 << 64:
                return number
        if _FLOAT.fullmatch(digits) and not math.isinf(float(digits)):
            return float(digits)
    return text


def _key(node: Node) -> str:
    """A mapping's key as the JSON that kube-apiserver makes of YAML has it."""
    value = node.value
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    kind = "null" if value is None else type(value).__name__
    raise DocumentError(f"yaml: unsupported map key of type {kind}", node.line)
