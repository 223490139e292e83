"""``audit.k8s.io/v1`` Policy: from a document to rules, as kube-apiserver's ``LoadPolicyFromBytes``.

All errors of a document are reported together. Validation is in :mod:`filter_engine.loading.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict

from filter_engine.errors import PolicyError, PolicyProblem, Problems, shortened, up_to
from filter_engine.literals import LITERAL_FIELDS, is_pattern, no_wildcards
from filter_engine.loading.document import Node
from filter_engine.loading.object_meta import METADATA, STRINGS
from filter_engine.loading.recognition import recognise
from filter_engine.loading.rule_names import read_rule_names
from filter_engine.loading.schema import Decoder, List, Path, Struct
from filter_engine.loading.validation import validate
from filter_engine.model import GroupResources, Kind, Level, PolicyRule, Redaction

API_VERSION = "audit.k8s.io/v1"
FILTER_POLICY = "kube-audit-filter.io/v1 and kind: FilterPolicy"


class _Rules(TypedDict):
    rules: tuple[PolicyRule, ...]


class PolicyFields(_Rules, total=False):
    """The fields of a :class:`~filter_engine.Policy`."""

    omit_stages: tuple[str, ...]
    omit_managed_fields: bool
    metadata: Mapping[str, Any]
    warnings: tuple[str, ...]
    rule_names: Mapping[int, str]
    rule_lines: tuple[int | None, ...]
    kind: Kind
    default_level: Level
    reduce: bool | None
    redaction: Redaction


def load(root: Node, *, source: str, strict: bool, codes: bool, require_rules: bool) -> PolicyFields:
    """Load a policy from a document.

    Args:
        root: the document.
        source: what errors call the document.
        strict: refuse what kube-apiserver only warns about.
        codes: whether rules may have ``codes``.
        require_rules: whether a policy without rules is an error, as for kube-apiserver.

    Raises:
        PolicyError: the document is not a policy; the exception has all errors.
    """
    if (stranger := recognise(root, source)) is not None:
        raise PolicyError(source, [stranger])
    policy = _POLICY_WITH_CODES if codes else POLICY
    rule = policy.fields["rules"].item
    problems = Problems()
    homes = {"the policy": policy, "the rule": rule, "an element of resources": _RESOURCES}
    fields = Decoder(homes, problems, _advise).decode(root, policy, ())
    if not isinstance(root.value, dict):
        raise PolicyError(source, problems.in_order())
    _check_version(fields, root, problems)
    rules = fields.get("rules", [])
    validate(fields, root, problems)
    if not rules and require_rules and "rules" not in problems.fields_at_fault():
        problems.takes(lenient=False)
        problems.add(
            PolicyProblem(
                "rules",
                "the policy has no rules: add at least one, e.g. '- level: Metadata'",
                line_of(root, "rules"),
                hint="kube-apiserver: loaded illegal policy with 0 rules",
            )
        )
    rule_names = read_rule_names(fields.get("metadata", {}), len(rules), root, problems)
    found = problems.in_order()
    if problems.errors or (strict and problems.count):
        raise PolicyError(source, found, problems.count)
    warnings = [problem.describe(source) for problem in found]
    return PolicyFields(
        rules=tuple(_rule(rule) for rule in rules),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields", False),
        metadata=fields.get("metadata", {}),
        warnings=tuple(up_to(len(found), warnings, problems.count, f"{source}: and %d more warnings")),
        rule_names=rule_names,
        rule_lines=lines_of(root.value.get("rules")),
    )


def _advise(path: Path, value: str) -> str:
    """What to do about a text in place of a list of strings."""
    field = path[-1] if path else ""
    if isinstance(field, str) and field in LITERAL_FIELDS and is_pattern(value):
        return f"a list belongs here, but {no_wildcards(field, value)}"
    return ""


def lines_of(rules: Node | None) -> tuple[int | None, ...]:
    """The lines on which rules begin."""
    return tuple(rule.line for rule in rules.value) if rules and isinstance(rules.value, list) else ()


def _rule(fields: Mapping[str, Any]) -> PolicyRule:
    return PolicyRule(
        level=Level(fields["level"]),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields"),
        codes=tuple(fields.get("codes", ())),
        **kubernetes_conditions(fields),
    )


def kubernetes_conditions(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that all kinds of policies have, as attributes of Conditions."""
    return {
        "users": tuple(fields.get("users", ())),
        "user_groups": tuple(fields.get("userGroups", ())),
        "verbs": tuple(fields.get("verbs", ())),
        "resources": tuple(
            GroupResources(
                group=element.get("group", ""),
                resources=tuple(element.get("resources", ())),
                resource_names=tuple(element.get("resourceNames", ())),
            )
            for element in fields.get("resources", ())
        ),
        "namespaces": tuple(fields.get("namespaces", ())),
        "non_resource_urls": tuple(fields.get("nonResourceURLs", ())),
    }


def _check_version(fields: Mapping[str, Any], root: Node, problems: Problems) -> None:
    """Check that apiVersion is audit.k8s.io/v1, and that kind is Policy or left out."""
    version, kind = fields.get("apiVersion", ""), fields.get("kind", "")
    if version != API_VERSION and problems.takes(lenient=False):
        found = f"{shortened(version)!r} is not supported" if version else "is required"
        message = f"apiVersion: {found}: kube-apiserver accepts only {API_VERSION!r}"
        hint = "v1 has the same fields" if version in _OLDER else ""
        problems.add(PolicyProblem("apiVersion", message, line_of(root, "apiVersion"), hint=hint))
    if kind not in ("", "Policy") and problems.takes(lenient=False):
        message = f"kind: {shortened(kind)!r} is not a policy: expected 'Policy'"
        problems.add(PolicyProblem("kind", message, line_of(root, "kind")))


_OLDER = ("audit.k8s.io/v1beta1", "audit.k8s.io/v1alpha1")


def line_of(root: Node, name: str) -> int | None:
    """The line of a field of a document, or of the document if it lacks the field."""
    child = root.value.get(name) if isinstance(root.value, dict) else None
    return child.line if child is not None else root.line


_RESOURCES = Struct(
    "GroupResources",
    {"group": str, "resources": STRINGS, "resourceNames": STRINGS},
    is_condition=True,
)
RULE = Struct(
    "PolicyRule",
    {
        "level": str,
        "users": STRINGS,
        "userGroups": STRINGS,
        "verbs": STRINGS,
        "resources": List(_RESOURCES),
        "namespaces": STRINGS,
        "nonResourceURLs": STRINGS,
        "omitStages": STRINGS,
        "omitManagedFields": bool,
    },
    is_condition=True,
    foreign={
        "codes": "response codes are an extension of k8s-audit-filter; a FilterPolicy has responseCodes",
        **{
            name: f'"{name}" is a field of a FilterPolicy: write apiVersion: {FILTER_POLICY}'
            for name in (
                *("name", "except", "sample", "redact", "responseCodes", "stages", "levels", "userAgents"),
                *("sourceIPs", "impersonatedUsers", "annotations", "ownNamespace"),
            )
        },
    },
)
_RULE_WITH_CODES = replace(RULE, fields={**RULE.fields, "codes": List(int)})


def _policy(rule: Struct) -> Struct:
    return Struct(
        "Policy",
        {
            "apiVersion": str,
            "kind": str,
            "metadata": METADATA,
            "rules": List(rule),
            "omitStages": STRINGS,
            "omitManagedFields": bool,
        },
        any_case=frozenset({"apiVersion", "kind"}),
        foreign={
            name: f'"{name}" is a field of a FilterPolicy: write apiVersion: {FILTER_POLICY}'
            for name in ("defaultLevel", "reduce", "redaction")
        },
    )


POLICY = _policy(RULE)
_POLICY_WITH_CODES = _policy(_RULE_WITH_CODES)
