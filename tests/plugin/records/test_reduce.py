"""``--reduce``: what leaves is what kube-apiserver would have written at the level of the rule."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Level, PolicyEvaluator, reduce_event
from tests.support import event, event_time, filter_bytes, line, policy, verdicts

OBJECT = {
    "kind": "ConfigMap",
    "metadata": {"name": "a", "managedFields": [{"manager": "kubectl"}], "labels": {"managedFields": "no"}},
    "data": {"metadata": "x"},
}
BODIES = st.sampled_from(
    [
        None,
        7,
        {},
        OBJECT,
        {
            "kind": "ConfigMapList",
            "metadata": {"managedFields": []},
            "items": [OBJECT, None, {"metadata": 3}],
        },
        {"kind": "Table", "rows": [{"cells": ["a"], "object": OBJECT}, {"cells": []}, 5]},
        {"kind": "NotATable", "rows": [{"object": OBJECT}]},
        [{"op": "remove", "path": "/metadata/managedFields"}],
    ]
)
LEVELS = st.sampled_from(["Metadata", "Request", "RequestResponse", "info", None])
EVENTS = st.builds(
    lambda level, verb, extra: {**event(verb=verb), **extra, "level": level},
    LEVELS,
    st.sampled_from(["get", "patch", "update"]),
    st.fixed_dictionaries({}, optional={"requestObject": BODIES, "responseObject": BODIES}),
)


def policy_text(level, omit):
    return f"""
apiVersion: audit.k8s.io/v1
omitManagedFields: {str(omit).lower()}
rules: [{{level: {level}}}]
"""


@pytest.mark.parametrize("format", ["msgpack", "json"])
@given(sent=EVENTS, level=st.sampled_from(["Metadata", "Request", "RequestResponse"]), omit=st.booleans())
def test_encoded_events_are_reduced_as_decoded_ones(format, sent, level, omit):
    text = policy_text(level, omit)
    reduced = reduce_event(sent, PolicyEvaluator(policy(text)).evaluate(sent))
    write, read = (msgpack.packb, msgpack.unpackb) if format == "msgpack" else (line, json.loads)
    result, out = filter_bytes(write(sent), format=format, policy_text=text, reduce=True)
    assert read(out) == reduced
    assert list(read(out)) == list(reduced)
    if reduced == sent:
        assert out == write(sent)
    assert result.counters.rewritten == (reduced != sent)
    levels = [str(level) for level in Level]
    if sent["level"] in levels:
        assert levels.index(reduced["level"]) <= levels.index(sent["level"])


def test_recorded_logs_become_what_the_api_server_would_have_written():
    for case in verdicts("level_reduction.jsonl.gz"):
        text = json.dumps(case["policy"])
        recorded = b"".join(msgpack.packb([event_time(i), e]) for i, e in enumerate(case["recorded"]))
        _, out = filter_bytes(recorded, policy_text=text, reduce=True)
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(out)
        assert [record for _, record in unpacker] == case["expected"]


def test_without_the_option_bodies_stay():
    sent = msgpack.packb(event(level="RequestResponse", requestObject=OBJECT, responseObject=OBJECT))
    assert filter_bytes(sent, policy_text=policy_text("Metadata", True))[1] == sent


@pytest.mark.parametrize(
    "wrap",
    [
        lambda e: {"log": e},
        lambda e: {"log": json.dumps(e) + "\n"},
        lambda e: {"items": [e, e]},
    ],
)
def test_events_are_reduced_where_they_are(wrap):
    full = event(level="Request", requestObject=OBJECT)
    low = event(level="Metadata")
    _, out = filter_bytes(msgpack.packb(wrap(full)), policy_text=policy_text("Metadata", False), reduce=True)
    expected, got = wrap(low), msgpack.unpackb(out)
    if isinstance(expected.get("log"), str):
        assert got["log"].endswith("}\n")
        expected, got = (json.loads(record["log"]) for record in (expected, got))
    assert got == expected


def test_values_that_are_left_keep_their_bytes():
    """A float32, an integer in nine bytes, an ext type and invalid UTF-8 in a record that is reduced."""
    odd = b"\xa1a\xca\x3f\x80\x00\x00\xa1b\xcf" + bytes(7) + b"\x01\xa1c\xd6\x05abcd\xa1d\xa1\xff\x01\xc0"
    body = b"".join(map(msgpack.packb, ("auditID", "x", "verb", "get", "user", {}, "level")))

    def record(level, *more):
        size = 9 + len(more) // 2
        return bytes([0x80 | size]) + body + msgpack.packb(level) + b"".join(map(msgpack.packb, more)) + odd

    sent = record("Request", "requestObject", {"a": 1})
    assert filter_bytes(sent, policy_text=policy_text("Metadata", False), reduce=True)[1] == record(
        "Metadata"
    )


def test_bin_keys_and_values_stay_bin():
    sent = {key.encode(): value for key, value in event(level=b"Request", requestObject={b"a": 1}).items()}
    _, out = filter_bytes(msgpack.packb(sent), policy_text=policy_text("Metadata", True), reduce=True)
    del sent[b"requestObject"]
    assert msgpack.unpackb(out) == {**sent, b"level": b"Metadata"}
