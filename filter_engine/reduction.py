"""A recorded event, reduced to what kube-apiserver would have written at a lower level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filter_engine.evaluator import Decision
from filter_engine.fields import text
from filter_engine.model import Level

_LEVELS = {level.value: level for level in Level}
# Annotations with the JSON patch that an admission webhook made of the body, recorded from level Request up
# (pkg/admission/plugin/webhook/mutating/dispatcher.go).
PATCH_ANNOTATIONS = "patch.webhook.admission.k8s.io/"


def reduce_event(event: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """The event as the API server would have recorded it under a decision.

    Below RequestResponse the event has no ``responseObject``; below Request it has no ``requestObject``
    and no annotations with patches of the body. If the decision omits managed fields, objects, list
    items and table rows lose their ``metadata.managedFields``. The body of a patch is not an object but
    the patch itself, so it keeps them (pkg/audit/request.go of k8s.io/apiserver). An event is never made
    more verbose: an event that was recorded at the decision's level or below loses nothing but managed
    fields. If the recorded level is not a level at all (log collectors overwrite the field), it stays
    as it is, and the bodies are removed.

    Args:
        event: a recorded event; it is not changed.
        decision: a decision that keeps the event.

    Returns:
        A new mapping. Parts that need no change are shared with the event.

    Raises:
        ValueError: the decision drops the event.
    """
    if not decision.keep:
        raise ValueError("the decision drops the event: there is nothing to reduce")
    reduced = lower_event(event, decision.level)
    return remove_managed_fields(reduced) if decision.omit_managed_fields else reduced


def lower_event(event: Mapping[str, Any], level: Level) -> dict[str, Any]:
    """The first part of :func:`reduce_event`: the event at a level, or as it was recorded if that is less."""
    reduced = dict(event)
    recorded = _LEVELS.get(text(event.get("level")))
    if recorded is None or level < recorded:
        if recorded is not None:
            reduced["level"] = level.value
        if level < Level.REQUEST_RESPONSE:
            reduced.pop("responseObject", None)
        if level < Level.REQUEST:
            reduced.pop("requestObject", None)
            _drop_patches(reduced)
    return reduced


def remove_managed_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """The second part of :func:`reduce_event`: the event without the managed fields of its bodies."""
    stripped = dict(event)
    if "responseObject" in stripped:
        stripped["responseObject"] = _without_managed_fields(stripped["responseObject"])
    if "requestObject" in stripped and text(event.get("verb")) != "patch":
        stripped["requestObject"] = _without_managed_fields(stripped["requestObject"])
    return stripped


def _drop_patches(event: dict[str, Any]) -> None:
    annotations = event.get("annotations")
    if not isinstance(annotations, Mapping):
        return
    left = {key: value for key, value in annotations.items() if not text(key).startswith(PATCH_ANNOTATIONS)}
    if len(left) < len(annotations):
        event["annotations"] = left
        if not left:
            del event["annotations"]  # kube-apiserver leaves an empty map out


def _without_managed_fields(body: Any) -> Any:
    """A recorded body without managed fields: those of the object, of list items and of table rows."""
    if not isinstance(body, Mapping):
        return body
    body = _strip(body)
    if isinstance(body.get("items"), (list, tuple)):
        body = {**body, "items": [_strip(item) for item in body["items"]]}
    if text(body.get("kind")) == "Table" and isinstance(body.get("rows"), (list, tuple)):
        body = {**body, "rows": [_strip_row(row) for row in body["rows"]]}
    return body


def _strip(item: Any) -> Any:
    metadata = item.get("metadata") if isinstance(item, Mapping) else None
    if not isinstance(metadata, Mapping) or "managedFields" not in metadata:
        return item
    return {**item, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def _strip_row(row: Any) -> Any:
    return {**row, "object": _strip(row["object"])} if isinstance(row, Mapping) and "object" in row else row
