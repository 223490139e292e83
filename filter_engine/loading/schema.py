"""Tables of fields, and the decoder that goes by them: from a document to plain data, with every fault.

A table names each field of a format once, with its type. Unknown and duplicate fields are faults that
the lenient may let pass: kube-apiserver warns and ignores them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from filter_engine.errors import PolicyProblem
from filter_engine.loading.document import Node


@dataclass(frozen=True)
class Struct:
    """Fields of an object.

    Attributes:
        fields: the type of each, by name: ``str``, ``int``, ``bool``, ``datetime``, one of the classes
            of this module, or None for any value.
        any_case: names that kube-apiserver also reads in another case.
        is_condition: whether the object restricts what a rule matches.
        foreign: what to say of fields that others have added to the format, by name.
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
    """Turns nodes into plain data by the tables, and collects everything that does not fit.

    As in Go, null leaves a field at its zero value, and a null element of a list becomes one.
    """

    def __init__(self, homes: Mapping[str, Struct]) -> None:
        self.problems: list[PolicyProblem] = []
        self._homes = homes

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
            return {key: self.decode(item, schema.value, (*path, key)) for key, item in (value or {}).items()}
        if schema is None:
            return _plain(node)
        if value is None:
            return _ZERO[schema]
        if schema is datetime:
            return self._timestamp(node, path)
        if not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
            self._wrong_type(node, _ARTICLE[schema], path)
            return _ZERO[schema]
        return value

    def _struct(self, node: Node, schema: Struct, path: Path) -> dict[str, Any]:
        if not isinstance(node.value, dict):
            self._wrong_type(node, "an object", path)
            return {}
        for key, line in node.duplicates:
            name = _dotted((*path, key))
            self._lenient(name, f'duplicate field "{name}"', line, "kube-apiserver takes the last one")
        decoded = {}
        for key, child in node.value.items():
            known = self._field(key, schema)
            if known != key:
                self._unknown(key, child, schema, path)
            if known is not None and child.value is not None:
                decoded[known] = self.decode(child, schema.fields[known], (*path, key))
        return decoded

    def _field(self, key: str, schema: Struct) -> str | None:
        """The field that a key sets, or None."""
        if key in schema.fields:
            return key
        return next((name for name in schema.any_case if name.lower() == key.lower()), None)

    def _unknown(self, key: str, child: Node, schema: Struct, path: Path) -> None:
        name = _dotted((*path, key))
        self._lenient(name, f'unknown field "{name}"', child.line, self._hint(key, schema))

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
        import difflib  # noqa: PLC0415 - a policy that loads does not pay for it

        close = difflib.get_close_matches(key, schema.fields, n=1)
        if home:
            return f'{hint}; "{key}" is a field of {home}: check the indentation'
        return hint + (f'; did you mean "{close[0]}"?' if close else "")

    def _timestamp(self, node: Node, path: Path) -> str | None:
        text = node.value
        try:
            if isinstance(text, str) and text[10:11] == "T":
                datetime.fromisoformat(text[:19])
                if _ZONE.fullmatch(text[19:]):
                    return text
        except ValueError:
            pass
        self._wrong_type(node, "a time such as 2006-01-02T15:04:05Z", path)
        return None

    def _wrong_type(self, node: Node, expected: str, path: Path) -> None:
        name = _dotted(path)
        message = f"expected {expected}, found {_described(node.value)}"
        hint = ""
        if expected == "a string" and isinstance(node.value, (bool, int, float)):
            hint = "put it in quotes"
        elif expected == "a list" and isinstance(node.value, str):
            hint = f"write [{node.value}]"
        self.problems.append(
            PolicyProblem(name, f"{name}: {message}" if name else message, node.line, hint=hint)
        )

    def _lenient(self, field: str, message: str, line: int | None, hint: str) -> None:
        self.problems.append(PolicyProblem(field, message, line, lenient=True, hint=hint))


_ZONE = re.compile(r"([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_ARTICLE = {str: "a string", int: "an integer", bool: "true or false"}


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value!r}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"


def _dotted(path: Path) -> str:
    """A path as kube-apiserver writes it: ``rules[0].resources[1].group``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value
