"""JSON Schema (2020-12) of the policy formats, made of the loader's own tables.

The tables say which fields there are, and of which types. What the loader's validation says of their values
stands here once more as far as a schema can say it; tests compare the two on a table of broken policies.
docs/schema.md says where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from filter_engine.loading import filter_policy, policy_v1
from filter_engine.loading.descriptions import DESCRIPTIONS
from filter_engine.loading.filter_policy_validation import (
    CODES,
    CONDITIONS,
    GROUP,
    LEVELS,
    METHODS,
    NETWORK,
    OWN_NAMESPACE,
    RECORDED_LEVELS,
)
from filter_engine.loading.rule_names import NAME, NO_RULE
from filter_engine.loading.schema import INT_OR_STR, List, Map, Struct
from filter_engine.loading.validation import DNS_SUBDOMAIN, MAX_SUBDOMAIN
from filter_engine.loading.yaml_scalars import MAX_INT64, MIN_INT64
from filter_engine.model import STAGES, Kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLES = {
    None: "Audit policies: a Policy of Kubernetes or a FilterPolicy of kube-audit-filter",
    "Policy": "Audit policy of Kubernetes",
    "FilterPolicy": "FilterPolicy of kube-audit-filter",
}
_POLICIES: dict[Kind, Struct] = {"Policy": policy_v1.POLICY, "FilterPolicy": filter_policy.POLICY}
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{1,2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})"
_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer", "minimum": MIN_INT64, "maximum": MAX_INT64},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    # kubectl and code generators write creationTimestamp: null.
    datetime: {"type": ["string", "null"], "pattern": f"^{_TIME}$"},
    INT_OR_STR: {"type": ["integer", "string"]},
    None: {},
}


def json_schema(kind: Kind | None = None) -> dict[str, Any]:
    """The JSON Schema of a kind of policies, as JSON data.

    Args:
        kind: the kind; None for a schema that takes both.
    """
    definitions: dict[str, Any] = {}
    wanted = _POLICIES if kind is None else {kind: _POLICIES[kind]}
    for policy in wanted.values():
        _define(policy, definitions)
    head = {"$schema": DIALECT, "title": _TITLES[kind]}
    if kind is None:
        choices = [{"$ref": f"#/$defs/{policy.name}"} for policy in wanted.values()]
        return {**head, "oneOf": choices, "$defs": definitions}
    return {**head, **definitions.pop(_POLICIES[kind].name), "$defs": definitions}


def _define(struct: Struct, definitions: dict[str, Any]) -> None:
    """Add the schema of an object, and of all objects in it, to definitions."""
    if struct.name in definitions:
        return
    definitions[struct.name] = {}  # keeps its place before the objects in it
    texts, limits = DESCRIPTIONS[struct.name], _FIELDS.get(struct.name, {})
    definitions[struct.name] = {
        "description": texts[""],
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"description": texts[name]} | _merged(_of_type(type_, definitions), limits.get(name, {}))
            for name, type_ in struct.fields.items()
        },
        **_OBJECTS.get(struct.name, {}),
    }


def _of_type(type_: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(type_, Struct):
        _define(type_, definitions)
        return {"$ref": f"#/$defs/{type_.name}"}
    if isinstance(type_, List):
        return {"type": "array", "items": _of_type(type_.item, definitions)}
    if isinstance(type_, Map):
        return {"type": "object", "additionalProperties": _of_type(type_.value, definitions)}
    return dict(_TYPES[type_])


def _merged(schema: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with more keywords. Schemas inside both are merged too."""
    inside = {
        key: _merged(schema[key], value)
        for key, value in more.items()
        if isinstance(value, dict) and isinstance(schema.get(key), dict)
    }
    return {**schema, **more, **inside}


def _pattern(expression: str) -> dict[str, str]:
    """A whole text that fits a regular expression. JSON Schema looks for a match anywhere."""
    return {"pattern": f"^({expression})$"}


def _each(**limits: Any) -> dict[str, Any]:
    return {"items": limits}


_STAGES = _each(enum=list(STAGES))
_ONE_OR_MORE = {"minItems": 1}
_NONE = {"maxItems": 0}

# kube-apiserver's validation (filter_engine.loading.validation).
_KUBERNETES_RULE = {
    "level": {"enum": list(LEVELS)},
    "nonResourceURLs": _each(**_pattern(r"\*|/[^*]*\*?")),
    "omitStages": _STAGES,
}
_KUBERNETES_RESOURCES = {
    "group": {**_pattern(rf"|\*|{DNS_SUBDOMAIN}"), "maxLength": MAX_SUBDOMAIN},
}
# The validation of a FilterPolicy (filter_engine.loading.filter_policy_validation).
_CONDITIONS: dict[str, Any] = {
    **dict.fromkeys(CONDITIONS, _ONE_OR_MORE),
    "verbs": {**_ONE_OR_MORE, **_each(**_pattern("[^*]*"))},
    "nonResourceURLs": {**_ONE_OR_MORE, **_each(pattern="^[/*]")},
    "responseCodes": {
        **_ONE_OR_MORE,
        **_each(minimum=100, maximum=999, **_pattern(CODES.pattern)),
    },
    "stages": {**_ONE_OR_MORE, **_STAGES},
    "levels": {**_ONE_OR_MORE, **_each(enum=list(RECORDED_LEVELS))},
    "sourceIPs": {**_ONE_OR_MORE, **_each(**_pattern(NETWORK.pattern))},
    "annotations": {"minProperties": 1, "additionalProperties": _ONE_OR_MORE},
    "ownNamespace": {"enum": list(OWN_NAMESPACE)},
}

_FIELDS: dict[str, dict[str, Any]] = {
    "Policy": {
        "apiVersion": {"const": policy_v1.API_VERSION},
        "kind": {"const": "Policy"},
        "rules": _ONE_OR_MORE,
        "omitStages": _STAGES,
    },
    "PolicyRule": _KUBERNETES_RULE,
    "GroupResources": _KUBERNETES_RESOURCES,
    "FilterPolicy": {
        "apiVersion": {"const": filter_policy.API_VERSION},
        "kind": {"const": filter_policy.KIND},
        "defaultLevel": {"enum": list(LEVELS), "default": "None"},
        "omitStages": _STAGES,
    },
    "FilterPolicyRule": {
        **_CONDITIONS,
        "name": _pattern(f"(?!{NO_RULE}$){NAME.pattern}"),
        "level": {"enum": list(LEVELS)},
        "omitStages": _STAGES,
    },
    "Exception": _CONDITIONS,
    "PatternResources": {
        "group": _pattern(GROUP.pattern),
        "resources": {**_ONE_OR_MORE, **_each(**_pattern("[^A-Z/]|[^A-Z/][^A-Z]*[^A-Z/]"))},
        "resourceNames": _ONE_OR_MORE,
    },
    "Sample": {"rate": {"exclusiveMinimum": 0, "maximum": 1}, "annotate": {"default": True}},
    "Redaction": {"method": {"enum": list(METHODS), "default": "mask"}},
}

_URLS_OR_RESOURCES = {
    "if": {"properties": {"nonResourceURLs": _ONE_OR_MORE}, "required": ["nonResourceURLs"]},
    "then": {"properties": {"resources": _NONE, "namespaces": _NONE}},
}
_NAMES_NEED_RESOURCES = {
    "if": {"properties": {"resourceNames": _ONE_OR_MORE}, "required": ["resourceNames"]},
    "then": {"properties": {"resources": _ONE_OR_MORE}, "required": ["resources"]},
}
_NOTHING_AFTER_NONE = {
    "if": {"properties": {"level": {"const": "None"}}, "required": ["level"]},
    "then": {"properties": {"sample": False, "redact": _NONE}},
}

_OBJECTS: dict[str, dict[str, Any]] = {
    "Policy": {"required": ["apiVersion", "rules"]},
    "PolicyRule": {"required": ["level"], **_URLS_OR_RESOURCES},
    "GroupResources": _NAMES_NEED_RESOURCES,
    "FilterPolicy": {
        "required": ["apiVersion", "kind"],
        "anyOf": [
            {"properties": {"rules": _ONE_OR_MORE}, "required": ["rules"]},
            {"required": ["defaultLevel"]},
        ],
    },
    "FilterPolicyRule": {"required": ["level"], "allOf": [_URLS_OR_RESOURCES, _NOTHING_AFTER_NONE]},
    "Exception": {"minProperties": 1, **_URLS_OR_RESOURCES},
    "PatternResources": _NAMES_NEED_RESOURCES,
    "Sample": {"required": ["rate"]},
    "Redaction": {
        "if": {"properties": {"method": {"const": "hash"}}, "required": ["method"]},
        "then": {"properties": {"keyFile": {"minLength": 1}}, "required": ["keyFile"]},
        "else": {"properties": {"keyFile": {"maxLength": 0}}},
    },
}
