"""YAML text as a document.

It is read as kube-apiserver reads it (sigs.k8s.io/yaml over go-yaml v2, then JSON): YAML 1.1
booleans (``y``, ``no``, ``on``), but dates and ``1:30`` stay strings; only the first document
counts; a key that is set twice, be it through a merge key, keeps its last value. PyYAML's own
resolver differs in each of these, so only its parser is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from filter_engine.loading.document import MAX_DEPTH, MAX_NODES, DocumentError, Node, set_member


def read(data: bytes) -> Node:
    """Read the first YAML document of some text.

    Raises:
        DocumentError: it is not YAML.
    """
    return _YAMLReader(data).read()


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
                set_member(mapping, _key(key), Node(value.value, key.line, value.duplicates, value.size))
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
                set_member(mapping, key, value)


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
