"""How much memory there is: for this container, or on this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# A limit that is larger than any machine is none: so cgroup v1 says that there is none.
_NO_LIMIT = 1 << 50


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may have, with those beside it in its control groups.

    Control groups of both versions are asked (Linux, Documentation/admin-guide: ``memory.max`` in
    cgroup-v2.rst, ``memory.limit_in_bytes`` in cgroup-v1/memory.rst), the process's own and all above it:
    each may be the lowest. The machine's memory bounds them all.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(limits)


def _limits(mount: Path, path: str, name: str) -> list[int]:
    """The limits of a control group and of those above it; a container often sees only the mount itself."""
    # Seen from another namespace, a group may seem to be above the mount.
    group = mount if ".." in path.split("/") else mount / path.lstrip("/")
    found = []
    for directory in (group, *group.parents):
        if not directory.is_relative_to(mount):
            break
        with suppress(OSError, ValueError):
            limit = int((directory / name).read_text())
            if 0 < limit < _NO_LIMIT:
                found.append(limit)
    return found
