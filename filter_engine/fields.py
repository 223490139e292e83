"""The fields of an audit event that the conditions of a rule may read.

This is the only list of these fields: the decoders of events, for all encodings, and the vocabulary of a
policy are made from it. The names are those of ``audit.k8s.io/v1`` Event, see
https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Type = Literal["text", "texts", "integer"]


@dataclass(frozen=True)
class Field:
    """A field of an event.

    Attributes:
        parent: the name of the object that has the field; empty for a field of the event itself.
        name: the field's name in its object.
        type: the type of its value: a string, a list of strings, or an integer. A value of another type
            counts as absent.
    """

    parent: str
    name: str
    type: Type

    @property
    def path(self) -> str:
        """The field's place in an event: ``objectRef.name``."""
        return f"{self.parent}.{self.name}" if self.parent else self.name

    def read(self, event: Mapping[str, Any]) -> Any:
        """The field's value in a decoded event, of the field's type; None if it is absent."""
        parent: Any = event.get(self.parent) if self.parent else event
        value = parent.get(self.name) if isinstance(parent, Mapping) else None
        if self.type == "text":
            return text(value) if isinstance(value, (str, bytes)) else None
        if self.type == "texts":
            return tuple(map(text, value)) if isinstance(value, (list, tuple)) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: Any) -> str:
    """A value as a string. MessagePack may deliver strings as bytes; any other value counts as empty."""
    if isinstance(value, str):
        return value
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else ""


def annotation(key: str) -> Field:
    """The field of an annotation."""
    return Field("annotations", key, "text")


# In the order in which kube-apiserver writes them, because decoders look for them in this order.
LEVEL = Field("", "level", "text")
STAGE = Field("", "stage", "text")
REQUEST_URI = Field("", "requestURI", "text")
VERB = Field("", "verb", "text")
USERNAME = Field("user", "username", "text")
GROUPS = Field("user", "groups", "texts")
IMPERSONATED_USER = Field("impersonatedUser", "username", "text")
SOURCE_IPS = Field("", "sourceIPs", "texts")
USER_AGENT = Field("", "userAgent", "text")
RESOURCE = Field("objectRef", "resource", "text")
NAMESPACE = Field("objectRef", "namespace", "text")
NAME = Field("objectRef", "name", "text")
API_GROUP = Field("objectRef", "apiGroup", "text")
SUBRESOURCE = Field("objectRef", "subresource", "text")
CODE = Field("responseStatus", "code", "integer")

# What the rules of an audit.k8s.io Policy read, and the code.
FIELDS = (
    LEVEL,
    STAGE,
    REQUEST_URI,
    VERB,
    USERNAME,
    GROUPS,
    RESOURCE,
    NAMESPACE,
    NAME,
    API_GROUP,
    SUBRESOURCE,
    CODE,
)
# What the rules of a FilterPolicy may read beside these, and annotations.
MORE_FIELDS = (IMPERSONATED_USER, SOURCE_IPS, USER_AGENT)
