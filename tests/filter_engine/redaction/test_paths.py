"""Paths of ``redact``: what they lead to, and how they are written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Policy, PolicyActions, PolicyError, PolicyEvaluator

EVENT = {
    "auditID": "1",
    "verb": "create",
    "stage": "ResponseComplete",
    "requestURI": "/apis/apps/v1/namespaces/shop/deployments",
    "user": {"username": "alice", "extra": {"a.b": ["1"], "c": ["2"]}},
    "objectRef": {"resource": "deployments", "apiGroup": "apps", "namespace": "shop"},
    "requestObject": {
        "a": [{"b": 1, "c": True}, {"b": None}, "text"],
        "d": {"e": "x", "f": {"g": 1.5}},
        "h*": "y",
    },
    "annotations": {"policy.example/text": '{"k": {"l": "m"}, "n": 1}', "other": "z"},
}


def redacted(event, *redact, **redaction):
    policy = Policy.from_dict(
        {
            "apiVersion": "kube-audit-filter.io/v1",
            "kind": "FilterPolicy",
            "rules": [{"level": "RequestResponse", "redact": list(redact)}],
            **({"redaction": redaction} if redaction else {}),
        }
    )
    return PolicyActions(policy).of(PolicyEvaluator(policy).evaluate(event)).apply(event)


def changed(**fields):
    return {**EVENT, **fields}


BODY = EVENT["requestObject"]
ANNOTATIONS = EVENT["annotations"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("requestURI", changed(requestURI="REDACTED")),
        (
            "requestObject.a[*].b",
            changed(requestObject={**BODY, "a": [{"b": "REDACTED", "c": True}, {"b": None}, "text"]}),
        ),
        (
            "requestObject.a.*.*",
            changed(requestObject={**BODY, "a": [{"b": "REDACTED", "c": "REDACTED"}, {"b": None}, "text"]}),
        ),
        ("requestObject.d", changed(requestObject={**BODY, "d": {"e": "REDACTED", "f": {"g": "REDACTED"}}})),
        ("requestObject.d.*.g", changed(requestObject={**BODY, "d": {"e": "x", "f": {"g": "REDACTED"}}})),
        ("requestObject.*", None),
        (r"requestObject.h\*", changed(requestObject={**BODY, "h*": "REDACTED"})),
        (
            'user.extra["a.b"]',
            changed(user={"username": "alice", "extra": {"a.b": ["REDACTED"], "c": ["2"]}}),
        ),
        (
            'user.extra["a.*"]',
            changed(user={"username": "alice", "extra": {"a.b": ["REDACTED"], "c": ["2"]}}),
        ),
        ("annotations.oth*", changed(annotations={**ANNOTATIONS, "other": "REDACTED"})),
        (
            'annotations["policy.example/text"].k.l',
            changed(annotations={**ANNOTATIONS, "policy.example/text": '{"k":{"l":"REDACTED"},"n":1}'}),
        ),
        ("annotations.other.inside", EVENT),
        ("requestObject[*].b", EVENT),
        ("responseObject.a", EVENT),
        ("requestObject.a[*].z", EVENT),
    ],
)
def test_a_path_leads_to_values(path, expected):
    result = redacted(EVENT, path)
    if expected is None:
        assert "REDACTED" in json.dumps(result["requestObject"])
        assert not {"1", "x", "1.5", "y", "text"} & set(json.dumps(result["requestObject"]).split('"'))
    else:
        assert result == expected
    if expected is EVENT:
        assert result is EVENT


def test_remove_leaves_keys_and_elements_out():
    assert redacted(EVENT, "requestObject.a[*].b", "sourceIPs", method="remove") == changed(
        requestObject={**BODY, "a": [{"c": True}, {"b": None}, "text"]}
    )
    assert redacted(EVENT, "requestObject.a[*]", method="remove")["requestObject"]["a"] == []
    assert "requestObject" not in redacted(EVENT, "requestObject", method="remove")


@pytest.mark.parametrize("name", ["user", "objectRef"])
def test_what_makes_it_an_event_stays_as_an_empty_map(name):
    assert redacted(EVENT, name, method="remove") == changed(**{name: {}})


def test_json_patches_are_redacted_where_a_path_leads():
    patch = [
        {"op": "add", "path": "/d/e", "value": "x"},
        {"op": "replace", "path": "/d", "value": {"e": "x", "f": 1}},
        {"op": "add", "path": "", "value": {"d": {"e": "x"}, "g": 2}},
        {"op": "add", "path": "/d/f", "value": 1},
        {"op": "remove", "path": "/d/e"},
        {"op": "add", "path": "/a/0/b", "value": "x"},
        {"op": "add", "path": "/a/-", "value": {"b": "x", "c": 1}},
        {"op": "add", "path": "/x~1y~0z", "value": "x"},
        {"op": "add", "value": "x"},
    ]
    event = {**EVENT, "verb": "patch", "requestObject": patch}
    paths = ["requestObject.d.e", "requestObject.a[*].b", 'requestObject["x/y~z"]']
    values = [each.get("value") for each in redacted(event, *paths)["requestObject"]]
    assert values == [
        "REDACTED", {"e": "REDACTED", "f": 1}, {"d": {"e": "REDACTED"}, "g": 2}, 1, None,
        "REDACTED", {"b": "REDACTED", "c": 1}, "REDACTED", "REDACTED",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "expected the name of a field of audit events first"),
        ("data", "expected the name of a field of audit events first: one of requestURI, user"),
        ("*.a", "expected the name of a field of audit events first"),
        ("auditID", "auditID says what the event is, and can't be redacted"),
        ("level", "level says what the event is"),
        (".user", "at character 1: expected names with dots between them"),
        ("user..name", "at character 5: expected names with dots between them"),
        ("user.", "at character 5: expected names"),
        ("user[0]", "at character 5: expected names"),
        ('user["a"', "at character 5: expected names"),
        ('user["a"]b', "at character 10: expected . or [ behind a name"),
        ("builtin:secret", "there is no such set; there is builtin:secrets, builtin:personal"),
    ],
)
def test_what_is_no_path_is_an_error(path, message):
    with pytest.raises(PolicyError) as error:
        redacted(EVENT, path)
    assert f"rules[0].redact[0]: {path!r}: {message}" in str(error.value)


keys = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=4)


@given(names=st.lists(keys, min_size=1, max_size=4))
def test_every_key_can_be_named_in_quotes(names):
    value: object = "s3cret"
    for name in reversed(names):
        value = {name: value, name + "!": "stays"}
    steps = [name.replace("\\", "\\\\").replace("*", "\\*").replace('"', '\\"') for name in names]
    path = "requestObject" + "".join(f'["{step}"]' for step in steps)
    result = json.dumps(
        redacted({**EVENT, "requestObject": value}, path)["requestObject"], ensure_ascii=False
    )
    assert "s3cret" not in result
    assert result.count('"stays"') == len(names)
