"""The short way of redaction, for usual events: new values are put into an event's bytes, between all others.

A typed decode in C finds just the values at the places of the event's kind. Each is then looked for in the
bytes, behind its key, and its new value is written in its stead. The same decode of the result shows whether
the right ones were replaced, for an event may hold the same key with the same value elsewhere. Whatever does
not fit is left to the long way, which opens the event map by map (``encoded_actions``).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from filter_engine.redaction.redactor import BODIES, Redactor
from filter_engine.redaction.uris import redact_query
from filter_engine.redaction.walk import Node, walk

from ..encoding.codec import DECODE_ERRORS, Buffer, Codec
from .encoded_values import EncodedValues

_URI = "requestURI"
# What a body has if it is no object, but holds others.
_OTHER_FORMS = ("items", "rows", "object")
# A decoded map, the attribute of a member, its encoded key, and the node of its value; None for a requestURI.
_Place = tuple[Any, str, bytes, Node | None]


class Left(enum.Enum):
    """Says that an event stays as it is."""

    LEFT_ALONE = enum.auto()


LEFT_ALONE: Final = Left.LEFT_ALONE


class _DoesNotFitError(Exception):
    """The event has to be redacted in the long way."""


class Splicer:
    """Redacts events of one kind.

    Args:
        codec: the events' encoding.
        values: how to look into values of this encoding.
        redactor: a redactor that knows the kind; see :meth:`Redactor.limited`.
        body: the shape of bodies of this kind; None if there is none.

    Raises:
        ValueError: events of this kind can't be redacted in this way.
    """

    def __init__(
        self, codec: Codec, values: EncodedValues, redactor: Redactor, body: BodyShape | None
    ) -> None:
        bodies = [name for name in redactor.names if name in BODIES]
        if redactor.replacement.removes or not {*redactor.names} <= {*BODIES, _URI}:
            raise ValueError
        if bodies and (body is None or redactor.kind is None):
            raise ValueError
        self._codec = codec
        self._values = values
        self._replacement = redactor.replacement
        self._kind = redactor.kind
        self._body = body
        fields: list[Any] = [(_URI, Raw | UnsetType, UNSET)] if _URI in redactor.names else []
        if body is not None:
            fields += [(name, body.type | UnsetType, UNSET) for name in bodies]
        self._bodies = bodies
        self._decode = codec.struct_decoder(msgspec.defstruct("Event", fields, gc=False))
        self._uri_key = _encoded_key(codec, _URI)
        self._last = Raw(b""), Raw(b"")
        # The encoded mask by the first byte of the string in whose place it comes. Hashes have none.
        self._masks: dict[int, Raw] = {}

    def splice(self, raw: Buffer) -> bytes | Left | None:
        """Redact an event.

        Returns:
            The new event; LEFT_ALONE if there is nothing to redact in it; None if it has to be redacted in
            the long way.
        """
        try:
            event = self._decode(raw)
            places = self._places(event)
            if not places:
                return LEFT_ALONE
            data = bytes(memoryview(raw))
            result = self._with_new_values(data, places)
            if result is data:
                return LEFT_ALONE
            # The decoded event now has the new values.
            return result if self._decode(result) == event else None
        except (_DoesNotFitError, *DECODE_ERRORS):
            return None

    def _with_new_values(self, data: bytes, places: Sequence[_Place]) -> bytes:
        """Put new values into decoded maps, and into their bytes."""
        masks = self._masks
        spans: list[tuple[int, int, bytes]] = []
        at = 0
        for owner, attribute, key, node in places:
            value = getattr(owner, attribute)
            old = bytes(value)
            new = masks.get(old[0]) if node is not None and node.is_end else None
            if new is None:
                new = self._new(value, node)
            written = bytes(new)
            if written != old:
                setattr(owner, attribute, new)
                start = _find(data, key + old, at) + len(key)
                at = start + len(old)
                spans.append((start, at, written))
        return _with(data, spans)

    def _places(self, event: Any) -> list[_Place]:
        found: list[_Place] = []
        if self._body is not None:
            for name in self._bodies:
                body = getattr(event, name)
                if body is UNSET:
                    continue
                if body.kind is not UNSET and body.kind != self._kind:
                    raise _DoesNotFitError
                if not (body.items is body.rows is body.object is UNSET):
                    raise _DoesNotFitError
                self._body.find(body, found)
        if getattr(event, _URI, UNSET) is not UNSET:
            found.append((event, _URI, self._uri_key, None))
        return found

    def _new(self, value: Raw, node: Node | None) -> Raw:
        if node is None:
            uri = self._values.text(value)
            return self._string(redact_query(uri, self._replacement), value)
        kind = self._codec.kind(value)
        if kind == "map" and node.is_end:
            return self._new_map(value, node)
        if kind in ("map", "array"):
            raise _DoesNotFitError
        new = self._walked(value, node)
        if kind == "string" and node.is_end and self._replacement.masks:
            self._masks[bytes(value)[0]] = new
        return new

    def _walked(self, value: Raw, node: Node) -> Raw:
        # Requests and responses have the same copies of objects.
        if value != self._last[0]:
            new = walk(self._values, value, node)
            if not isinstance(new, Raw):
                raise _DoesNotFitError
            self._last = value, new
        return self._last[1]

    def _new_map(self, value: Raw, node: Node) -> Raw:
        """A map of which each value is redacted."""
        old = self._codec.members(value)
        if self._codec.encode(old) != bytes(value):
            raise _DoesNotFitError
        masks, new = self._masks, self._new
        return Raw(
            self._codec.encode(
                {name: masks.get(bytes(each)[0]) or new(each, node) for name, each in old.items()}
            )
        )

    def _string(self, text: str, like: Raw) -> Raw:
        new: Raw = self._values.string(text, like)
        return new


def _encoded_key(codec: Codec, name: str) -> bytes:
    """A key as agents and kube-apiserver write it, with what stands between it and its value."""
    # A map with one member, without its first byte and its value.
    return codec.encode({name: None}).removesuffix(b"null}").removesuffix(b"\xc0")[1:]


def _find(data: bytes, wanted: bytes, at: int) -> int:
    """Where bytes are, if possible behind an offset."""
    found = data.find(wanted, at)
    if found < 0:
        found = data.find(wanted)
    if found < 0:
        raise _DoesNotFitError
    return found


def _with(data: bytes, spans: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes with others in place of spans of them."""
    if not spans:
        return data
    spans.sort()
    pieces: list[bytes] = []
    at = 0
    for start, end, piece in spans:
        if start < at:
            raise _DoesNotFitError
        pieces += (data[at:start], piece)
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)


class _Shape:
    """What of a value is decoded to find the places that a node leads to.

    Raises:
        ValueError: the places can't be found in this way.
    """

    def __init__(self, node: Node, codec: Codec) -> None:
        if node.has_patterns or (node.element is not None and node.names):
            raise ValueError
        self._node = node
        self._is_place: bool = node.is_end or node.holds_same_kind
        self._element = None if node.element is None else _Shape(node.element, codec)
        children = ((name, node.child(name)) for name in node.names)
        members = [(name, _Shape(child, codec)) for name, child in children if child is not None]
        # Those that are places, and those that lead to some.
        self._places = [
            (f"place_{index}", name, _encoded_key(codec, name), shape)
            for index, (name, shape) in enumerate(members)
            if shape._is_place
        ]
        self._ways = [
            (f"way_{index}", name, shape)
            for index, (name, shape) in enumerate(members)
            if not shape._is_place
        ]
        if self._element is not None and self._element._is_place:
            raise ValueError

    @property
    def _type(self) -> Any:
        if self._is_place:
            return Raw
        element = self._element
        return self.struct() | None if element is None else list[element._type] | None  # type: ignore[name-defined]

    def struct(self, more: Sequence[Any] = ()) -> Any:
        """A Struct of the members that lead to places, and of more."""
        members = [*((attribute, name, shape) for attribute, name, _, shape in self._places), *self._ways]
        fields: list[Any] = [(attribute, shape._type | UnsetType, UNSET) for attribute, _, shape in members]
        names = {attribute: name for attribute, name, _ in members}
        return msgspec.defstruct("Members", [*fields, *more], rename=names, gc=False)

    def find(self, value: Any, found: list[_Place]) -> None:
        """Add the places in a decoded value to those that were found."""
        if self._element is not None:
            for each in value:
                if each is not None:
                    self._element.find(each, found)
            return
        for attribute, _, key, shape in self._places:
            if getattr(value, attribute) is not UNSET:
                found.append((value, attribute, key, shape._node))
        for attribute, _, shape in self._ways:
            member = getattr(value, attribute)
            if member is not UNSET and member is not None:
                shape.find(member, found)


class BodyShape(_Shape):
    """The shape of bodies of a kind.

    Args:
        node: the node of the places in them.
        codec: their encoding.

    Raises:
        ValueError: the places can't be found in this way.

    Attributes:
        type: what bodies are decoded as.
    """

    def __init__(self, node: Node, codec: Codec) -> None:
        super().__init__(node, codec)
        more = [("kind", str | UnsetType, UNSET), *((name, Raw | UnsetType, UNSET) for name in _OTHER_FORMS)]
        self.type = self.struct(more)
