"""The resources that Kubernetes itself has: their API groups, scope, verbs and subresources.

The facts are in ``kubernetes_resources.json``, with their source and version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Resource:
    """A resource.

    Attributes:
        group: its API group; empty for the core group.
        name: its name, in lower case and plural.
        version: a version of the group that has it.
        is_namespaced: whether its objects are in namespaces.
        verbs: the verbs of requests for it.
        subresources: the verbs of requests for its subresources, by their names.
    """

    group: str
    name: str
    version: str
    is_namespaced: bool
    verbs: frozenset[str]
    subresources: Mapping[str, frozenset[str]]

    def verbs_of(self, subresource: str) -> frozenset[str]:
        """The verbs of a subresource, or of the resource itself if it is empty. None if it does not exist."""
        return self.subresources.get(subresource, frozenset()) if subresource else self.verbs


@cache
def built_in() -> Mapping[tuple[str, str], Resource]:
    """The resources, by API group and name."""
    facts = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {
        (group, name): Resource(
            group,
            name,
            of_group["version"],
            resource["namespaced"],
            frozenset(resource["verbs"].split()),
            {sub: frozenset(verbs.split()) for sub, verbs in resource["subresources"].items()},
        )
        for group, of_group in facts["groups"].items()
        for name, resource in of_group["resources"].items()
    }


def facts_version() -> str:
    """The version of Kubernetes that the facts are of."""
    version: str = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["version"]
    return version
