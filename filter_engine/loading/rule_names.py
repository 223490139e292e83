"""Names for rules. The policy format has no field for them, so they are annotations of the policy.

``metadata.annotations`` may hold ``kube-audit-filter/rule-N: NAME``, N being a rule's index. kube-apiserver
ignores annotations, so it reads such a policy as any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from filter_engine.errors import PolicyProblem, Problems, shortened
from filter_engine.loading.document import Node

PREFIX = "kube-audit-filter/"
# What stands in place of a rule's name if no rule matched.
NO_RULE = "none"
_KEY = re.compile(r"rule-(0|[1-9][0-9]{0,6})")
# A name is never a number: a number would look like the index of another rule.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._/-]{0,62}")


def read_rule_names(
    metadata: Mapping[str, Any], rules: int, root: Node, problems: Problems
) -> dict[int, str]:
    """The names that a policy's annotations give to its rules.

    Args:
        metadata: the policy's decoded metadata.
        rules: how many rules it has.
        root: the document, for line numbers.
        problems: takes what is wrong with annotations that begin with ``PREFIX``.

    Returns:
        Names by a rule's index.
    """
    names: dict[int, str] = {}
    for key, name in metadata.get("annotations", {}).items():
        if not key.startswith(PREFIX):
            continue
        match = _KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            message = f"expected {PREFIX}rule-N, N being the index of a rule"
        elif int(match[1]) >= rules:
            message = f"there is no such rule: the policy has {rules}, and the first one is rule-0"
        elif not NAME.fullmatch(name) or name == NO_RULE:
            message = (
                f"{shortened(name)!r} can't be a rule's name: expected a letter and then at most 62 letters,"
                f" digits or ._/-, but not {NO_RULE!r}"
            )
        else:
            names[int(match[1])] = name
            continue
        if problems.takes(lenient=True):
            field = f"metadata.annotations[{shortened(key)}]"
            problems.add(PolicyProblem(field, f"{field}: {message}", _line(root, key), lenient=True))
    return names


def _line(root: Node, key: str) -> int | None:
    """The line of an annotation."""
    node: Node | None = root
    for step in ("metadata", "annotations", key):
        node = node.value.get(step) if node is not None and isinstance(node.value, dict) else None
    return None if node is None else node.line
