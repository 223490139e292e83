"""YAML text as a document.

It is read as kube-apiserver reads it (sigs.k8s.io/yaml over go-yaml v2, then JSON): YAML 1.1
booleans (``y``, ``no``, ``on``), but dates and ``1:30`` stay strings; only the first document
counts; a key that is set twice, also through a merge key, keeps its last value. PyYAML's own
resolver differs in each of these, so only its parser is used; :mod:`.yaml_scalars` has go-yaml's resolver.

PyYAML's parser is libyaml 0.2; go-yaml's is a port of libyaml 0.1. Wherever they are known to differ, this
module follows go-yaml. Some differences remain, but a text that both accept always gives the same policy.
Only this module refuses flow keys that begin with ``?`` and no space (``{?a: b}``), more than 100 levels,
500,000 values or 16 ``%TAG`` directives, and more than 32 words like ``a:`` at the end of a flow collection's
element. Only go-yaml refuses a document if aliases make more than 99 % of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from filter_engine.errors import shortened
from filter_engine.loading.document import Budget, DocumentError, Node, scalar_size
from filter_engine.loading.yaml_scalars import as_json, key_text, scalar

MAX_DIRECTIVES = 16
_MAX_REPAIRS = 32
_LINE = re.compile("[^\n\r\x85\u2028\u2029]+")
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read(data: bytes) -> Node:
    """Read the first YAML document of some text.

    Raises:
        DocumentError: the text is not YAML, or is too large or nested too deeply.
    """
    budget = Budget("yaml: ")
    repaired = _Repaired(data)
    _check_directives(repaired.text)
    _check_marks(repaired.text)
    while True:
        try:
            return _YAMLReader(repaired, budget).read()
        except _UnexpectedColonError as error:
            repaired.mend(error)


def _check_marks(text: str) -> None:
    """Refuse byte order marks within the text: go-yaml and the parser skip them in different places."""
    if match := _LATE_MARK.search(text):
        line = len(re.findall("\r\n|[\n\r\x85\u2028\u2029]", text[: match.end()]))
        raise DocumentError("yaml: found a byte order mark in the text", line + 1, "remove it")


def _check_directives(text: str) -> None:
    """Refuse too many directives: the parser compares each %TAG directive with all before it."""
    directives = 0
    for line in _LINE.finditer(text):
        directives += line[0].startswith("%")
        if directives > MAX_DIRECTIVES:
            raise DocumentError(f"yaml: more than {MAX_DIRECTIVES} directives", None)
        if line[0].lstrip()[:1] not in ("", "#", "%"):
            return


class _UnexpectedColonError(Exception):
    """The parser refused a ``:`` before ``,`` or a bracket. go-yaml reads it as a part of the word."""

    def __init__(self, index: int, fault: DocumentError) -> None:
        super().__init__(index)
        self.index = index
        self.fault = fault


class _Repaired:
    """A text in which another character stands in for each colon that the parser refuses."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.text = _decoded(data)
        self._repairs = 0
        self._stand_in = ""

    def mend(self, error: _UnexpectedColonError) -> None:
        """Replace the colon. Raises DocumentError if that can't be done, or was done too many times."""
        self._stand_in = self._stand_in or next(
            (char for char in map(chr, range(0xE000, 0xF8FF)) if char not in self.text), ""
        )
        at = error.index
        if self._repairs >= _MAX_REPAIRS or not self._stand_in or self.text[at : at + 1] != ":":
            raise error.fault
        self._repairs += 1
        self.text = f"{self.text[:at]}{self._stand_in}{self.text[at + 1 :]}"
        self.data = self.text.encode()

    def original(self, value: str) -> str:
        """A value with the colons put back."""
        return value.replace(self._stand_in, ":") if self._repairs else value

    def tag_of(self, event: Any) -> str:
        """The tag of a node as it is written in the text; empty if it has none."""
        start = event.start_mark.index
        match = _TAG.match(self.text, start) if self.text[start : start + 1] in ("!", "&") else None
        return "" if match is None else match[1]


_TAG = re.compile(r"(?:&[0-9A-Za-z_-]+\s+)?(!(?:<[^\s>]*>)?\S*)")
_LATE_MARK = re.compile("[\n\r\x85\u2028\u2029]\ufeff")


def _decoded(data: bytes) -> str:
    """A text with characters counted as the parser counts them, as far as the encoding is right: the parser
    stops at the first fault of it."""
    utf16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(data[:2])
    return data.decode(utf16 or "utf-8", "replace").removeprefix("\ufeff")


class _YAMLReader:
    """Composes the events of PyYAML's parser into nodes.

    The parser works without recursion and gives events one by one, so depth and aliasing can be
    bounded here; PyYAML's own composer in C overflows the stack on deep input.
    """

    def __init__(self, source: _Repaired, budget: Budget) -> None:
        import yaml  # noqa: PLC0415 - a JSON policy does not need it

        self._yaml = yaml
        self._source = source
        self._budget = budget
        self._anchors: dict[str, Node | None] = {}
        self._flow_depth = 0

    def read(self) -> Node:
        yaml = self._yaml
        events = yaml.parse(self._source.data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        try:
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if event.version not in (None, (1, 1)):
                        line = _line(event.start_mark)
                        raise DocumentError(
                            "yaml: found incompatible YAML document",
                            line,
                            "kube-apiserver reads only YAML 1.1: remove the directive %YAML",
                        )
                    root = self._value(events, next(events), 0)
                    next(events)  # must be the end of the document: anything else raises an error
                    return root
        except yaml.MarkedYAMLError as error:
            raise self._fault(error) from None
        except yaml.YAMLError as error:
            raise DocumentError("yaml: " + shortened(" ".join(str(error).split())), None) from None
        return Node(None, 1)

    def _fault(self, error: Any) -> Exception:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        fault = DocumentError(f"yaml: {shortened(problem)}", _line(mark))
        if problem == "found unexpected ':'" and mark is not None:
            return _UnexpectedColonError(mark.index, fault)
        if mark is not None and self._source.text[mark.index : mark.index + 1] == "\t":
            fault.hint = "the character is a tab: YAML allows only spaces as indentation"
        return fault

    def _compose(self, events: Iterator[Any], event: Any, depth: int) -> Node:
        yaml, anchor, line = self._yaml, event.anchor, _line(event.start_mark)
        self._budget.check_depth(depth, line)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(anchor, line)
        if anchor is not None:
            self._anchors[anchor] = None
        self._budget.spend(1, line)
        if self._flow_depth and _ends_late(self._source.tag_of(event)):
            raise DocumentError(
                "yaml: a tag goes on up to the next space", line, "put a space behind it, before the comma"
            )
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(events, line, depth, flow=event.flow_style)
        else:
            node = self._mapping(events, line, depth, flow=event.flow_style)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _value(self, events: Iterator[Any], event: Any, depth: int) -> Node:
        """Compose a value that is not a key of a mapping."""
        node = self._compose(events, event, depth)
        if isinstance(node.value, float):
            node.value = as_json(node.value)
        return node

    def _alias(self, anchor: str, line: int | None) -> Node:
        if anchor not in self._anchors:
            raise DocumentError(f"yaml: unknown anchor {shortened(anchor)!r} referenced", line)
        target = self._anchors[anchor]
        if target is None:
            raise DocumentError(f"yaml: anchor {shortened(anchor)!r} value contains itself", line)
        self._budget.spend(target.size, line)
        return Node(target.value, line, target.duplicates, target.size)

    def _scalar(self, event: Any, line: int | None) -> Node:
        text, tag, plain = self._source.original(event.value), event.tag, event.implicit[0]
        size = scalar_size(text)
        self._budget.spend(size - 1, line)
        if plain and not event.style:
            if self._flow_depth and "?" in text:
                raise DocumentError(
                    "yaml: did not find expected ',' or ']' or '}'",
                    line,
                    f"kube-apiserver takes no '?' in a word between brackets: quote {shortened(text)!r}",
                )
            plain = self._source.tag_of(event) != "!"
        elif plain and tag in (None, "!"):
            plain = False  # quoted, with the tag !
        return Node(scalar(text, tag, plain, line), line, size=size)

    def _sequence(self, events: Iterator[Any], line: int | None, depth: int, *, flow: bool) -> Node:
        self._flow_depth += flow
        items: list[Node] = []
        size = 1
        while not isinstance(event := next(events), self._yaml.SequenceEndEvent):
            item = self._value(events, event, depth + 1)
            items.append(item)
            size += item.size
        self._flow_depth -= flow
        return Node(items, line, size=size)

    def _mapping(self, events: Iterator[Any], line: int | None, depth: int, *, flow: bool) -> Node:
        yaml = self._yaml
        self._flow_depth += flow
        mapping = Node({}, line)
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and self._is_merge(event)
            key = self._compose(events, event, depth + 1)
            event = next(events)
            value = self._value(events, event, depth + 1)
            if is_merge:
                self._merge(mapping, value, is_alias=isinstance(event, yaml.AliasEvent))
            else:
                _set(mapping, key_text(key.value, key.line), value, key.line)
        self._flow_depth -= flow
        return mapping

    def _is_merge(self, event: Any) -> bool:
        return bool(event.value == "<<" and (event.implicit[0] or event.tag == _MERGE_TAG))

    def _merge(self, mapping: Node, merged: Node, *, is_alias: bool) -> None:
        # Earlier elements of a list take precedence: the last one set wins, so go backwards.
        sources = [merged]
        if isinstance(merged.value, list) and not is_alias:
            sources = list(reversed(merged.value))
        for source in sources:
            if not isinstance(source.value, dict):
                raise DocumentError(
                    "yaml: map merge requires map or sequence of maps as the value", merged.line
                )
            self._budget.spend(len(source.value), merged.line)
            for key, value in source.value.items():
                _set(mapping, key, value, value.line)


def _ends_late(tag: str) -> bool:
    """Whether go-yaml, between brackets, reads more characters as a part of the tag than the parser does."""
    return not tag.startswith("!<") and any(char in tag for char in ",[]")


def _set(mapping: Node, key: str, value: Node, line: int | None) -> None:
    """Set a member of a mapping; its line is that of the key. A key that is set already is noted."""
    assert isinstance(mapping.value, dict)
    if key in mapping.value:
        mapping.note_duplicate(key, line)
    mapping.value[key] = Node(value.value, line, value.duplicates, value.size)
    mapping.size += value.size


def _line(mark: Any) -> int | None:
    return None if mark is None else int(mark.line) + 1
