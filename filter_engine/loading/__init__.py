"""From text or data to a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.loading import json_document, yaml_document
from filter_engine.loading.document import DocumentError, Node, from_mapping
from filter_engine.loading.policy_v1 import API_VERSION, PolicyFields, load
from filter_engine.model import PolicyRule

__all__ = ["API_VERSION", "PolicyFields", "load_mapping", "load_rule", "load_text"]


def load_text(
    text: str | bytes, *, source: str, strict: bool = True, codes: bool = False, require_rules: bool = True
) -> PolicyFields:
    """Load a policy from YAML or JSON text; see :meth:`filter_engine.policy.Policy.from_yaml`."""
    try:
        root = _parse(text)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error), error.line)]) from None
    return load(root, source=source, strict=strict, codes=codes, require_rules=require_rules)


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
    return load(root, source=source, strict=strict, codes=codes, require_rules=require_rules)


def load_rule(mapping: Mapping[str, Any], *, codes: bool = False) -> PolicyRule:
    """Load one rule from JSON-like data, as an element of ``rules``.

    Raises:
        PolicyError: the mapping is not a rule.
    """
    return load_mapping({"apiVersion": API_VERSION, "rules": [mapping]}, source="rule", codes=codes)["rules"][
        0
    ]


def _parse(text: str | bytes) -> Node:
    """Read YAML text, or JSON text, which starts with ``{``. Raises DocumentError."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return json_document.read(data) if data.lstrip().startswith(b"{") else yaml_document.read(data)
