"""How much memory this container or this machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# cgroup v1 says that there is no limit with a number that is larger than any machine.
_NO_LIMIT = 1 << 50


def available_memory(root: Path = Path("/")) -> int:
    """How many bytes this process and the others in its control groups may use.

    The limit is the lowest of those of the process's own control group, of all groups above it and of the
    machine. Control groups of both versions are read (Linux, Documentation/admin-guide: ``memory.max`` in
    cgroup-v2.rst, ``memory.limit_in_bytes`` in cgroup-v1/memory.rst).

    Args:
        root: the directory of ``proc`` and ``sys``.
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
    """The limits of a control group and of all groups above it. A container often sees only the mount."""
    # From another namespace, the path of a group may lead above the mount.
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
