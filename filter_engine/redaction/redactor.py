"""What a rule's ``redact`` does to an event.

The fields of an event are redacted one by one. A field that can't be redacted, because it can't be read or
for a fault, is left out, and an annotation says so: nothing goes on that should have been redacted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, NamedTuple

from filter_engine.fields import RESOURCE, SUBRESOURCE, Field, text
from filter_engine.redaction.bodies import Bodies, Places
from filter_engine.redaction.kinds import QUOTING_CODES, RESOURCES, SETS, is_set, kind_of_resource
from filter_engine.redaction.patches import redact_patch, redact_webhook_patch
from filter_engine.redaction.paths import parse_path
from filter_engine.redaction.replacement import REMOVED, Replacement
from filter_engine.redaction.uris import redact_query
from filter_engine.redaction.values import Values
from filter_engine.redaction.walk import Node, put, walk
from filter_engine.reduction import PATCH_ANNOTATIONS

# Where events say who somebody is, beside the bodies.
_PERSONAL_PATHS = (
    *(
        f"{user}.{name}"
        for user in ("user", "impersonatedUser")
        for name in ("username", "uid", "groups", "extra")
    ),
    "sourceIPs",
    "userAgent",
    'annotations["authorization.k8s.io/reason"]',
    "responseStatus.message",
)
BODIES = ("requestObject", "responseObject")
# Without these, an event is taken for one that was changed on its way, and nobody decides on it again.
_NEEDED = ("user", "objectRef")
# Says that a part of an event was left out because it could not be redacted.
FAILURE_ANNOTATION = "kube-audit-filter.io/redaction"
FAILED = "failed"


# In place of a kind that was not looked up yet.
UNKNOWN = "\0unknown"


class Redacted(NamedTuple):
    """An event after its redaction.

    Attributes:
        event: the event that goes on; the one that came if nothing had to be redacted.
        failed: whether a part of it was left out because it could not be redacted.
    """

    event: Mapping[str, Any]
    failed: bool


class Redactor:
    """Redacts events by one list of paths and named sets.

    Args:
        redact: paths and names of sets.
        replacement: makes what comes in the place of a value.

    Raises:
        ValueError: one of the texts is neither a path nor the name of a set.

    Attributes:
        names: the fields of an event that may be redacted.
        has_secrets: whether the set of secrets is among what is redacted.
        looks_at_all: whether each event has to be looked into, because paths may lead anywhere.
        replacement: the argument.
        kind: the kind of what requests were for, of all events that come; UNKNOWN if these are of all kinds.
    """

    def __init__(self, redact: Iterable[str], replacement: Replacement) -> None:
        texts = tuple(redact)
        sets = [each for each in texts if is_set(each)]
        self.replacement = replacement
        self.has_secrets = "builtin:secrets" in sets
        self._has_personal = "builtin:personal" in sets
        self._places = Places([SETS[name] for name in dict.fromkeys(sets)], replacement) if sets else None
        paths = [each for each in texts if each not in sets]
        paths += _PERSONAL_PATHS if self._has_personal else ()
        self._root = Node(frozenset(map(parse_path, paths)), replacement) if paths else None
        self.looks_at_all = self._root is not None
        names = dict.fromkeys(self._root.names if self._root else ())
        if sets:
            names |= dict.fromkeys(BODIES)
        if self.has_secrets:
            names |= dict.fromkeys(("requestURI", "annotations", "responseStatus"))
        self.names = tuple(names)
        self.kind: str | None = UNKNOWN

    @property
    def node(self) -> Node | None:
        """The node of the places in bodies of the redactor's kind."""
        return None if self._places is None else self._places.node(self._places.having(self.kind))

    def words(self) -> Mapping[Field, frozenset[str]]:
        """The words of fields that :meth:`kind_of` tells apart."""
        if self._places is None:
            return {}
        names = [name.partition("/") for name, kind in RESOURCES.items() if kind in self._places.kinds]
        resources, _, subresources = zip(*names, strict=True)
        return {RESOURCE: frozenset(resources), SUBRESOURCE: frozenset(subresources)}

    def kind_of(self, event: Mapping[str, Any]) -> str | None:
        """The kind of what a request was for: empty if there are no places in it; None if nobody knows."""
        resource = text(RESOURCE.read(event))
        kind = kind_of_resource(resource, text(SUBRESOURCE.read(event))) if resource else None
        return kind if kind is None or (self._places and kind in self._places.kinds) else ""

    def limited(self, names: tuple[str, ...], kind: str | None) -> Redactor:
        """This redactor for events of which more is known.

        Args:
            names: the fields in which there may be something to redact.
            kind: what :meth:`kind_of` says of these events.
        """
        limited = copy(self)
        limited.names, limited.kind = names, kind
        return limited

    def redact(self, event: Mapping[str, Any], values: Values) -> Redacted:
        """Redact an event.

        Args:
            event: an event, whose members ``values`` can look into. It is not changed.
            values: how to do that.
        """
        changed: dict[str, Any] | None = None
        failed = False
        about = _About(event, values, self._places, self.kind)
        for name in self.names:
            value = event.get(name)
            if value is None:
                continue
            try:
                new = self._field(name, value, about)
            except Exception:  # whatever goes wrong must not let the value through
                new, failed = REMOVED, True
            if new is REMOVED and name in _NEEDED:
                new = {}
            if new is not value:
                changed = dict(event) if changed is None else changed
                put(changed, name, new)
        if changed is None:
            return Redacted(event, False)
        if failed:
            mark_failed(changed, values)
        return Redacted(changed, failed)

    def _field(self, name: str, value: Any, about: _About) -> Any:
        values = about.values
        node = None if self._root is None else self._root.child(name)
        if node is not None:
            if name == "requestObject" and about.is_patch and values.kind(value) == "array":
                value = redact_patch(values, value, node)
            value = walk(values, value, node)
        places = self._places
        if value is REMOVED or places is None:
            return value
        if name in BODIES:
            bodies = Bodies(values, places, lambda: self._has_personal or about.is_not_valid())
            return bodies.redact(value, about.kind, is_patch=name == "requestObject" and about.is_patch)
        return self._with_secrets(values, name, value, about, places) if self.has_secrets else value

    def _with_secrets(self, values: Values, name: str, value: Any, about: _About, places: Places) -> Any:
        """Redact secrets in a field that is no body."""
        if name == "requestURI" and values.kind(value) == "string":
            uri = values.text(value)
            redacted = redact_query(uri, self.replacement)
            return value if redacted == uri else values.string(redacted, value)
        if name == "annotations" and values.may_contain(value, PATCH_ANNOTATIONS):
            return _redact_patches(values, value, about)
        if name == "responseStatus" and about.node is not None and about.is_not_valid():
            return walk(values, value, places.status)
        return value


def _redact_patches(values: Values, annotations: Any, about: _About) -> Any:
    """Redact the annotations with the patches that admission webhooks made of the body."""
    if about.node is None or values.kind(annotations) != "map":
        return annotations
    members = values.members(annotations)
    changed: dict[str, Any] | None = None
    for key, value in members.items():
        if key.startswith(PATCH_ANNOTATIONS):
            new = redact_webhook_patch(values, value, about.node)
            if new is not value:
                changed = dict(members) if changed is None else changed
                put(changed, key, new)
    return annotations if changed is None else changed


class _About:
    """What of an event says where its bodies have secrets."""

    def __init__(
        self, event: Mapping[str, Any], values: Values, places: Places | None, kind: str | None
    ) -> None:
        self.values = values
        self._event = event
        self._places = places
        self._kind = kind

    @property
    def kind(self) -> str | None:
        """The kind of what the request was for; None if the event does not say."""
        if self._kind is UNKNOWN:
            members = self._members("objectRef")
            resource = self._text(members.get("resource"))
            subresource = self._text(members.get("subresource"))
            self._kind = kind_of_resource(resource, subresource) if resource else None
        return self._kind

    @property
    def node(self) -> Node | None:
        """The node of the places in what the request was for."""
        return None if self._places is None else self._places.node(self._places.having(self.kind))

    @property
    def is_patch(self) -> bool:
        """Whether the request was a patch."""
        return self._text(self._event.get("verb")) == "patch"

    def is_not_valid(self) -> bool:
        """Whether the request was refused as not valid, so that messages may quote what was sent."""
        code = self._members("responseStatus").get("code")
        return code is not None and self.values.kind(code) == "other" and self.values.plain(code) in _QUOTING

    def _members(self, name: str) -> Mapping[str, Any]:
        value = self._event.get(name)
        return {} if value is None or self.values.kind(value) != "map" else self.values.members(value)

    def _text(self, value: Any) -> str:
        return self.values.text(value) if value is not None and self.values.kind(value) == "string" else ""


_QUOTING = frozenset(str(code).encode() for code in QUOTING_CODES)


def mark_failed(event: dict[str, Any], values: Values) -> None:
    """Write into an event that a part of it was left out because it could not be redacted."""
    annotations = event.get("annotations")
    if annotations is None or values.kind(annotations) != "map":
        own: Mapping[str, Any] = {}
    else:
        own = values.members(annotations)
    event["annotations"] = {**own, FAILURE_ANNOTATION: FAILED}
