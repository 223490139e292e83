"""What the filter is compared with: a loop in Python over whole decoded events.

``python -m benchmarks.baseline POLICY.yaml`` reads MessagePack events on stdin, has the AuditFilter
of ``k8s-audit-filter`` decide on each, and writes those it keeps to stdout. Without a policy it
keeps everything: what is left is the price of decoding and encoding.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, BinaryIO

from msgpack import Unpacker, packb

from filter_engine import Policy


def translate(policy: Policy) -> dict[str, Any]:
    """A policy for ``k8s-audit-filter`` 0.5.0: the same one, without what that library refuses.

    It refuses ``nonResourceURLs`` (the rule is left out) and ``omitStages``. It reads the rest in
    its own way: a rule keeps events recorded at exactly its level, and one of level None drops
    nothing, but asks for events of level None. So it keeps more than the filter does.
    """
    rules = [rule.to_dict() for rule in policy.rules if not rule.non_resource_urls]
    for rule in rules:
        rule.pop("omitStages", None)
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Decode and encode every record."""
    for event in Unpacker(source):
        target.write(packb(event))


def copy_filtered(policy: Policy, source: BinaryIO, target: BinaryIO) -> None:
    """Decode every record and encode those that the library keeps.

    An event that it fails on, as it does where a key is missing, is kept.
    """
    from k8s_audit_filter import AuditFilter

    # Each of its failures would be written to stderr together with the whole event.
    logging.disable(logging.WARNING)
    keeps = AuditFilter(translate(policy)).filter
    for event in Unpacker(source):
        try:
            keep = keeps(event)
        except Exception:
            keep = True
        if keep:
            target.write(packb(event))


def main() -> None:
    """Read stdin, write stdout."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    if len(sys.argv) > 1:
        copy_filtered(Policy.from_file(sys.argv[1]), source, target)
    else:
        copy(source, target)


if __name__ == "__main__":
    main()
