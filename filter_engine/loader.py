"""From a document to a policy: what kube-apiserver's ``LoadPolicyFromBytes`` does, with every error at once.

Decoding goes by the tables below, which name each field of the format once; validation is in
:mod:`filter_engine.validation`. Unknown and duplicate fields are errors unless the caller is
lenient: kube-apiserver warns and ignores them, and a rule that loses a condition so matches more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from filter_engine import document
from filter_engine.document import DocumentError, Node
from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.model import GroupResources, Level, PolicyRule
from filter_engine.rule_names import read_rule_names
from filter_engine.validation import validate

API_VERSION = "audit.k8s.io/v1"


class Loaded(NamedTuple):
    """The fields of a Policy."""

    rules: tuple[PolicyRule, ...]
    omit_stages: tuple[str, ...]
    omit_managed_fields: bool
    metadata: Mapping[str, Any]
    warnings: tuple[str, ...]
    rule_names: Mapping[int, str]


def load_text(
    text: str | bytes, *, source: str, strict: bool = True, codes: bool = False, require_rules: bool = True
) -> Loaded:
    """Load a policy from YAML or JSON text; see :meth:`filter_engine.policy.Policy.from_yaml`."""
    try:
        root = document.parse(text)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error), error.line)]) from None
    return _load(root, source, strict, codes, require_rules)


def load_mapping(
    mapping: Mapping[str, Any],
    *,
    source: str = "policy",
    strict: bool = True,
    codes: bool = False,
    require_rules: bool = True,
) -> Loaded:
    """Load a policy from JSON-like data; see :meth:`filter_engine.policy.Policy.from_dict`."""
    try:
        root = document.from_mapping(mapping)
    except DocumentError as error:
        raise PolicyError(source, [PolicyProblem("", str(error))]) from None
    return _load(root, source, strict, codes, require_rules)


def load_rule(mapping: Mapping[str, Any], *, codes: bool = False) -> PolicyRule:
    """Load one rule from JSON-like data, as an element of ``rules``.

    Raises:
        PolicyError: the mapping is not a rule.
    """
    return load_mapping({"apiVersion": API_VERSION, "rules": [mapping]}, source="rule", codes=codes).rules[0]


def _load(root: Node, source: str, strict: bool, codes: bool, require_rules: bool) -> Loaded:
    decoder = _Decoder(codes)
    problems = decoder.problems
    if root.value is None:
        root = Node({}, root.line)
    fields = decoder.decode(root, _POLICY, ())
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
    return Loaded(
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


@dataclass(frozen=True)
class _Struct:
    """Fields of an object; ``any_case`` names those that kube-apiserver also reads in another case."""

    fields: Mapping[str, Any]
    any_case: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _List:
    item: Any


@dataclass(frozen=True)
class _Map:
    value: Any


_STRINGS = _List(str)
_RESOURCES = _Struct({"group": str, "resources": _STRINGS, "resourceNames": _STRINGS})
_RULE = _Struct(
    {
        "level": str,
        "users": _STRINGS,
        "userGroups": _STRINGS,
        "verbs": _STRINGS,
        "resources": _List(_RESOURCES),
        "namespaces": _STRINGS,
        "nonResourceURLs": _STRINGS,
        "omitStages": _STRINGS,
        "omitManagedFields": bool,
        "codes": _List(int),
    }
)
# ObjectMeta of k8s.io/apimachinery/pkg/apis/meta/v1; datetime stands for its Time.
_OWNER = _Struct(
    {"apiVersion": str, "kind": str, "name": str, "uid": str, "controller": bool, "blockOwnerDeletion": bool}
)
_MANAGED_FIELDS = _Struct(
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
_METADATA = _Struct(
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
        "labels": _Map(str),
        "annotations": _Map(str),
        "ownerReferences": _List(_OWNER),
        "finalizers": _STRINGS,
        "managedFields": _List(_MANAGED_FIELDS),
    }
)
_POLICY = _Struct(
    {
        "apiVersion": str,
        "kind": str,
        "metadata": _METADATA,
        "rules": _List(_RULE),
        "omitStages": _STRINGS,
        "omitManagedFields": bool,
    },
    any_case=frozenset({"apiVersion", "kind"}),
)
# Where a field belongs, for the hint on one that stands at the wrong place.
_HOMES = [("the policy", _POLICY), ("the rule", _RULE), ("an element of resources", _RESOURCES)]
_ZERO: dict[Any, Any] = {str: "", int: 0, bool: False, datetime: None}

_Path = tuple[str | int, ...]


class _Decoder:
    """Turns nodes into plain data by the tables, and collects everything that does not fit.

    As in Go, null leaves a field at its zero value, and a null element of a list becomes one.
    """

    def __init__(self, codes: bool) -> None:
        self.problems: list[PolicyProblem] = []
        self._codes = codes

    def decode(self, node: Node, schema: Any, path: _Path) -> Any:
        value = node.value
        if isinstance(schema, _Struct):
            return self._struct(node, schema, path) if value is not None else {}
        if isinstance(schema, _List):
            if value is not None and not isinstance(value, list):
                self._wrong_type(node, "a list", path)
                return []
            return [self.decode(item, schema.item, (*path, i)) for i, item in enumerate(value or [])]
        if isinstance(schema, _Map):
            if value is not None and not isinstance(value, dict):
                self._wrong_type(node, "an object", path)
                return {}
            return {key: self.decode(item, schema.value, (*path, key)) for key, item in (value or {}).items()}
        if schema is None:
            return _plain(node)
        if value is None:
            return _ZERO[schema]
        if schema is datetime:
            return self._timestamp(node, path)
        if not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
            self._wrong_type(node, _ARTICLE[schema], path)
            return _ZERO[schema]
        return value

    def _struct(self, node: Node, schema: _Struct, path: _Path) -> dict[str, Any]:
        if not isinstance(node.value, dict):
            self._wrong_type(node, "an object", path)
            return {}
        for key, line in node.duplicates:
            name = _dotted((*path, key))
            self._lenient(name, f'duplicate field "{name}"', line, "kube-apiserver takes the last one")
        decoded = {}
        for key, child in node.value.items():
            known = self._field(key, schema)
            if known != key:
                self._unknown(key, child, schema, path)
            if known is not None and child.value is not None:
                decoded[known] = self.decode(child, schema.fields[known], (*path, key))
        return decoded

    def _field(self, key: str, schema: _Struct) -> str | None:
        """The field that a key sets, or None. apiVersion and kind count in any case."""
        if key == "codes" and schema is _RULE and not self._codes:
            return None
        if key in schema.fields:
            return key
        return next((name for name in schema.any_case if name.lower() == key.lower()), None)

    def _unknown(self, key: str, child: Node, schema: _Struct, path: _Path) -> None:
        name = _dotted((*path, key))
        self._lenient(name, f'unknown field "{name}"', child.line, self._hint(key, schema))

    def _hint(self, key: str, schema: _Struct) -> str:
        hint = "kube-apiserver warns and ignores it"
        if schema is _RULE or schema is _RESOURCES:
            hint += ", so that the rule matches more than it says"
        if key == "codes" and schema is _RULE:
            return hint + "; response codes are an extension of k8s-audit-filter"
        home = next((title for title, other in _HOMES if other is not schema and key in other.fields), None)
        import difflib  # noqa: PLC0415 - a policy that loads does not pay for it

        close = difflib.get_close_matches(key, schema.fields, n=1)
        if home:
            return f'{hint}; "{key}" is a field of {home}: check the indentation'
        return hint + (f'; did you mean "{close[0]}"?' if close else "")

    def _timestamp(self, node: Node, path: _Path) -> str | None:
        text = node.value
        try:
            if isinstance(text, str) and text[10:11] == "T":
                datetime.fromisoformat(text[:19])
                if _ZONE.fullmatch(text[19:]):
                    return text
        except ValueError:
            pass
        self._wrong_type(node, "a time such as 2006-01-02T15:04:05Z", path)
        return None

    def _wrong_type(self, node: Node, expected: str, path: _Path) -> None:
        name = _dotted(path)
        message = f"expected {expected}, found {_described(node.value)}"
        hint = ""
        if expected == "a string" and isinstance(node.value, (bool, int, float)):
            hint = "put it in quotes"
        elif expected == "a list" and isinstance(node.value, str):
            hint = f"write [{node.value}]"
        self.problems.append(
            PolicyProblem(name, f"{name}: {message}" if name else message, node.line, hint=hint)
        )

    def _lenient(self, field: str, message: str, line: int | None, hint: str) -> None:
        self.problems.append(PolicyProblem(field, message, line, lenient=True, hint=hint))


_ZONE = re.compile(r"([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_ARTICLE = {str: "a string", int: "an integer", bool: "true or false"}


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value!r}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"


def _dotted(path: _Path) -> str:
    """A path as kube-apiserver writes it: ``rules[0].resources[1].group``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value
