"""Which events have something to redact, and in which fields.

Most events have nothing to redact, and a few of their fields show that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import UNSET, Raw

from filter_engine import Decision, fields
from filter_engine.fields import Field
from filter_engine.redaction.kinds import QUOTING_CODES
from filter_engine.redaction.redactor import BODIES, Redactor
from filter_engine.redaction.redactors import Redactors
from filter_engine.redaction.uris import has_secrets
from filter_engine.redaction.walk import Node
from filter_engine.reduction import PATCH_ANNOTATIONS
from filter_engine.vocabulary import Vocabulary

from ..encoding.codec import JSON, MSGPACK, Codec
from .encoded_values import EncodedValues
from .event_fields import value_of
from .limits import Limits
from .outcome import Outcome
from .spliced_redaction import BodyShape, Splicer

_PATCHES = PATCH_ANNOTATIONS.encode()
# The first response code of a request that failed.
_FIRST_ERROR = 400


class EventRedaction:
    """What a policy redacts in decoded events.

    Args:
        redactors: those of the policy.
        limits: bounds on lists.

    Attributes:
        values: how to look into values, by encoding.
        reads: the fields that have to be decoded.
        raw: the members of events that have to be at hand in their encoded form.
    """

    def __init__(self, redactors: Redactors, limits: Limits) -> None:
        self._redactors = redactors
        self.values: dict[Codec, EncodedValues] = {
            codec: EncodedValues(codec, limits.list_items) for codec in (MSGPACK, JSON)
        }
        self._all = redactors.all
        self.reads: frozenset[Field] = frozenset()
        self.raw: tuple[str, ...] = ()
        if self._all:
            self.reads = frozenset((fields.RESOURCE, fields.SUBRESOURCE, fields.CODE))
            self.raw = (*BODIES, "annotations")
        # Making these takes longer than redacting a hundred events.
        self._shapes: dict[tuple[Codec, Node | None], BodyShape] = {}
        self._code = value_of(fields.CODE)

    def __bool__(self) -> bool:
        return bool(self._all)

    def with_words(self, vocabulary: Vocabulary) -> Vocabulary:
        """A policy's vocabulary, and what tells the kinds of bodies apart."""
        if not self._all:
            return vocabulary
        vocabulary = vocabulary.copy()
        for redactor in self._all:
            for field, words in redactor.words().items():
                vocabulary.add(field, words)
        return vocabulary

    def kind_of(self, event: Mapping[str, Any], decision: Decision) -> str | None:
        """The kind of what a request was for; see :meth:`Redactor.kind_of`. None if nothing is redacted."""
        redactor = self._redactors.of(decision.rule) if decision.keep else None
        return None if redactor is None else redactor.kind_of(event)

    def narrowed(self, event: Any, outcome: Outcome) -> Outcome:
        """The outcome of a decoded event: one that looks only where there may be something to redact."""
        redactor = outcome.actions.redactor
        if redactor is None or redactor.looks_at_all:
            return outcome
        names: tuple[str, ...] = ()
        code, uri = self._code(event), event.requestURI
        # Only the body of a request that failed may be of a kind that does not go with the resource.
        if outcome.kind != "" or code is None or code >= _FIRST_ERROR:
            names = self._exposed(event, code, has_places=outcome.kind != "")
        if "?" in uri and redactor.has_secrets and has_secrets(uri):
            names += ("requestURI",)
        narrowed = outcome.narrowed.get(names)
        if narrowed is None:
            narrowed = outcome.narrowed[names] = self._make(outcome, names)
        return narrowed

    def _exposed(self, event: Any, code: int | None, *, has_places: bool) -> tuple[str, ...]:
        """The bodies, and the fields that may quote them, in which there may be something to redact."""
        names: tuple[str, ...] = ()
        if event.requestObject is not UNSET:
            names = ("requestObject",)
        if event.responseObject is not UNSET:
            names += ("responseObject",)
        if has_places:
            annotations = event.annotations
            # If the policy reads annotations, they are decoded, and only in part.
            is_decoded = annotations is not UNSET and not isinstance(annotations, Raw)
            if is_decoded or (annotations is not UNSET and _PATCHES in bytes(annotations)):
                names += ("annotations",)
            if code in QUOTING_CODES:
                names += ("responseStatus",)
        return names

    def _make(self, outcome: Outcome, names: tuple[str, ...]) -> Outcome:
        actions = outcome.actions
        assert actions.redactor is not None
        redactor = actions.redactor.limited(names, outcome.kind) if names else None
        return Outcome(
            outcome.decision, replace(actions, redactor=redactor), outcome.tallies, outcome.recorded
        )

    def splicer(self, codec: Codec, outcome: Outcome) -> Splicer | None:
        """The short way of redaction for the events of an outcome; None if there is none."""
        if codec not in outcome.splicers:
            actions = outcome.actions
            redactor = None if actions.reduces or actions.annotates else actions.redactor
            outcome.splicers[codec] = self._make_splicer(codec, redactor)
        return outcome.splicers[codec]

    def _make_splicer(self, codec: Codec, redactor: Redactor | None) -> Splicer | None:
        if redactor is None:
            return None
        key = codec, redactor.node
        try:
            if key not in self._shapes and redactor.node is not None:
                self._shapes[key] = BodyShape(redactor.node, codec)
            return Splicer(codec, self.values[codec], redactor, self._shapes.get(key))
        except ValueError:
            return None
