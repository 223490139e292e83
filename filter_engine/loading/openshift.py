"""OpenShift's ``kubeAPIAudit``: from a ClusterLogForwarder, or from its filter alone, to a policy.

The format is that of ``observability.openshift.io/v1`` and ``logging.openshift.io/v1``; docs/openshift.md
says what it means. It becomes a policy of kind FilterPolicy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from filter_engine.errors import PolicyError, PolicyProblem, Problems, shortened
from filter_engine.loading.document import Node, children
from filter_engine.loading.filter_policy_validation import LEVELS, Fault, unsupported
from filter_engine.loading.object_meta import STRINGS
from filter_engine.loading.openshift_rules import rules_of
from filter_engine.loading.policy_v1 import RULE, PolicyFields
from filter_engine.loading.schema import Decoder, List, Path, Struct, dotted
from filter_engine.loading.validation import is_at_or_below, line_at
from filter_engine.model import STAGES, Level, Redaction

AUDIT = Struct("KubeAPIAudit", {"rules": List(RULE), "omitStages": STRINGS, "omitResponseCodes": List(int)})
_HOMES = {"the filter": AUDIT, "the rule": RULE}
_KIND = "ClusterLogForwarder"


def find_filters(root: Node) -> list[tuple[Path, Node]] | None:
    """The ``kubeAPIAudit`` objects in a document, with their paths; None if it is not OpenShift's."""
    if not isinstance(root.value, dict):
        return None
    if "kubeAPIAudit" in root.value:
        return [(("kubeAPIAudit",), root.value["kubeAPIAudit"])]
    if "omitResponseCodes" in root.value and not {"apiVersion", "kind"} & root.value.keys():
        return [((), root)]
    if _text(root, "kind") != _KIND:
        return None
    filters = _child(_child(root, "spec"), "filters")
    found: list[tuple[Path, Node]] = []
    for index, each in enumerate(children(filters) if filters is not None else ()):
        audit = _child(each, "kubeAPIAudit")
        if audit is not None:
            found.append((("spec", "filters", index, "kubeAPIAudit"), audit))
        elif _text(each, "type") == "kubeAPIAudit":
            found.append((("spec", "filters", index), Node({}, each.line)))
    return found


def only(root: Node, path: Path) -> Node:
    """A document with one filter of another, under the name that it has there."""
    if path == ():
        return root
    node = root
    for step in path:
        assert isinstance(node.value, (dict, list))
        if step == "kubeAPIAudit":
            break
        node = node.value[step]  # type: ignore[index]
    audit = _child(node, "kubeAPIAudit") or Node({}, node.line)
    name = _child(node, "name")
    return Node({"kubeAPIAudit": audit, **({"name": name} if name else {})}, node.line)


def filter_name(root: Node, path: Path) -> str:
    """The name of the filter that holds a ``kubeAPIAudit`` object; empty if it has none."""
    node: Node | None = root
    for step in path:
        if node is None or step == "kubeAPIAudit":
            break
        if isinstance(node.value, list) and isinstance(step, int):
            node = node.value[step]
        else:
            node = _child(node, str(step))
    return "" if node is None else _text(node, "name")


def load(root: Node, filters: list[tuple[Path, Node]], *, source: str) -> PolicyFields:
    """Load the one ``kubeAPIAudit`` filter of a document.

    Args:
        root: the document.
        filters: what :func:`find_filters` found in it.
        source: what errors call the document.

    Raises:
        PolicyError: there is none or more than one, or it has errors; the exception has all of them.
    """
    if len(filters) != 1:
        raise PolicyError(source, [_not_one(root, filters, source)])
    path, node = filters[0]
    problems = Problems()
    if (codes := _child(node, "omitResponseCodes")) is not None and codes.value is None:
        node = replace(node, value={key: value for key, value in _members(node) if value is not codes})
    fields = Decoder(_HOMES, problems, lambda *_: "", is_kubernetes=False).decode(node, AUDIT, path)
    undecoded = problems.fields_at_fault()
    for fault in _faults(fields, path):
        name = dotted(fault.path)
        if not is_at_or_below(name, undecoded) and problems.takes(lenient=False):
            line = line_at(root, fault.path)
            problems.add(PolicyProblem(name, f"{name}: {fault.message}", line, hint=fault.hint))
    if problems.errors:
        raise PolicyError(source, problems.in_order(), problems.count)
    named = rules_of(fields)
    rules = _child(node, "rules")
    lines = [each.line for each in children(rules)] if rules is not None else []
    return PolicyFields(
        rules=tuple(each.rule for each in named),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=False,
        metadata={"name": name} if (name := filter_name(root, path)) else {},
        rule_names={index: each.name for index, each in enumerate(named)},
        rule_lines=tuple(None if each.index is None else lines[each.index] for each in named),
        kind="FilterPolicy",
        default_level=Level.REQUEST_RESPONSE,
        reduce=True,
        redaction=Redaction(),
    )


def _not_one(root: Node, filters: list[tuple[Path, Node]], source: str) -> PolicyProblem:
    line = root.value["kind"].line if isinstance(root.value, dict) and "kind" in root.value else root.line
    if not filters:
        message = f"this {_KIND} has no filter of type kubeAPIAudit in spec.filters"
        return PolicyProblem("spec.filters", message, line)
    names = [filter_name(root, path) or "?" for path, _ in filters]
    lines = [
        f"{shortened(name, 80)} (line {node.line})" for name, (_, node) in zip(names, filters, strict=True)
    ]
    message = f"this {_KIND} has {len(filters)} filters of type kubeAPIAudit: {', '.join(lines)}"
    return PolicyProblem("spec.filters", message, line, hint=f"name one of them: {source}#{names[0]}")


def _faults(audit: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    for index, stage in enumerate(audit.get("omitStages", ())):
        if stage not in STAGES:
            yield unsupported((*path, "omitStages", index), stage, STAGES)
    for index, code in enumerate(audit.get("omitResponseCodes") or ()):
        if not 100 <= code <= 999:
            message = f"expected a response code from 100 to 999, found {code}"
            yield Fault((*path, "omitResponseCodes", index), message)
    for index, rule in enumerate(audit.get("rules", ())):
        where = (*path, "rules", index)
        level = rule.get("level", "")
        if level not in LEVELS:
            found = repr(shortened(level)) if level else "nothing"
            hint = "OpenShift writes whatever stands here into events, and keeps them"
            message = f"expected one of {', '.join(LEVELS)}, found {found}"
            yield Fault((*where, "level"), message, hint)
        for number, stage in enumerate(rule.get("omitStages", ())):
            if stage not in STAGES:
                yield unsupported((*where, "omitStages", number), stage, STAGES)


def _child(node: Node | None, key: str) -> Node | None:
    return node.value.get(key) if node is not None and isinstance(node.value, dict) else None


def _members(node: Node) -> Iterator[tuple[str, Node]]:
    yield from node.value.items() if isinstance(node.value, dict) else ()


def _text(node: Node, key: str) -> str:
    child = _child(node, key)
    return child.value if child is not None and isinstance(child.value, str) else ""
