"""Redaction in records: in each encoding as the engine does it, and never with less than it should."""

import json
import re

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import Policy, PolicyActions, PolicyEvaluator
from plugin.records.limits import Limits
from plugin.service.summary import summarize
from tests.support import event, filter_bytes, line, make_stream
from tests.support.secret_places import COPY, METADATA, PLACES, recorded

HEAD = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
SECRETS = HEAD + "rules: [{level: RequestResponse, name: all, redact: [builtin:secrets]}]\n"
EVENTS = list(PLACES.values())
HASH_OF_A = "0c806ca38a87cad9"
FAILED = {"kube-audit-filter.io/redaction": "failed"}

# Bodies of the names that places have, in every order and of every type.
NAMES = [
    "kind", "metadata", "annotations", COPY, "items", "rows", "object", "type", "data", "stringData", "spec",
    "template", "containers", "initContainers", "env", "value", "name", "status", "token", "webhooks",
    "clientConfig", "caBundle", "url", "volumes", "csi", "volumeAttributes", "patch", "path", "op", "message",
]  # fmt: skip
leaves = st.one_of(
    st.sampled_from(
        ["Secret", "Pod", "SecretList", "Status", "Table", "/data/a", "/spec", 'é"\\\n', "REDACTED", ""]
    ),
    st.integers(-3, 300),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([None, True, False, 2**63, '{"data":{"a":"b"},"kind":"Secret"}', '{"data":', "[1]"]),
)
bodies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=5), st.lists(inner, max_size=3)
    ),
    max_leaves=15,
)
kinds = ["Secret", "Pod", "Deployment", "TokenReview", "MutatingWebhookConfiguration", "RoleBinding"]
objects = st.builds(
    lambda kind, body: {**body, "kind": kind},
    st.sampled_from(kinds),
    st.dictionaries(st.sampled_from(NAMES), bodies, max_size=5),
)
resources = ["secrets", "pods", "deployments", "tokenreviews", "leases", "mutatingwebhookconfigurations"]
generated = st.builds(
    lambda verb, resource, code, level, more: {
        **recorded(verb, resource, code=code, **more),
        "level": level,
    },
    st.sampled_from(["get", "create", "patch", "list"]),
    st.sampled_from(resources),
    st.sampled_from([200, 201, 400, 403, 422]),
    st.sampled_from(["Metadata", "Request", "RequestResponse"]),
    st.fixed_dictionaries(
        {},
        optional={
            "requestObject": st.one_of(objects, bodies),
            "responseObject": st.one_of(objects, bodies),
            "requestURI": st.sampled_from(
                ["/a?token=b", "/a?x=1&command=b;pass=", "/a?%74oken=1", "/a?limit=5"]
            ),
            "annotations": st.dictionaries(
                st.sampled_from(["patch.webhook.admission.k8s.io/r", "other"]),
                st.sampled_from(['{"patch":[{"op":"add","path":"/data/a","value":"b"}]}', "{", "[]", "x"]),
            ),
        },
    ),
)
lists = st.sampled_from(
    [
        ["builtin:secrets"],
        ["builtin:personal"],
        ["builtin:secrets", "builtin:personal"],
        ["requestObject.data.*", "responseObject.*.*.name"],
        ["builtin:secrets", "requestObject.spec", "annotations.other"],
    ]
)


def policy_text(redact, **redaction):
    return json.dumps(
        {
            "apiVersion": "kube-audit-filter.io/v1",
            "kind": "FilterPolicy",
            "defaultLevel": "Metadata",
            "rules": [{"level": "RequestResponse", "redact": redact}],
            **({"redaction": redaction} if redaction else {}),
        }
    )


def by_engine(text, sent):
    policy = Policy.from_yaml(text)
    return PolicyActions(policy).of(PolicyEvaluator(policy).evaluate(sent)).apply(sent)


@settings(max_examples=200, deadline=None)
@given(
    sent=st.lists(st.one_of(generated, st.sampled_from(EVENTS)), min_size=1, max_size=5),
    redact=lists,
    method=st.sampled_from(["mask", "remove"]),
)
def test_every_encoding_gives_what_the_engine_gives(sent, redact, method):
    text = policy_text(redact, method=method)
    expected = [by_engine(text, each) for each in sent]
    for format, encode in (("msgpack", msgpack.packb), ("json", line)):
        stream, out = filter_bytes(b"".join(map(encode, sent)), format=format, policy_text=text)
        assert out == b"".join(map(encode, expected))
        assert stream.counters.not_redacted == stream.counters.undecided_records == 0
        changes = sum(new != old for new, old in zip(expected, sent, strict=True))
        assert sum(tally.redacted for tally in stream.counters.tallies()) == changes


@settings(max_examples=100, deadline=None)
@given(sent=st.one_of(generated, st.sampled_from(EVENTS)), redact=lists)
def test_events_in_other_records_are_redacted_too(sent, redact):
    text = policy_text(redact)
    expected = by_engine(text, sent)
    _, out = filter_bytes(msgpack.packb({"log": json.dumps(sent)}), policy_text=text)
    assert json.loads(msgpack.unpackb(out)["log"]) == expected
    _, out = filter_bytes(line({"kind": "EventList", "items": [sent]}), format="json", policy_text=text)
    assert json.loads(out)["items"] == [expected]


def test_all_else_keeps_its_bytes():
    sent = (
        b'{ "auditID":"a", "verb":"get","user":{},"objectRef":{"resource":"secrets"}, "x" : 1.50,'
        b'"responseObject":{"kind":"Secret","y":1e3,"z":"\\u0041", "data":{"a":"c2VjcmV0" , "b":"REDACTED"}}}'
        b"\n"
    )
    _, out = filter_bytes(sent, format="json", policy_text=SECRETS)
    assert b"c2VjcmV0" not in out
    for piece in (b'"x":1.50', b'"y":1e3', b'"z":"\\u0041"', b'"b":"REDACTED"'):
        assert piece in out


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_the_same_key_and_value_elsewhere_is_left_alone(format):
    """The short way looks for a key and its value; here they also stand where they are no secret."""
    pair = {"value": "twice"}
    container = {"env": [pair, {"value": "once"}], "ports": [pair]}
    pod = {"kind": "Pod", "metadata": {"labels": pair}, "spec": {"containers": [container], "other": pair}}
    sent = recorded("create", "pods", requestObject=pod, responseObject=pod)
    container = {"env": [{"value": "REDACTED"}, {"value": "REDACTED"}], "ports": [pair]}
    pod = {"kind": "Pod", "metadata": {"labels": pair}, "spec": {"containers": [container], "other": pair}}
    encode = line if format == "json" else msgpack.packb
    _, out = filter_bytes(encode(sent), format=format, policy_text=SECRETS)
    assert out == encode({**sent, "requestObject": pod, "responseObject": pod})


def test_equal_values_have_equal_hashes_under_one_key(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    text = policy_text(["user.username", "requestObject.n"], method="hash", keyFile=str(key))
    sent = [
        event(user={"username": name}, requestObject={"n": n}) for name, n in (("a", 1), ("b", 1), ("a", 1.5))
    ]
    outputs = []
    for format, encode in (("msgpack", msgpack.packb), ("json", line)):
        _, out = filter_bytes(b"".join(map(encode, sent)), format=format, policy_text=text)
        outputs.append(list(map(json.loads, out.splitlines())) if format == "json" else list(_unpacked(out)))
    assert outputs[0] == outputs[1]
    users = [each["user"]["username"] for each in outputs[0]]
    # HMAC-SHA-256 of "a" under the key, as openssl dgst -sha256 -hmac 0123456789abcdef writes it.
    assert users[0] == users[2] == "hmac-sha256:" + HASH_OF_A
    assert users[1] != users[0]
    numbers = [each["requestObject"]["n"] for each in outputs[0]]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(re.fullmatch("hmac-sha256:[0-9a-f]{16}", each) for each in users + numbers)


def _unpacked(data):
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return unpacker


def test_a_key_is_read_when_it_is_needed(tmp_path):
    key = tmp_path / "key"
    text = policy_text(["user"], method="hash", keyFile=str(key))
    for content, message in (
        (None, f"{key}: No such file or directory"),
        (b"short\r\n", "expected a key of 16 to 4,096 bytes, found 5"),
        (b"x" * 5000, "expected a key of 16 to 4,096 bytes, found more"),
    ):
        if content is not None:
            key.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(message)):
            make_stream(policy_text=text)


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_body_with_a_list_that_is_too_long_is_left_out_and_said(format):
    items = [{"metadata": METADATA, "data": {"a": f"s3cret-{number}"}} for number in range(11)]
    sent = recorded("list", "secrets", responseObject={"kind": "SecretList", "items": items})
    encode, decode = (line, json.loads) if format == "json" else (msgpack.packb, msgpack.unpackb)
    limits = Limits(list_items=10)
    stream, out = filter_bytes(encode(sent), format=format, policy_text=SECRETS, limits=limits)
    expected = {name: value for name, value in sent.items() if name != "responseObject"}
    assert decode(out) == expected | {"annotations": sent["annotations"] | FAILED}
    assert "not_redacted=1" in summarize(stream.counters)
    assert stream.counters.kept == 1


def test_an_event_that_cannot_be_taken_apart_keeps_what_needs_no_redaction():
    sent = recorded("get", "secrets", responseObject={"kind": "Secret", "data": {"a": "s3cret-a"}})
    many = {**sent, **{f"field-{number}": number for number in range(100_001)}}
    stream, out = filter_bytes(line(many), format="json", policy_text=SECRETS, max_record_size=1 << 24)
    left = json.loads(out)
    redacted = ("requestURI", "responseStatus", "responseObject", "annotations")
    assert left == {name: sent[name] for name in sent if name not in redacted} | {"annotations": FAILED}
    assert stream.counters.not_redacted == 1
    assert b"s3cret" not in out


@pytest.mark.parametrize("value", [b'"\xff"', b'{"\xff":"s3cret"}'])
def test_a_value_that_cannot_be_read_is_not_let_through(value):
    sent = recorded("get", "secrets", responseObject={"kind": "Secret", "data": {"a": "HERE"}})
    stream, out = filter_bytes(line(sent).replace(b'"HERE"', value), format="json", policy_text=SECRETS)
    assert stream.counters.kept == 1
    assert value not in out
    left = json.loads(out)
    assert left.get("responseObject", {}).get("data", {}) in ({}, {"a": "REDACTED"})


def test_redaction_comes_after_the_reduction_and_before_managed_fields_go():
    text = (
        HEAD + "reduce: true\nomitManagedFields: true\nrules: [{level: Request, redact: [builtin:secrets]}]\n"
    )
    body = {"kind": "Secret", "metadata": {"name": "a", "managedFields": [{}]}, "data": {"a": "s3cret-a"}}
    sent = recorded("update", "secrets", requestObject=body, responseObject=body)
    stream, out = filter_bytes(line(sent), format="json", policy_text=text)
    redacted = {"kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "REDACTED"}}
    expected = {name: value for name, value in sent.items() if name != "responseObject"}
    assert json.loads(out) == expected | {"level": "Request", "requestObject": redacted}
    (tally,) = [tally for tally in stream.counters.tallies() if tally.events]
    assert (tally.reduced, tally.redacted) == (1, 1)


def test_rules_redact_differently():
    text = HEAD + (
        "defaultLevel: RequestResponse\nrules:\n"
        "- {level: RequestResponse, users: [a], redact: [builtin:secrets]}\n"
        "- {level: RequestResponse, users: [b], redact: [userAgent]}\n"
    )
    sent = [EVENTS[0] | {"user": {"username": name}} for name in ("a", "b", "c", "a")]
    _, out = filter_bytes(b"".join(map(line, sent)), format="json", policy_text=text)
    found = [json.loads(each) for each in out.splitlines()]
    assert ["s3cret" in json.dumps(each) for each in found] == [False, True, True, False]
    assert [each["userAgent"] == "REDACTED" for each in found] == [False, True, False, False]
