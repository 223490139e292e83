"""Policies that are parts of other files, and the names of such parts.

A part has the name of its place, ``data.policy.yaml`` in a ConfigMap or
``services.kube-api.audit_log.configuration.policy`` in RKE's cluster.yml, or that of an OpenShift filter. The
name of a whole YAML document in a file with several is ``document-2``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from filter_engine.errors import PolicyError, PolicyProblem, shortened
from filter_engine.loading import json_document, openshift, yaml_document
from filter_engine.loading.document import DocumentError, Node
from filter_engine.loading.recognition import embedded, is_policy, place

Reader = Callable[[bytes], Node]
_SEPARATOR = re.compile(rb"^---(?=\s|$)", re.MULTILINE)
_INDEX = re.compile(r"\[([0-9]{1,6})\]")
_MAX_DOCUMENTS = 1000
_SHOWN = 5


def read_part(data: bytes, part: str, *, is_json: bool, source: str) -> Node | bytes:
    """Find a part of a file.

    Args:
        data: the content of the file.
        part: the name of the part.
        is_json: whether the file is read as JSON.
        source: what errors call the file.

    Returns:
        A document, or the text of one. The lines of both are those of the file.

    Raises:
        PolicyError: the file can't be read, or has no such part.
    """
    documents = list(_documents(data, is_json=is_json, source=source))
    for number, root in enumerate(documents, start=1):
        if part == f"document-{number}":
            return root
        for path, _ in openshift.find_filters(root) or ():
            if openshift.filter_name(root, path) == part:
                return openshift.only(root, path)
        node = _resolve(root, part)
        if node is not None and isinstance(node.value, (dict, str)):
            break
    else:
        raise PolicyError(source, [_no_part(documents, part)])
    if isinstance(node.value, str):
        # The text of a block begins on the line behind its key.
        return b"\n" * (node.line or 0) + node.value.encode("utf-8", "surrogatepass")
    return node


def _documents(data: bytes, *, is_json: bool, source: str) -> Iterator[Node]:
    if is_json:
        yield _read(json_document.read, data, source)
        return
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(data))]
    if len(starts) > _MAX_DOCUMENTS:
        message = f"the file has more than {_MAX_DOCUMENTS:,} YAML documents"
        raise PolicyError(source, [PolicyProblem("", message)])
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        lines = data.count(b"\n", 0, start)
        root = _read(yaml_document.read, b"\n" * lines + data[start:end], source)
        if root.value is not None:
            yield root


def _read(read: Reader, data: bytes, source: str) -> Node:
    try:
        return read(data)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error), error.line, hint=error.hint)]) from None


def _resolve(node: Node, part: str) -> Node | None:
    """The value at a place. Keys may have dots in them: longer ones are tried first."""
    if not part:
        return node
    if isinstance(node.value, list):
        match = _INDEX.match(part)
        if match is None or int(match[1]) >= len(node.value):
            return None
        return _resolve(node.value[int(match[1])], part[match.end() :].removeprefix("."))
    if not isinstance(node.value, dict):
        return None
    for key in sorted(node.value, key=len, reverse=True):
        rest = part.removeprefix(key)
        if key and rest != part and (not rest or rest.startswith((".", "["))):
            found = _resolve(node.value[key], rest.removeprefix("."))
            if found is not None:
                return found
    return None


def _no_part(documents: list[Node], part: str) -> PolicyProblem:
    found = [f"{name} (line {line})" for name, line in _parts(documents)]
    names = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    hint = f"it has a policy at {names}" if found else "there is no policy in this file"
    return PolicyProblem("", f"there is nothing called {shortened(part)!r} in this file", None, hint=hint)


def _parts(documents: list[Node]) -> Iterator[tuple[str, int | None]]:
    """The names of the policies in a file, and their lines."""
    for number, root in enumerate(documents, start=1):
        if is_policy(root):
            yield f"document-{number}", root.line
            continue
        for path, node in openshift.find_filters(root) or ():
            name = openshift.filter_name(root, path)
            if name:
                yield name, node.line
        for path, node in embedded(root):
            yield place(path), node.line


def other_parts(data: bytes, *, source: str) -> str:
    """What to name in a file whose first YAML document is no policy; empty if there is nothing."""
    try:
        documents = list(_documents(data, is_json=False, source=source))
    except PolicyError:
        return ""
    found = next(_parts(documents[1:] and documents), None)
    return "" if found is None else f"line {found[1]} begins a policy: name it as {source}#{found[0]}"
