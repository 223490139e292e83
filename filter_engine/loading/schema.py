"""Tables of fields, and the decoder that follows them: from a document to plain data, with every fault.

A table names each field of a format once, with its type. Unknown and duplicate fields are lenient problems:
kube-apiserver only warns about them, and so does a policy that is loaded with ``strict=False``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from filter_engine.errors import PolicyProblem, Problems, shortened
from filter_engine.loading.document import Node, children
from filter_engine.loading.times import is_rfc3339
from filter_engine.loading.yaml_scalars import MAX_INT64, MIN_INT64


@dataclass(frozen=True)
class Struct:
    """Fields of an object.

    Attributes:
        fields: the type of each field, by name: ``str``, ``int``, ``bool``, ``datetime``, one of the
            classes of this module, or None for any value.
        any_case: names that kube-apiserver also accepts with other upper and lower case letters.
        is_condition: whether the object restricts what a rule matches.
        foreign: what errors say about fields that others have added to the format, by name.
    """

    fields: Mapping[str, Any]
    any_case: frozenset[str] = frozenset()
    is_condition: bool = False
    foreign: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class List:
    item: Any


@dataclass(frozen=True)
class Map:
    value: Any


_ZERO: dict[Any, Any] = {str: "", int: 0, bool: False, datetime: None}

Path = tuple[str | int, ...]


class Decoder:
    """Decodes nodes to plain data by the tables, and collects everything that does not fit.

    As in Go, null leaves a field at its zero value, and a null element of a list becomes the zero value.

    Args:
        homes: objects of the format by their names, to find where a misplaced field belongs.
        problems: collects what does not fit.
        advise: says what to do about a text in place of a list, by path and text; the answer may be empty.
    """

    def __init__(
        self, homes: Mapping[str, Struct], problems: Problems, advise: Callable[[Path, str], str]
    ) -> None:
        self._problems = problems
        self._homes = homes
        self._advise = advise

    def decode(self, node: Node, schema: Any, path: Path) -> Any:
        value = node.value
        if isinstance(schema, Struct):
            return self._struct(node, schema, path) if value is not None else {}
        if isinstance(schema, List):
            if value is not None and not isinstance(value, list):
                self._wrong_type(node, "a list", path)
                return []
            return [self.decode(item, schema.item, (*path, i)) for i, item in enumerate(value or [])]
        if isinstance(schema, Map):
            if value is not None and not isinstance(value, dict):
                self._wrong_type(node, "an object", path)
                return {}
            self._duplicates(node, path)
            return {key: self.decode(item, schema.value, (*path, key)) for key, item in (value or {}).items()}
        if schema is None:
            self._check_any(node, path)
            return _plain(node)
        if value is None:
            return _ZERO[schema]
        if schema is datetime:
            return self._timestamp(node, path)
        if not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
            self._wrong_type(node, _ARTICLE[schema], path)
            return _ZERO[schema]
        if schema is int and not MIN_INT64 <= value <= MAX_INT64:
            self._wrong_type(node, "an integer of 64 bits", path)
            return 0
        return value

    def _struct(self, node: Node, schema: Struct, path: Path) -> dict[str, Any]:
        if not isinstance(node.value, dict):
            self._wrong_type(node, "an object", path)
            return {}
        self._duplicates(node, path)
        decoded = {}
        for key, child in node.value.items():
            known = self._field(key, schema)
            if known != key:
                self._unknown(key, child, schema, path)
            if known is None:
                self._check_any(child, (*path, key), in_unknown=True)
            elif child.value is not None:
                decoded[known] = self.decode(child, schema.fields[known], (*path, key))
        return decoded

    def _field(self, key: str, schema: Struct) -> str | None:
        """The name of the field that a key sets; None if the key is unknown."""
        if key in schema.fields:
            return key
        return next((name for name in schema.any_case if name.casefold() == key.casefold()), None)

    def _duplicates(self, node: Node, path: Path) -> None:
        for key, line in node.duplicates or ():
            if self._problems.takes(lenient=True):
                name = _dotted((*path, key))
                message = f'duplicate field "{name}"'
                self._add(name, message, line, lenient=True, hint="kube-apiserver takes the last one")

    def _check_any(self, node: Node, path: Path, *, in_unknown: bool = False) -> None:
        """Find the faults that kube-apiserver reports even in values that it does not use."""
        if isinstance(node.value, float) and not math.isfinite(node.value):
            if self._problems.takes(lenient=False):
                self._add(_dotted(path), f"json: unsupported value: {node.value}", node.line)
            return
        if not in_unknown:
            self._duplicates(node, path)
        for child in children(node):
            self._check_any(child, path, in_unknown=in_unknown)

    def _unknown(self, key: str, child: Node, schema: Struct, path: Path) -> None:
        if self._problems.takes(lenient=True):
            name = _dotted((*path, key))
            hint = self._hint(key, schema)
            self._add(name, f'unknown field "{name}"', child.line, lenient=True, hint=hint)

    def _hint(self, key: str, schema: Struct) -> str:
        hint = "kube-apiserver warns and ignores it"
        if schema.is_condition:
            hint += ", so that the rule matches more than it says"
        if key in schema.foreign:
            return f"{hint}; {schema.foreign[key]}"
        home = next(
            (title for title, other in self._homes.items() if other is not schema and key in other.fields),
            None,
        )
        if home:
            return f'{hint}; "{key}" is a field of {home}: check the indentation'
        if len(key) > _LONGEST_FIELD:
            return hint
        import difflib  # noqa: PLC0415 - a policy that loads does not pay for it

        close = difflib.get_close_matches(key, schema.fields, n=1)
        return hint + (f'; did you mean "{close[0]}"?' if close else "")

    def _timestamp(self, node: Node, path: Path) -> str | None:
        if isinstance(node.value, str) and is_rfc3339(node.value):
            return node.value
        self._wrong_type(node, "a time such as 2006-01-02T15:04:05Z", path)
        return None

    def _wrong_type(self, node: Node, expected: str, path: Path) -> None:
        if not self._problems.takes(lenient=False):
            return
        name = _dotted(path)
        message = f"expected {expected}, found {_described(node.value)}"
        hint = ""
        if expected == "a string" and isinstance(node.value, (bool, int, float)):
            hint = "put it in quotes"
        elif expected == "a list" and isinstance(node.value, str):
            hint = self._advise(path, node.value) or f"write [{_quoted(node.value)}]"
        self._add(name, f"{name}: {message}" if name else message, node.line, hint=hint)

    def _add(
        self, field: str, message: str, line: int | None, *, lenient: bool = False, hint: str = ""
    ) -> None:
        self._problems.add(PolicyProblem(field, message, line, lenient=lenient, hint=hint))


_LONGEST_FIELD = 40  # characters of an unknown field for which a similar name is looked up
_ARTICLE = {str: "a string", int: "an integer", bool: "true or false"}


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {shortened(str(value))}"
    if isinstance(value, str):
        return f"the string {shortened(value)!r}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"


def _quoted(text: str) -> str:
    return json.dumps(shortened(text), ensure_ascii=False)


def _dotted(path: Path) -> str:
    """A path as kube-apiserver writes it: ``rules[0].resources[1].group``."""
    text = ""
    for step in path:
        name = f"[{step}]" if isinstance(step, int) else shortened(step)
        text += f".{name}" if text and isinstance(step, str) else name
    return text


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value
