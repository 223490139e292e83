"""Policies that ship with the package; ``--policy builtin:NAME`` names one."""

from __future__ import annotations

from pathlib import Path

PREFIX = "builtin:"


def names() -> list[str]:
    """The names of the built-in policies."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a built-in policy.

    Raises:
        KeyError: there is no built-in policy of that name.
    """
    if name not in names():
        raise KeyError(name)
    return Path(__file__).with_name(f"{name}.yaml")
