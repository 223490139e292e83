"""From text or data to a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.loading import filter_policy, json_document, openshift, yaml_document
from filter_engine.loading.document import DocumentError, Node, from_mapping
from filter_engine.loading.parts import other_parts, read_part
from filter_engine.loading.policy_v1 import API_VERSION, PolicyFields, load
from filter_engine.loading.recognition import is_policy, unreadable
from filter_engine.model import Kind, PolicyRule

__all__ = ["API_VERSION", "PolicyFields", "load_mapping", "load_rule", "load_text"]


def load_text(  # noqa: PLR0913 - all by name, as Policy.from_yaml has them
    text: str | bytes,
    *,
    source: str,
    strict: bool = True,
    codes: bool = False,
    require_rules: bool = True,
    part: str = "",
) -> PolicyFields:
    """Load a policy from YAML or JSON text; see :meth:`filter_engine.policy.Policy.from_yaml`."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if part:
        found = read_part(data, part, is_json=_is_json(data), source=source)
        if isinstance(found, Node):
            return _load(found, source=source, strict=strict, codes=codes, require_rules=require_rules)
        data = found
    try:
        root = json_document.read(data) if _is_json(data) else yaml_document.read(data)
    except DocumentError as error:
        problem = PolicyProblem("", str(error), error.line, hint=error.hint)
        raise PolicyError(source, [unreadable(data, problem) or problem]) from None
    if root.value is None or isinstance(root.value, str):
        problem = PolicyProblem("", "expected a policy, found text that is not a YAML mapping", root.line)
        raise PolicyError(source, [unreadable(data, problem) or problem])
    try:
        return _load(root, source=source, strict=strict, codes=codes, require_rules=require_rules)
    except PolicyError as error:
        hint = "" if part else other_parts(data, source=source)
        if not hint or is_policy(root):
            raise
        raise PolicyError(source, [replace(error.problems[0], hint=hint)]) from None


def _load(root: Node, *, source: str, strict: bool, codes: bool, require_rules: bool) -> PolicyFields:
    if filter_policy.is_filter_policy(root):
        return filter_policy.load(root, source=source)
    filters = openshift.find_filters(root)
    if filters is not None:
        return openshift.load(root, filters, source=source)
    return load(root, source=source, strict=strict, codes=codes, require_rules=require_rules)


# The characters of Go's unicode.IsSpace. kube-apiserver allows them before the brace.
_GO_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)


def _is_json(data: bytes) -> bool:
    """Whether kube-apiserver reads a text as JSON."""
    start = data.lstrip()
    if start[:1] in (b"\xc2", b"\xe1", b"\xe2", b"\xe3"):
        return start.decode("utf-8", "replace").lstrip(_GO_SPACE).startswith("{")
    return start.startswith(b"{")


def load_mapping(
    mapping: Mapping[str, Any],
    *,
    source: str = "policy",
    strict: bool = True,
    codes: bool = False,
    require_rules: bool = True,
) -> PolicyFields:
    """Load a policy from JSON-like data; see :meth:`filter_engine.policy.Policy.from_dict`."""
    try:
        root = from_mapping(mapping)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error))]) from None
    return _load(root, source=source, strict=strict, codes=codes, require_rules=require_rules)


def load_rule(mapping: Mapping[str, Any], *, kind: Kind = "Policy", codes: bool = False) -> PolicyRule:
    """Load one rule of a kind of policy from JSON-like data, as an element of ``rules``.

    Raises:
        PolicyError: the mapping is not a rule.
    """
    head = {"apiVersion": API_VERSION}
    if kind == filter_policy.KIND:
        head = {"apiVersion": filter_policy.API_VERSION, "kind": kind}
    return load_mapping({**head, "rules": [mapping]}, source="rule", codes=codes)["rules"][0]
