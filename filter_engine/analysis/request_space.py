"""Sets of requests that the rules of policies can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# How many sets describe one difference.
MAX_SETS = 20


@dataclass(frozen=True)
class Values:
    """A set of values of one field, in words.

    Attributes:
        labels: names of values, and of classes of values such as ``any other user``.
        is_complement: whether all other values are meant.
    """

    labels: tuple[str, ...]
    is_complement: bool = False

    def __str__(self) -> str:
        return ("any but " if self.is_complement else "") + ", ".join(self.labels)


@dataclass(frozen=True)
class RequestSet:
    """A set of events: all those whose fields have these values.

    Attributes:
        fields: by the name of a field, in a rule's words where there is one (``users``, ``userGroups``,
            ``verbs``, ``apiGroups``, ``resources``, ``subresources``, ``resourceNames``, ``namespaces``,
            ``nonResourceURLs``, ``stages``, ``levels``, ``responseCodes``, ``userAgents``, ``sourceIPs``,
            ``impersonatedUsers``, ``annotations[KEY]``, ``ownNamespace``): its values. A field that is missing
            may have any value.
        is_resource: whether the requests are for resources; None for both kinds.
    """

    fields: Mapping[str, Values]
    is_resource: bool | None = None

    def __str__(self) -> str:
        kind = {True: ["requests for resources"], False: ["non-resource requests"], None: []}[self.is_resource]
        return "; ".join(kind + [f"{name}: {values}" for name, values in self.fields.items()]) or "all requests"
