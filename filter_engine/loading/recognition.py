"""Recognises texts that are not an audit policy, and says what to do with them.

People hand over the file that contains the policy (a ConfigMap, a chart, a cluster's configuration), the
audit log itself, or a page that a browser has saved. The error says where the policy is, and how to name that
part of the file (``parts``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from filter_engine.errors import PolicyProblem, shortened
from filter_engine.loading.document import Node, children

_GROUP = "audit.k8s.io/"
_OWN_GROUP = "kube-audit-filter.io/"
# Compressed files and archives, by their first bytes.
_MAGIC = (
    (b"\x1f\x8b", "gzip data", "unpack it first: gunzip -c FILE.gz > policy.yaml"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it first: zstd -dc FILE.zst > policy.yaml"),
    (b"BZh", "bzip2 data", "unpack it first: bunzip2 -c FILE.bz2 > policy.yaml"),
    (b"\xfd7zXZ\x00", "xz data", "unpack it first: xz -dc FILE.xz > policy.yaml"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it first, and name the policy's file"),
)
_HTML = re.compile(rb"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE)
_HTML_HINT = "was a page saved in place of the file? On GitHub and GitLab, take the link named Raw"
_AUDIT_EVENT = re.compile(rb'"auditID"\s*:')
_LOG = "this is an audit log, not an audit policy"
_LOG_HINT = "the log is what is filtered, by a policy; builtin:recommended is one to start with"
_TEMPLATE = re.compile(rb"\{\{|\{%")
_TEMPLATE_HINT = (
    "the text holds {{ … }} and seems to be a template: render it first, with helm template if it is one of"
    " Helm's, and take the policy from what comes out"
)
# A line that is not blank, not a comment, and does not separate documents.
_CONTENT = re.compile(rb"^[^\S\r\n]*(?!---\s)[^\s#]", re.MULTILINE)
_START = "apiVersion: audit.k8s.io/v1, kind: Policy and rules; builtin:recommended is one to start with"
_BEGINNING = 1 << 16  # bytes of a text that are looked at


def unreadable(data: bytes, fault: PolicyProblem) -> PolicyProblem | None:
    """Recognise a text that can't be read as a document, or has no fields.

    Args:
        data: the text.
        fault: the reader's error about it.

    Returns:
        A better error; None if the text is not recognised.
    """
    start = data[:_BEGINNING]
    for magic, name, hint in _MAGIC:
        if data.startswith(magic):
            return _problem(f"this is {name}, not an audit policy", None, hint)
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        if start[1::2].count(0) * 4 > len(start) or start[::2].count(0) * 4 > len(start):
            return _problem("this seems to be UTF-16 text without a mark", None, "save it as UTF-8")
        return _problem("this is binary data, not an audit policy", None, f"expected YAML with {_START}")
    if _HTML.match(start):
        return _problem("this is an HTML or XML page, not an audit policy", None, _HTML_HINT)
    if _AUDIT_EVENT.search(start):
        return _problem(_LOG, None, _LOG_HINT)
    if _TEMPLATE.search(data):
        return _problem(fault.message, fault.line, _TEMPLATE_HINT)
    if fault.message.startswith("yaml:") or fault.message.startswith("json:"):
        return None
    if not _CONTENT.search(data.removeprefix(b"\xef\xbb\xbf")):
        what = "has nothing but comments" if b"#" in data else "is empty"
        return _problem(f"the policy {what}", None, f"expected {_START}")
    if fault.line is not None and re.search(rb"^rules:", data, re.MULTILINE):
        return _problem(
            "the first YAML document is empty, and only the first one counts",
            fault.line,
            "remove the line --- in front of the policy",
        )
    return None


def is_policy(root: Node) -> bool:
    """Whether a document says that it is a policy, of any kind."""
    if not isinstance(root.value, dict):
        return False
    version, kind = _text(root, "apiVersion"), _text(root, "kind")
    is_kubernetes = version.startswith(_GROUP) and kind in ("", "Policy") and "rules" in root.value
    return is_kubernetes or version.startswith(_OWN_GROUP)


def recognise(root: Node, source: str) -> PolicyProblem | None:
    """Recognise a document that is not a policy.

    Args:
        root: the document.
        source: what errors call the file.

    Returns:
        An error that says what the document is; None if it is a policy, even one with errors, or if it is
        not recognised.
    """
    if isinstance(root.value, list):
        return _recognise_list(root)
    if not isinstance(root.value, dict) or "rules" in root.value:
        return None
    kind, version = _text(root, "kind"), _text(root, "apiVersion")
    name = f"{kind} ({version})" if version else kind
    if "auditID" in root.value or (version.startswith(_GROUP) and kind in ("Event", "EventList")):
        return _problem(_LOG, root.line, _LOG_HINT)
    if version.startswith(_GROUP) and kind in ("", "Policy"):
        return None
    line = root.value["kind"].line if "kind" in root.value else root.line
    found = next(embedded(root), None)
    if found is not None:
        return _holder(root, kind, found, source)
    items = _child(root, "items")
    if items is not None and any(_child(item, "auditID") is not None for item in children(items)):
        return _problem(_LOG, root.line, _LOG_HINT)
    if not kind:
        return None
    return _problem(
        f"this is a {shortened(name)}, not an audit policy", line, f"expected {_START}{_named_file(root)}"
    )


def _recognise_list(root: Node) -> PolicyProblem | None:
    assert isinstance(root.value, list)
    first = root.value[0] if root.value else root
    if isinstance(first.value, dict) and "auditID" in first.value:
        return _problem(_LOG, root.line, _LOG_HINT)
    if isinstance(first.value, dict) and "level" in first.value:
        return _problem(
            "this is a list of rules, not an audit policy",
            root.line,
            "put it below 'rules:', after 'apiVersion: audit.k8s.io/v1' and 'kind: Policy'",
        )
    return None


_Path = tuple[str | int, ...]


def embedded(node: Node, path: _Path = ()) -> Iterator[tuple[_Path, Node]]:
    """The policies that a document contains, as objects or as text, and their paths."""
    if isinstance(node.value, str):
        if any(group in node.value for group in (_GROUP, _OWN_GROUP)) and _RULES.search(node.value):
            yield path, node
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            yield from embedded(item, (*path, index))
    elif is_policy(node) and path:
        yield path, node
    elif isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from embedded(child, (*path, key))


_RULES = re.compile(r"\b(rules|defaultLevel)\b")


def place(path: _Path) -> str:
    """A path as the name of a part: ``items[0].data.policy.yaml``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{shortened(step, 80)}" for step in path)
    return "".join(steps).removeprefix(".")


def _holder(root: Node, kind: str, found: tuple[_Path, Node], source: str) -> PolicyProblem:
    path, node = found
    what = f"a {shortened(kind, 80)}" if kind else "a document"
    if _text(root, "apiVersion") == "" and path[:2] == ("services", "kube-api"):
        what = "RKE's cluster.yml"
    where = place(path)
    hint = f"name that part of it: {source}#{where}"
    return _problem(f"this is {what} with a policy in it, at {where}, not the policy itself", node.line, hint)


def _named_file(root: Node) -> str:
    """The file that a manifest of kube-apiserver names as its policy."""
    for text in _texts(root):
        if match := re.search(r"--audit-policy-file=(\S{1,200})", text):
            return f"; the policy that this kube-apiserver reads is {match[1]}"
    return ""


def _texts(node: Node) -> Iterator[str]:
    if isinstance(node.value, str):
        yield node.value
    for child in children(node):
        yield from _texts(child)


def _child(node: Node, key: str) -> Node | None:
    return node.value.get(key) if isinstance(node.value, dict) else None


def _text(node: Node, key: str) -> str:
    child = _child(node, key)
    value: Any = None if child is None else child.value
    return value if isinstance(value, str) else ""


def _problem(message: str, line: int | None, hint: str) -> PolicyProblem:
    return PolicyProblem("", message, line, hint=hint)
