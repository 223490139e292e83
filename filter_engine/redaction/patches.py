"""Redaction in JSON patches: of what a client asks for, and of what an admission webhook has made of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from filter_engine.redaction.replacement import REMOVED, replace_value
from filter_engine.redaction.values import DECODED, Values
from filter_engine.redaction.walk import Node, in_json_text, put, walk


def redact_patch(values: Values, operations: Any, node: Node) -> Any:
    """Redact a JSON patch (RFC 6902) of what a node's paths lead into.

    Returns:
        The list of operations itself if nothing had to be redacted, or a new one.
    """
    before = values.elements(operations)
    after = [_redact_operation(values, each, node) for each in before]
    return operations if all(new is old for new, old in zip(after, before, strict=True)) else after


def _redact_operation(values: Values, operation: Any, node: Node) -> Any:
    if values.kind(operation) != "map":
        return operation
    members = values.members(operation)
    if "value" not in members:
        return operation
    value = members["value"]
    pointer = members.get("path")
    if pointer is None or values.kind(pointer) != "string":
        new = replace_value(values, value, node.replacement)  # nobody knows where this would go
    else:
        new = _redact_at(values, value, values.text(pointer), node)
    if new is value:
        return operation
    changed = dict(members)
    put(changed, "value", new)
    return changed


def _redact_at(values: Values, value: Any, pointer: str, node: Node) -> Any:
    """Redact a value that stands where a JSON pointer (RFC 6901) leads to."""
    nodes = [node]
    for token in pointer.split("/")[1:]:
        nodes = [following for each in nodes for following in _following(each, token)]
        if any(each.is_end for each in nodes):
            return replace_value(values, value, node.replacement)
    for each in nodes:
        if value is not REMOVED:
            value = walk(values, value, each)
    return value


def _following(node: Node, token: str) -> list[Node]:
    if node.holds_same_kind:
        node = node.root
    name = token.replace("~1", "/").replace("~0", "~")
    found = [node.child(name)]
    if token == "-" or token.isdigit():
        found.append(node.element)
    return [each for each in dict.fromkeys(found) if each is not None]


def redact_webhook_patch(values: Values, text: Any, node: Node) -> Any:
    """Redact an annotation ``patch.webhook.admission.k8s.io/…``: JSON text with a patch in it.

    Returns:
        The text itself if nothing had to be redacted, a new one, or REMOVED.
    """
    return in_json_text(values, text, partial(_in_webhook_patch, node=node), node.replacement)


def _in_webhook_patch(annotation: Any, node: Node) -> Any:
    patch = annotation.get("patch") if isinstance(annotation, dict) else None
    if not isinstance(patch, list):
        return replace_value(DECODED, annotation, node.replacement)  # nobody knows what this is
    new = redact_patch(DECODED, patch, node)
    return annotation if new is patch else {**annotation, "patch": new}
