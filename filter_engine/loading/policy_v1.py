"""``audit.k8s.io/v1`` Policy: from a document to rules, as kube-apiserver's ``LoadPolicyFromBytes``.

Every error is found at once. Validation is in :mod:`filter_engine.loading.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.loading.document import Node
from filter_engine.loading.rule_names import read_rule_names
from filter_engine.loading.schema import Decoder, List, Map, Struct
from filter_engine.loading.validation import validate
from filter_engine.model import GroupResources, Level, PolicyRule

API_VERSION = "audit.k8s.io/v1"


class PolicyFields(TypedDict):
    """The fields of a :class:`~filter_engine.Policy`."""

    rules: tuple[PolicyRule, ...]
    omit_stages: tuple[str, ...]
    omit_managed_fields: bool
    metadata: Mapping[str, Any]
    warnings: tuple[str, ...]
    rule_names: Mapping[int, str]


def load(root: Node, *, source: str, strict: bool, codes: bool, require_rules: bool) -> PolicyFields:
    """Load a policy from a document.

    Args:
        root: the document.
        source: what to call it.
        strict: refuse what kube-apiserver only warns of.
        codes: whether rules may have ``codes``.
        require_rules: whether a policy without rules is an error, as for kube-apiserver.

    Raises:
        PolicyError: the document is not a policy; every error is in it.
    """
    policy = _POLICY[codes]
    rule = policy.fields["rules"].item
    decoder = Decoder({"the policy": policy, "the rule": rule, "an element of resources": _RESOURCES})
    problems = decoder.problems
    if root.value is None:
        root = Node({}, root.line)
    fields = decoder.decode(root, policy, ())
    if not isinstance(root.value, dict):
        raise PolicyError(source, problems)
    problems.extend(_check_version(fields, root))
    rules = fields.get("rules", [])
    faults = validate(fields, root)
    if not rules and require_rules:
        faults.append(PolicyProblem("rules", "loaded illegal policy with 0 rules", root.line))
    undecoded = tuple(problem.field for problem in problems if not problem.lenient)
    problems.extend(fault for fault in faults if not _is_at_or_below(fault.field, undecoded))
    rule_names, misnamed = read_rule_names(fields.get("metadata", {}), len(rules), root)
    problems.extend(misnamed)
    problems.sort(key=lambda problem: problem.line or 0)
    if any(strict or not problem.lenient for problem in problems):
        raise PolicyError(source, problems)
    return PolicyFields(
        rules=tuple(_rule(rule) for rule in rules),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields", False),
        metadata=fields.get("metadata", {}),
        warnings=tuple(problem.describe(source) for problem in problems),
        rule_names=rule_names,
    )


def _is_at_or_below(field: str, others: tuple[str, ...]) -> bool:
    """Whether a field lies at or in one that could not be decoded, and so has nothing to be validated."""
    return any(field == other or field.startswith((other + ".", other + "[")) for other in others)


def _rule(fields: Mapping[str, Any]) -> PolicyRule:
    return PolicyRule(
        level=Level(fields["level"]),
        users=tuple(fields.get("users", ())),
        user_groups=tuple(fields.get("userGroups", ())),
        verbs=tuple(fields.get("verbs", ())),
        resources=tuple(
            GroupResources(
                group=element.get("group", ""),
                resources=tuple(element.get("resources", ())),
                resource_names=tuple(element.get("resourceNames", ())),
            )
            for element in fields.get("resources", ())
        ),
        namespaces=tuple(fields.get("namespaces", ())),
        non_resource_urls=tuple(fields.get("nonResourceURLs", ())),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields"),
        codes=tuple(fields.get("codes", ())),
    )


def _check_version(fields: Mapping[str, Any], root: Node) -> list[PolicyProblem]:
    """apiVersion must be audit.k8s.io/v1; kind must be Policy, or be left out."""
    problems = []
    version, kind = fields.get("apiVersion", ""), fields.get("kind", "")
    if version != API_VERSION:
        found = f"{version!r} is not supported" if version else "is required"
        problems.append(
            PolicyProblem(
                "apiVersion",
                f"apiVersion: {found}: kube-apiserver accepts only {API_VERSION!r}",
                _line_of(root, "apiVersion"),
            )
        )
    if kind not in ("", "Policy"):
        problems.append(
            PolicyProblem(
                "kind", f"kind: {kind!r} is not a policy: expected 'Policy'", _line_of(root, "kind")
            )
        )
    return problems


def _line_of(root: Node, name: str) -> int | None:
    child = root.value.get(name) if isinstance(root.value, dict) else None
    return child.line if child is not None else root.line


_STRINGS = List(str)
_RESOURCES = Struct({"group": str, "resources": _STRINGS, "resourceNames": _STRINGS}, is_condition=True)
_RULE = Struct(
    {
        "level": str,
        "users": _STRINGS,
        "userGroups": _STRINGS,
        "verbs": _STRINGS,
        "resources": List(_RESOURCES),
        "namespaces": _STRINGS,
        "nonResourceURLs": _STRINGS,
        "omitStages": _STRINGS,
        "omitManagedFields": bool,
    },
    is_condition=True,
    foreign={"codes": "response codes are an extension of k8s-audit-filter"},
)
_RULE_WITH_CODES = Struct({**_RULE.fields, "codes": List(int)}, is_condition=True)
# ObjectMeta of k8s.io/apimachinery/pkg/apis/meta/v1; datetime stands for its Time.
_OWNER = Struct(
    {"apiVersion": str, "kind": str, "name": str, "uid": str, "controller": bool, "blockOwnerDeletion": bool}
)
_MANAGED_FIELDS = Struct(
    {
        "manager": str,
        "operation": str,
        "apiVersion": str,
        "time": datetime,
        "fieldsType": str,
        "fieldsV1": None,
        "subresource": str,
    }
)
_METADATA = Struct(
    {
        "name": str,
        "generateName": str,
        "namespace": str,
        "selfLink": str,
        "uid": str,
        "resourceVersion": str,
        "generation": int,
        "creationTimestamp": datetime,
        "deletionTimestamp": datetime,
        "deletionGracePeriodSeconds": int,
        "labels": Map(str),
        "annotations": Map(str),
        "ownerReferences": List(_OWNER),
        "finalizers": _STRINGS,
        "managedFields": List(_MANAGED_FIELDS),
    }
)


def _policy(rule: Struct) -> Struct:
    return Struct(
        {
            "apiVersion": str,
            "kind": str,
            "metadata": _METADATA,
            "rules": List(rule),
            "omitStages": _STRINGS,
            "omitManagedFields": bool,
        },
        any_case=frozenset({"apiVersion", "kind"}),
    )


# Whether rules may have ``codes``.
_POLICY = {False: _policy(_RULE), True: _policy(_RULE_WITH_CODES)}
