"""Fields of a rule that are compared letter by letter, and what to write there instead of a pattern.

kube-apiserver's evaluator (pkg/audit/policy/checker.go) knows wildcards only in ``resources``, ``group`` and
``nonResourceURLs``. In other fields, a ``*`` is an ordinary character.
"""

from __future__ import annotations

import re

from filter_engine.errors import shortened

# Fields without wildcards, and what their values name.
LITERAL_FIELDS = {
    "users": "user",
    "userGroups": "group",
    "verbs": "verb",
    "namespaces": "namespace",
    "resourceNames": "object",
}
# Patterns that people write for users, and the group that Kubernetes puts these users into.
_GROUPS = (
    (re.compile(r"system:nodes?:\*"), "system:nodes"),
    (re.compile(r"system:serviceaccount:([a-z0-9-]+):\*"), r"system:serviceaccounts:\1"),
    (re.compile(r"system:serviceaccounts?:\*"), "system:serviceaccounts"),
)


def is_pattern(value: str) -> bool:
    """Whether a value of a field without wildcards was probably meant as a pattern."""
    return "*" in value


def in_place_of(field: str, value: str) -> str:
    """What to do about a pattern in a field of ``LITERAL_FIELDS``: the end of a sentence."""
    what = LITERAL_FIELDS[field]
    if value.strip("*") == "":
        return f"leave {field} out to match every {what}"
    if field in ("users", "userGroups"):
        for pattern, group in _GROUPS:
            if match := pattern.fullmatch(value):
                return f'write userGroups: ["{match.expand(group)}"]'
    return f"name each {what}" + (", or a group of them in userGroups" if field == "users" else "")


def no_wildcards(field: str, value: str) -> str:
    """Why a pattern in a field of ``LITERAL_FIELDS`` matches nothing, and what to write instead."""
    return (
        f'"{shortened(value, 80)}" matches nothing, because {field} has no wildcards:'
        f" {in_place_of(field, value)}"
    )
