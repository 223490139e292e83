"""Tables of fields, and the decoder that follows them: from a document to plain data, with every fault.

A table names each field of a format once, with its type. Unknown and duplicate fields are lenient problems:
kube-apiserver only warns about them, and so does a policy that is loaded with ``strict=False``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
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
        name: what the object is called in the JSON Schema and in the table of descriptions.
        fields: the type of each field, by name: ``str``, ``int``, ``float``, ``bool``, ``datetime``,
            :data:`INT_OR_STR`, one of the classes of this module, or None for any value.
        any_case: names that kube-apiserver also accepts with other upper and lower case letters.
        is_condition: whether the object restricts what a rule matches.
        foreign: what errors say about fields that others have added to the format, by name.
    """

    name: str
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


# A number or a text, such as a response code and ``4xx``.
INT_OR_STR = int | str
_ZERO: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, datetime: None, INT_OR_STR: 0}

Path = tuple[str | int, ...]


class Decoder:
    """Decodes nodes to plain data by the tables, and collects everything that does not fit.

    As in Go, null leaves a field at its zero value, and a null element of a list becomes the zero value. In a
    format that kube-apiserver does not read, null is a value of a wrong type: a condition whose value was
    forgotten would match everything.

    Args:
        homes: objects of the format by their names, to find where a misplaced field belongs.
        problems: collects what does not fit.
        advise: says what to do about a text in place of a list, by path and text; the answer may be empty.
        is_kubernetes: whether kube-apiserver reads the format too, and so only warns about some faults.
    """

    def __init__(
        self,
        homes: Mapping[str, Struct],
        problems: Problems,
        advise: Callable[[Path, str], str],
        *,
        is_kubernetes: bool = True,
    ) -> None:
        self._problems = problems
        self._homes = homes
        self._advise = advise
        self._is_kubernetes = is_kubernetes

    def decode(self, node: Node, schema: Any, path: Path) -> Any:
        value = node.value
        if schema is None:
            self._check_any(node, path)
            return _plain(node)
        if value is None:
            if not self._takes_null(schema):
                self._wrong_type(node, _expected(schema), path, "give it a value, or leave it out")
            return _zero(schema)
        if isinstance(schema, Struct):
            return self._struct(node, schema, path)
        if isinstance(schema, List):
            if not isinstance(value, list):
                self._wrong_type(node, "a list", path, self._list_hint(value, schema, path))
                return []
            return [self.decode(item, schema.item, (*path, i)) for i, item in enumerate(value)]
        if isinstance(schema, Map):
            if not isinstance(value, dict):
                self._wrong_type(node, "an object", path)
                return {}
            self._duplicates(node, path)
            return {key: self.decode(item, schema.value, (*path, key)) for key, item in value.items()}
        if schema is datetime:
            return self._timestamp(node, path)
        expected = int | float if schema is float else schema
        if not isinstance(value, expected) or (schema is not bool and isinstance(value, bool)):
            needs_quotes = schema is str and isinstance(value, (bool, int, float))
            self._wrong_type(node, _expected(schema), path, "put it in quotes" if needs_quotes else "")
            return _zero(schema)
        if schema is int and not MIN_INT64 <= value <= MAX_INT64:
            self._wrong_type(node, "an integer of 64 bits", path)
            return 0
        return value

    def _takes_null(self, schema: Any) -> bool:
        # kubectl and code generators write creationTimestamp: null.
        return self._is_kubernetes or schema is datetime

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
            elif child.value is not None or not self._takes_null(schema.fields[known]):
                decoded[known] = self.decode(child, schema.fields[known], (*path, key))
        return decoded

    def _field(self, key: str, schema: Struct) -> str | None:
        """The name of the field that a key sets; None if the key is unknown."""
        if key in schema.fields:
            return key
        return next((name for name in schema.any_case if name.casefold() == key.casefold()), None)

    def _duplicates(self, node: Node, path: Path) -> None:
        for key, line in node.duplicates or ():
            if self._problems.takes(lenient=self._is_kubernetes):
                name = dotted((*path, key))
                message = f'duplicate field "{name}"'
                hint = "kube-apiserver takes the last one" if self._is_kubernetes else "remove one of them"
                self._add(name, message, line, lenient=self._is_kubernetes, hint=hint)

    def _check_any(self, node: Node, path: Path, *, in_unknown: bool = False) -> None:
        """Find the faults that kube-apiserver reports even in values that it does not use."""
        if isinstance(node.value, float) and not math.isfinite(node.value):
            if self._problems.takes(lenient=False):
                self._add(dotted(path), f"json: unsupported value: {node.value}", node.line)
            return
        if not in_unknown:
            self._duplicates(node, path)
        for child in children(node):
            self._check_any(child, path, in_unknown=in_unknown)

    def _unknown(self, key: str, child: Node, schema: Struct, path: Path) -> None:
        if self._problems.takes(lenient=self._is_kubernetes):
            name = dotted((*path, key))
            hint = "; ".join(self._hints(key, schema))
            self._add(name, f'unknown field "{name}"', child.line, lenient=self._is_kubernetes, hint=hint)

    def _hints(self, key: str, schema: Struct) -> Iterator[str]:
        if self._is_kubernetes:
            more = ", so that the rule matches more than it says" if schema.is_condition else ""
            yield f"kube-apiserver warns and ignores it{more}"
        if key in schema.foreign:
            yield schema.foreign[key]
            return
        home = next(
            (title for title, other in self._homes.items() if other is not schema and key in other.fields),
            None,
        )
        if home:
            yield f'"{key}" is a field of {home}: check the indentation'
            return
        if len(key) > _LONGEST_FIELD:
            return
        import difflib  # noqa: PLC0415 - a policy that loads does not pay for it

        for close in difflib.get_close_matches(key, schema.fields, n=1):
            yield f'did you mean "{close}"?'

    def _timestamp(self, node: Node, path: Path) -> str | None:
        if isinstance(node.value, str) and is_rfc3339(node.value):
            return node.value
        self._wrong_type(node, _expected(datetime), path)
        return None

    def _list_hint(self, value: Any, schema: List, path: Path) -> str:
        """What to do about a value in place of a list."""
        if isinstance(value, str):
            return self._advise(path, value) or f"write [{_quoted(value)}]"
        if isinstance(value, dict) and isinstance(schema.item, Struct):
            return "each element of a list begins with a dash: '- '"
        if isinstance(value, int) and schema.item in (int, INT_OR_STR) and not isinstance(value, bool):
            return f"write [{digits(value) or '…'}]"
        return ""

    def _wrong_type(self, node: Node, expected: str, path: Path, hint: str = "") -> None:
        if not self._problems.takes(lenient=False):
            return
        name = dotted(path)
        message = f"expected {expected}, found {described(node.value)}"
        self._add(name, f"{name}: {message}" if name else message, node.line, hint=hint)

    def _add(
        self, field: str, message: str, line: int | None, *, lenient: bool = False, hint: str = ""
    ) -> None:
        self._problems.add(PolicyProblem(field, message, line, lenient=lenient, hint=hint))


_LONGEST_FIELD = 40  # characters of an unknown field for which a similar name is looked up
_LONGEST_NUMBER = 4096  # bits of an integer whose digits are shown
_ARTICLE = {
    datetime: "a time such as 2006-01-02T15:04:05Z",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    INT_OR_STR: "an integer or a string",
}


def _expected(schema: Any) -> str:
    if isinstance(schema, List):
        return "a list"
    return "an object" if isinstance(schema, (Struct, Map)) else _ARTICLE[schema]


def _zero(schema: Any) -> Any:
    if isinstance(schema, List):
        return []
    return {} if isinstance(schema, (Struct, Map)) else _ZERO[schema]


def described(value: Any) -> str:
    """A value for the end of the sentence "expected ..., found ..."."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {digits(value) or 'with very many digits'}"
    if isinstance(value, str):
        return f"the string {shortened(value)!r}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"


def digits(number: Any) -> str:
    """A number as text; empty for an integer that is too long to be written in a message."""
    is_long = isinstance(number, int) and number.bit_length() > _LONGEST_NUMBER
    return "" if is_long else shortened(str(number))


def _quoted(text: str) -> str:
    return json.dumps(shortened(text), ensure_ascii=False)


def dotted(path: Path) -> str:
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
