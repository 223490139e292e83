"""Which events a ``sample`` keeps.

The choice hangs on the event's auditID alone. So all stages of a request share one fate, every replica and
every implementation (this one, the compiled Lua, SQL) chooses the same, and what a rate keeps, each higher
rate keeps too. docs/policy.md has the definition and test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

# The annotation that says at which rate an event was sampled, so that counts can be scaled.
RATE_ANNOTATION = "kube-audit-filter.io/sample-rate"
# Digits of the hash that count: 52 bits, which are a whole number in every language's floating point.
DIGITS = 13


@cache
def threshold(rate: float) -> str:
    """The smallest hash that a rate does not keep, as lower-case hexadecimal digits.

    Hashes are compared with it as text, which every language and every SQL engine can do. A rate of 1 keeps
    everything, and its threshold is behind every digit.
    """
    limit = int(rate * 16**DIGITS)
    return "g" if limit >= 16**DIGITS else f"{limit:0{DIGITS}x}"


def keeps(audit_id: str, limit: str) -> bool:
    """Whether an event is kept.

    Args:
        audit_id: the event's auditID.
        limit: the :func:`threshold` of the rate.
    """
    try:
        encoded = audit_id.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which no encoded event can hold
        encoded = audit_id.encode("utf-8", "surrogatepass")
    return hashlib.md5(encoded, usedforsecurity=False).hexdigest()[:DIGITS] < limit


def rate_text(rate: float) -> str:
    """A rate as its annotation has it."""
    return f"{rate:.15g}"


def with_rate(event: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """A new event, with the rate as an annotation. Annotations that are not a map stay as they are."""
    annotations = event.get("annotations", {})
    if not isinstance(annotations, Mapping):
        return dict(event)
    return {**event, "annotations": {**annotations, RATE_ANNOTATION: rate_text(rate)}}
