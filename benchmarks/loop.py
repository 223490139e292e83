"""What the filter is compared with: a loop in Python over whole decoded events.

``python -m benchmarks.loop POLICY.json`` reads MessagePack events on stdin, has the AuditFilter of
``k8s-audit-filter`` decide on each, and writes those it keeps to stdout. Without a policy it keeps
everything: what is left is the price of decoding and encoding.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

from msgpack import Unpacker, packb


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Decode and encode every record."""
    for event in Unpacker(source):
        target.write(packb(event))


def copy_filtered(policy: dict[str, Any], source: BinaryIO, target: BinaryIO) -> None:
    """Decode every record and encode those that the library keeps.

    An event that it fails on, as it does where a key is missing, is kept.
    """
    from k8s_audit_filter import AuditFilter

    # Each of its failures would be written to stderr together with the whole event.
    logging.disable(logging.WARNING)
    keeps = AuditFilter(policy).filter
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
        copy_filtered(json.loads(Path(sys.argv[1]).read_bytes()), source, target)
    else:
        copy(source, target)


if __name__ == "__main__":
    main()
