"""``kube-audit-filter.io/v1`` FilterPolicy: from a document to rules.

The format is Kubernetes' own and more: patterns, more conditions, exceptions, and what is done with the
events that a rule keeps. docs/policy.md is its reference. kube-apiserver never reads it, so nothing in it is
let pass with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filter_engine.errors import PolicyError, PolicyProblem, Problems, shortened
from filter_engine.loading.document import Node
from filter_engine.loading.filter_policy_validation import faults, parse_codes
from filter_engine.loading.object_meta import METADATA, STRINGS
from filter_engine.loading.policy_v1 import PolicyFields, kubernetes_conditions, line_of, lines_of
from filter_engine.loading.schema import INT_OR_STR, Decoder, List, Map, Path, Struct, dotted
from filter_engine.loading.validation import is_at_or_below, line_at
from filter_engine.model import Conditions, Level, PolicyRule, Redaction, Sample

API_VERSION = "kube-audit-filter.io/v1"
KIND = "FilterPolicy"

# The fields are those of a Policy, but their values are patterns.
_RESOURCES = Struct(
    "PatternResources", {"group": str, "resources": STRINGS, "resourceNames": STRINGS}, is_condition=True
)
_CONDITIONS = {
    "users": STRINGS,
    "userGroups": STRINGS,
    "verbs": STRINGS,
    "resources": List(_RESOURCES),
    "namespaces": STRINGS,
    "nonResourceURLs": STRINGS,
    "responseCodes": List(INT_OR_STR),
    "stages": STRINGS,
    "levels": STRINGS,
    "userAgents": STRINGS,
    "sourceIPs": STRINGS,
    "impersonatedUsers": STRINGS,
    "annotations": Map(STRINGS),
    "ownNamespace": str,
}
_EXCEPTION = Struct(
    "Exception", _CONDITIONS, foreign={"except": "an exception has no exceptions: write another rule"}
)
_SAMPLE = Struct("Sample", {"rate": float, "annotate": bool})
_RULE = Struct(
    "FilterPolicyRule",
    {
        "name": str,
        "level": str,
        **_CONDITIONS,
        "except": List(_EXCEPTION),
        "omitStages": STRINGS,
        "omitManagedFields": bool,
        "sample": _SAMPLE,
        "redact": STRINGS,
    },
    foreign={"codes": 'did you mean "responseCodes"?'},
)
_REDACTION = Struct("Redaction", {"method": str, "keyFile": str})
POLICY = Struct(
    "FilterPolicy",
    {
        "apiVersion": str,
        "kind": str,
        "metadata": METADATA,
        "defaultLevel": str,
        "omitStages": STRINGS,
        "omitManagedFields": bool,
        "reduce": bool,
        "redaction": _REDACTION,
        "rules": List(_RULE),
    },
)
_HOMES = {
    "the policy": POLICY,
    "the rule": _RULE,
    "an element of resources": _RESOURCES,
    "sample": _SAMPLE,
    "redaction": _REDACTION,
}


_KUBERNETES = "a policy that is to stay Kubernetes' own has apiVersion: audit.k8s.io/v1 and kind: Policy"


def is_filter_policy(root: Node) -> bool:
    """Whether a document says that it is a FilterPolicy, of any version."""
    if not isinstance(root.value, dict):
        return False
    version, kind = (root.value[name].value if name in root.value else "" for name in ("apiVersion", "kind"))
    group = API_VERSION.partition("/")[0]
    return kind == KIND or (isinstance(version, str) and version.partition("/")[0] == group)


def load(root: Node, *, source: str) -> PolicyFields:
    """Load a FilterPolicy from a document.

    Args:
        root: the document.
        source: what errors call the document.

    Raises:
        PolicyError: the document is not a FilterPolicy; the exception has all errors.
    """
    problems = Problems()
    fields = Decoder(_HOMES, problems, _advise, is_kubernetes=False).decode(root, POLICY, ())
    undecoded = problems.fields_at_fault()
    _check_version(fields, root, problems, undecoded)
    for fault in faults(fields):
        name = dotted(fault.path)
        if not is_at_or_below(name, undecoded) and problems.takes(lenient=False):
            message = f"{name}: {fault.message}"
            problems.add(PolicyProblem(name, message, line_at(root, fault.path), hint=fault.hint))
    if problems.errors:
        raise PolicyError(source, problems.in_order(), problems.count)
    rules = fields.get("rules", [])
    assert isinstance(root.value, dict)  # otherwise there are errors
    return PolicyFields(
        rules=tuple(_rule(rule) for rule in rules),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields", False),
        metadata=fields.get("metadata", {}),
        rule_names={index: rule["name"] for index, rule in enumerate(rules) if rule.get("name")},
        rule_lines=lines_of(root.value.get("rules")),
        kind="FilterPolicy",
        default_level=Level(fields.get("defaultLevel", Level.NONE)),
        reduce=fields.get("reduce"),
        redaction=_redaction(fields.get("redaction", {})),
    )


def _advise(path: Path, value: str) -> str:
    return ""


def _check_version(
    fields: Mapping[str, Any], root: Node, problems: Problems, undecoded: frozenset[str]
) -> None:
    for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = fields.get(name, "")
        if found != expected and name not in undecoded and problems.takes(lenient=False):
            message = f"{name}: expected {expected}, found {repr(shortened(found)) if found else 'nothing'}"
            hint = _KUBERNETES if found in ("Policy", "audit.k8s.io/v1") else ""
            problems.add(PolicyProblem(name, message, line_of(root, name), hint=hint))


def _rule(fields: Mapping[str, Any]) -> PolicyRule:
    sample = fields.get("sample")
    return PolicyRule(
        level=Level(fields["level"]),
        omit_stages=tuple(fields.get("omitStages", ())),
        omit_managed_fields=fields.get("omitManagedFields"),
        exceptions=tuple(Conditions(**_conditions(each)) for each in fields.get("except", ())),
        sample=None if sample is None else Sample(float(sample["rate"]), sample.get("annotate", True)),
        redact=tuple(fields.get("redact", ())),
        **_conditions(fields),
    )


def _conditions(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **kubernetes_conditions(fields),
        "response_codes": tuple(map(parse_codes, fields.get("responseCodes", ()))),
        "stages": tuple(fields.get("stages", ())),
        "levels": tuple(fields.get("levels", ())),
        "user_agents": tuple(fields.get("userAgents", ())),
        "source_ips": tuple(fields.get("sourceIPs", ())),
        "impersonated_users": tuple(fields.get("impersonatedUsers", ())),
        "annotations": tuple((key, tuple(values)) for key, values in fields.get("annotations", {}).items()),
        "own_namespace": fields.get("ownNamespace", ""),
    }


def _redaction(fields: Mapping[str, Any]) -> Redaction:
    return Redaction(method=fields.get("method") or "mask", key_file=fields.get("keyFile", ""))
