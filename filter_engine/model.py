"""Levels, stages and rules of an ``audit.k8s.io/v1`` Policy as immutable Python objects.

The fields are those of ``k8s.io/apiserver/pkg/apis/audit/v1``; see
https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Literal

# audit.k8s.io Policy, and kube-audit-filter.io FilterPolicy.
Kind = Literal["Policy", "FilterPolicy"]
# What comes in the place of a redacted value.
Method = Literal["mask", "remove", "hash"]
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


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What restricts a rule. All conditions have to be met; an empty tuple is no condition.

    The first six are those of ``audit.k8s.io/v1``. ``codes`` (response codes) is the extra rule field of the
    PyPI package ``k8s-audit-filter``, read only where the loader is told to. The others are a FilterPolicy's.

    Attributes:
        response_codes: ranges of codes, each with its first and last one.
        stages: the stages at which an event may have been recorded.
        levels: the levels at which it may have been recorded.
        user_agents: patterns of user agents.
        source_ips: addresses and networks. Each recorded address has to be in one of them.
        impersonated_users: patterns of the names of users that the request impersonated.
        annotations: keys of annotations, and patterns of their values.
        own_namespace: ``same`` or ``prefix`` for service accounts in their own namespace; see
            :mod:`filter_engine.own_namespace`. Empty for no condition.
    """

    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    response_codes: tuple[tuple[int, int], ...] = ()
    stages: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    user_agents: tuple[str, ...] = ()
    source_ips: tuple[str, ...] = ()
    impersonated_users: tuple[str, ...] = ()
    annotations: tuple[tuple[str, tuple[str, ...]], ...] = ()
    own_namespace: str = ""

    def conditions_to_dict(self) -> dict[str, Any]:
        """The conditions as JSON data, empty fields left out as Go's ``omitempty`` does."""
        return without_empty(
            users=list(self.users),
            userGroups=list(self.user_groups),
            verbs=list(self.verbs),
            resources=[element.to_dict() for element in self.resources],
            namespaces=list(self.namespaces),
            nonResourceURLs=list(self.non_resource_urls),
            codes=list(self.codes),
            responseCodes=[_codes_to_data(*codes) for codes in self.response_codes],
            stages=list(self.stages),
            levels=list(self.levels),
            userAgents=list(self.user_agents),
            sourceIPs=list(self.source_ips),
            impersonatedUsers=list(self.impersonated_users),
            annotations={key: list(values) for key, values in self.annotations},
            ownNamespace=self.own_namespace,
        )


def _codes_to_data(first: int, last: int) -> int | str:
    if first == last:
        return first
    if first % 100 == 0 and last == first + 99:
        return f"{first // 100}xx"
    return f"{first}-{last}"


@dataclass(frozen=True)
class Sample:
    """How many of the events that a rule matched go on, of those that it would keep.

    Attributes:
        rate: the fraction, above 0 and at most 1.
        annotate: whether the rate is written into the events that go on.
    """

    rate: float
    annotate: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The sample as JSON data."""
        return {"rate": self.rate} | ({} if self.annotate else {"annotate": False})


@dataclass(frozen=True)
class PolicyRule(Conditions):
    """One rule: conditions, a level, and what is done with the events that it matches.

    Attributes:
        level: at which level events are recorded; None drops them.
        omit_stages: stages whose events are dropped.
        omit_managed_fields: whether managed fields are removed from bodies; None: what the policy says.
        exceptions: the rule does not match what any of these matches.
        sample: keep a part of the events only.
        redact: paths and named sets of what is to be redacted.
    """

    level: Level
    omit_stages: tuple[str, ...] = field(default=(), kw_only=True)
    omit_managed_fields: bool | None = field(default=None, kw_only=True)
    exceptions: tuple[Conditions, ...] = field(default=(), kw_only=True)
    sample: Sample | None = field(default=None, kw_only=True)
    redact: tuple[str, ...] = field(default=(), kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON data, empty fields left out as Go's ``omitempty`` does."""
        rule = {"level": self.level.value, **self.conditions_to_dict()}
        rule |= without_empty(
            omitStages=list(self.omit_stages),
            **{"except": [conditions.conditions_to_dict() for conditions in self.exceptions]},
            sample=self.sample and self.sample.to_dict(),
            redact=list(self.redact),
        )
        if self.omit_managed_fields is not None:
            rule["omitManagedFields"] = self.omit_managed_fields
        return rule


@dataclass(frozen=True)
class Redaction:
    """How values are redacted.

    Attributes:
        method: ``mask`` puts a fixed text in a value's place, ``remove`` leaves the value out, ``hash`` puts
            a keyed hash in its place.
        key_file: path of the file with the key for hashes; empty for other methods.
        key: the key, once it was read.
    """

    method: Method = "mask"
    key_file: str = ""
    key: bytes = field(default=b"", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The redaction as JSON data; empty for the default."""
        if self.method == "mask":
            return {}
        return without_empty(method=self.method, keyFile=self.key_file)


def without_empty(**fields: Any) -> dict[str, Any]:
    """The fields that have a value, as Go's ``omitempty`` writes them."""
    return {name: value for name, value in fields.items() if value}
