"""Fields of a rule that are compared letter by letter, and what to write there in place of a pattern.

kube-apiserver's evaluator (pkg/audit/policy/checker.go) knows wildcards only in ``resources``, ``group`` and
``nonResourceURLs``. Where they stand elsewhere they match nothing but themselves.
"""

from __future__ import annotations

import re

from filter_engine.errors import shortened

# What a field without wildcards names.
LITERAL_FIELDS = {
    "users": "user",
    "userGroups": "group",
    "verbs": "verb",
    "namespaces": "namespace",
    "resourceNames": "object",
}
# Groups that Kubernetes puts users into, by patterns that people write for these users.
_GROUPS = (
    (re.compile(r"system:nodes?:\*"), "system:nodes"),
    (re.compile(r"system:serviceaccount:([a-z0-9-]+):\*"), r"system:serviceaccounts:\1"),
    (re.compile(r"system:serviceaccounts?:\*"), "system:serviceaccounts"),
)


def is_pattern(value: str) -> bool:
    """Whether somebody who wrote this in a field without wildcards meant a pattern."""
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
    """Why a pattern in a field of ``LITERAL_FIELDS`` does nothing, and what to write in its place."""
    return (
        f'"{shortened(value, 80)}" matches nothing, because {field} has no wildcards:'
        f" {in_place_of(field, value)}"
    )
