"""Lowering decoded events."""

import pytest

from filter_engine import Decision, Level, reduce_event
from tests.support import event

OBJECT = {"metadata": {"name": "a", "managedFields": [1]}, "spec": {"metadata": {"managedFields": 2}}}
STRIPPED = {"metadata": {"name": "a"}, "spec": {"metadata": {"managedFields": 2}}}
# Bodies that look like something with managed fields, and have none where they belong.
NO_OBJECTS = [
    None,
    7,
    "text",
    [OBJECT],
    {},
    {"metadata": None, "items": None},
    {"metadata": [{"managedFields": 1}], "items": {"object": OBJECT}},
    {"kind": "Table"},
    {"kind": "Table", "rows": None},
    {"kind": "Table", "rows": 5},
    {"kind": "Table", "rows": "text"},
    {"kind": "Table", "rows": {"object": OBJECT}},
    {"kind": "Table", "rows": [[OBJECT], OBJECT]},
    {"kind": ["Table"], "rows": [{"object": OBJECT}]},
]
FULL = event(level="RequestResponse", requestObject=OBJECT, responseObject=OBJECT)


def reduced(sent, level, *, omit_managed_fields=False):
    return reduce_event(sent, Decision(level, 0, False, omit_managed_fields))


def test_bodies_go_with_their_level():
    assert reduced(FULL, Level.REQUEST_RESPONSE) == FULL
    assert reduced(FULL, Level.REQUEST) == event(level="Request", requestObject=OBJECT)
    assert reduced(FULL, Level.METADATA) == event(level="Metadata")
    assert FULL["requestObject"] is OBJECT


@pytest.mark.parametrize("recorded", ["Metadata", "info", None, 7])
def test_a_level_is_never_raised_nor_put_where_none_was(recorded):
    assert reduced(event(level=recorded), Level.REQUEST)["level"] == recorded
    without = {key: value for key, value in event().items() if key != "level"}
    assert reduced(without, Level.METADATA) == without


def test_an_event_at_the_level_or_below_it_has_nothing_to_lose():
    bodies = {"requestObject": OBJECT, "responseObject": OBJECT}
    for recorded, level in (
        ("Metadata", Level.METADATA),
        ("Metadata", Level.REQUEST),
        ("Request", Level.REQUEST),
    ):
        sent = event(level=recorded, **bodies)
        assert reduced(sent, level) == sent


def test_bodies_go_where_the_recorded_level_is_not_known():
    sent = event(level="info", requestObject=OBJECT, responseObject=OBJECT)
    assert reduced(sent, Level.REQUEST_RESPONSE) == sent
    assert reduced(sent, Level.REQUEST) == event(level="info", requestObject=OBJECT)
    assert reduced(sent, Level.METADATA) == event(level="info")


def test_parts_that_need_no_change_are_shared():
    body = {"metadata": {"name": "a"}, "spec": {}}
    sent = event(level="RequestResponse", requestObject=body)
    result = reduced(sent, Level.REQUEST_RESPONSE, omit_managed_fields=True)
    assert result["requestObject"] is body
    assert result is not sent


def test_bodies_that_are_not_there_have_no_managed_fields():
    for bodies in ({}, {"requestObject": {"a": 1}}, {"responseObject": {"a": 1}}):
        sent = event(level="RequestResponse", **bodies)
        assert reduced(sent, Level.REQUEST_RESPONSE, omit_managed_fields=True) == sent


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (OBJECT, STRIPPED),
        ({"items": [OBJECT, None, "x"]}, {"items": [STRIPPED, None, "x"]}),
        (
            {"kind": "Table", "rows": [{"object": OBJECT}, {}]},
            {"kind": "Table", "rows": [{"object": STRIPPED}, {}]},
        ),
        ({"kind": "Other", "rows": [{"object": OBJECT}]}, {"kind": "Other", "rows": [{"object": OBJECT}]}),
        (
            {"items": (OBJECT,), "kind": b"Table", "rows": ({"object": OBJECT},)},
            {"items": [STRIPPED], "kind": b"Table", "rows": [{"object": STRIPPED}]},
        ),
        (
            {"kind": "Table", "rows": [{"cells": [], "object": OBJECT}, {"object": None}, 5, None]},
            {"kind": "Table", "rows": [{"cells": [], "object": STRIPPED}, {"object": None}, 5, None]},
        ),
        *((same, same) for same in NO_OBJECTS),
    ],
)
def test_managed_fields_of_objects_items_and_rows_are_omitted(body, expected):
    sent = event(level="RequestResponse", verb="update", requestObject=body, responseObject=body)
    result = reduced(sent, Level.REQUEST_RESPONSE, omit_managed_fields=True)
    assert (result["requestObject"], result["responseObject"]) == (expected, expected)


def test_a_patch_is_not_an_object():
    sent = event(level="RequestResponse", verb="patch", requestObject=OBJECT, responseObject=OBJECT)
    result = reduced(sent, Level.REQUEST_RESPONSE, omit_managed_fields=True)
    assert (result["requestObject"], result["responseObject"]) == (OBJECT, STRIPPED)


PATCHES = {
    "patch.webhook.admission.k8s.io/round_0_index_0": "{}",
    b"patch.webhook.admission.k8s.io/round_0_index_1": "{}",
}
OTHERS = {"authorization.k8s.io/decision": "allow", 5: "x", "mutation.webhook.admission.k8s.io/round_0": "{}"}


@pytest.mark.parametrize(
    ("annotations", "left"),
    [
        ({**PATCHES, **OTHERS}, {"annotations": OTHERS}),
        (PATCHES, {}),
        (OTHERS, {"annotations": OTHERS}),
        ({}, {"annotations": {}}),
        (None, {"annotations": None}),
        ("text", {"annotations": "text"}),
    ],
)
def test_annotations_with_patches_of_the_body_go_with_it(annotations, left):
    sent = event(level="Request", annotations=annotations)
    assert reduced(sent, Level.METADATA) == event(level="Metadata", **left)
    assert reduced(sent, Level.REQUEST) == sent
    assert sent["annotations"] is annotations


def test_a_dropped_event_cannot_be_reduced():
    for decision in (Decision(Level.NONE, None, False, False), Decision(Level.REQUEST, 0, True, False)):
        with pytest.raises(ValueError, match="drops the event"):
            reduce_event(FULL, decision)
