"""Levels, stages and rules of an ``audit.k8s.io/v1`` Policy as immutable Python objects.

The fields are those of ``k8s.io/apiserver/pkg/apis/audit/v1``; see
https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


class Level(str, enum.Enum):
    """How much of a request is recorded; ordered None < Metadata < Request < RequestResponse."""

    NONE = "None"
    METADATA = "Metadata"
    REQUEST = "Request"
    REQUEST_RESPONSE = "RequestResponse"

    def __str__(self) -> str:
        return self.value

    def __lt__(self, other: str) -> bool:
        return _RANK[self] < _RANK[Level(other)]

    def __le__(self, other: str) -> bool:
        return _RANK[self] <= _RANK[Level(other)]

    def __gt__(self, other: str) -> bool:
        return _RANK[self] > _RANK[Level(other)]

    def __ge__(self, other: str) -> bool:
        return _RANK[self] >= _RANK[Level(other)]


_RANK = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True)
class GroupResources:
    """Resources of one API group that a rule covers; an empty ``resources`` means all of the group."""

    group: str = ""
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The element as JSON data, empty fields left out as Go's ``omitempty`` does."""
        return without_empty(
            group=self.group, resources=list(self.resources), resourceNames=list(self.resource_names)
        )


@dataclass(frozen=True)
class PolicyRule:
    """One rule. An empty tuple puts no condition on its field.

    ``codes`` (response codes) is not part of ``audit.k8s.io/v1``: it is the extra rule field of
    the PyPI package ``k8s-audit-filter``, read only where the loader is told to.
    """

    level: Level
    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()
    omit_stages: tuple[str, ...] = ()
    omit_managed_fields: bool | None = None
    codes: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON data, empty fields left out as Go's ``omitempty`` does."""
        conditions = without_empty(
            users=list(self.users),
            userGroups=list(self.user_groups),
            verbs=list(self.verbs),
            resources=[element.to_dict() for element in self.resources],
            namespaces=list(self.namespaces),
            nonResourceURLs=list(self.non_resource_urls),
            omitStages=list(self.omit_stages),
            codes=list(self.codes),
        )
        if self.omit_managed_fields is not None:
            conditions["omitManagedFields"] = self.omit_managed_fields
        return {"level": self.level.value, **conditions}


def without_empty(**fields: Any) -> dict[str, Any]:
    """The fields that have a value, as Go's ``omitempty`` writes them."""
    return {name: value for name, value in fields.items() if value}
