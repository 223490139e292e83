"""FilterPolicies on records: the same as the engine says, in both formats, whatever came before."""

import json

import msgpack
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import Policy, PolicyActions, PolicyEvaluator
from tests.support import event, filter_bytes, line, make_stream
from tests.support.filter_policies import events, filter_policies

HEAD = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"


def expected(policy, sent, *, reduce):
    """What the engine says becomes of each event that goes on."""
    evaluator = PolicyEvaluator(policy)
    for each in sent:
        went_on = PolicyActions(policy, reduce=reduce).of(evaluator.evaluate(each)).apply(each)
        if went_on is not None:
            yield went_on


@settings(max_examples=120)
@given(
    document=filter_policies,
    sent=st.lists(events, min_size=1, max_size=12),
    reduce=st.booleans(),
    cut=st.integers(0, 2000),
)
def test_exec_does_with_records_what_the_engine_does_with_events(document, sent, reduce, cut):
    policy, text = Policy.from_dict(document), yaml.safe_dump(document)
    went_on = list(expected(policy, sent, reduce=reduce))
    for format, encode in (("msgpack", msgpack.packb), ("json", line)):
        pieces = [encode(each) for each in sent]
        data = b"".join(pieces)
        stream = make_stream(format, policy_text=text, reduce=reduce)
        _, out = filter_bytes(data, cuts=[min(cut, len(data))], stream=stream)
        decode = msgpack.Unpacker() if format == "msgpack" else None
        if decode is not None:
            decode.feed(out)
            found = list(decode)
        else:
            found = [json.loads(each) for each in out.splitlines()]
        assert found == went_on
        if all(each in sent for each in went_on):
            assert out == b"".join(encode(each) for each in went_on)
        assert stream.counters.kept == len(went_on)
        assert stream.counters.dropped == len(sent) - len(went_on)


@settings(max_examples=80)
@given(document=filter_policies, sent=st.lists(events, min_size=1, max_size=6))
def test_an_odd_event_is_decided_on_as_a_usual_one(document, sent):
    """Fields of binary strings, in nested records, and a user that can't be decoded as usual."""
    policy, text = Policy.from_dict(document), yaml.safe_dump(document)
    evaluator = PolicyEvaluator(policy)
    for each in sent:
        decision = evaluator.evaluate(each)
        kept = PolicyActions(policy).of(decision).keeps(each["auditID"]) and decision.keep
        odd = each | {"user": {**each["user"], "extra": [1], "uid": None}}
        as_bytes = msgpack.packb({k: v.encode() if isinstance(v, str) else v for k, v in odd.items()})
        for data in (msgpack.packb(odd), as_bytes, msgpack.packb({"log": json.dumps(odd)})):
            _, out = filter_bytes(data, policy_text=text)
            assert (out != b"") is kept


def test_what_is_not_in_the_sample_is_dropped_and_counted_by_its_reason():
    text = HEAD + "rules:\n- {name: sampled, level: Metadata, sample: {rate: 0.5}}\n"
    sent = [event(auditID=f"id-{number}") for number in range(100)]
    stream, out = filter_bytes(b"".join(map(line, sent)), format="json", policy_text=text)
    kept = [json.loads(each) for each in out.splitlines()]
    assert 25 < len(kept) < 75
    assert all(each["annotations"] == {"kube-audit-filter.io/sample-rate": "0.5"} for each in kept)
    by_reason = {(tally.rule, tally.drop_reason): tally.events for tally in stream.counters.tallies()}
    assert by_reason["sampled", "not_in_sample"] == 100 - len(kept)
    assert by_reason["sampled", None] == len(kept)
    assert sum(tally.reduced for tally in stream.counters.tallies()) == 0


@pytest.mark.parametrize("text", [b"[]", b'"x"', b"1", b"null"])
def test_annotations_of_another_type_are_left_alone(text):
    policy = HEAD + "rules:\n- {level: Metadata, sample: {rate: 1}}\n"
    sent = line(event(annotations="HERE")).replace(b'"HERE"', text)
    assert filter_bytes(sent, format="json", policy_text=policy)[1] == sent


def test_an_annotation_is_added_and_everything_else_keeps_its_bytes():
    policy = HEAD + "rules:\n- {level: Request, sample: {rate: 1}}\n"
    sent = b'{"auditID":"a","verb":"get","user":{},"x":1.50,"annotations":{"k":1e3},"y":"\\u0041"}\n'
    out = filter_bytes(sent, format="json", policy_text=policy)[1]
    rate = b'"kube-audit-filter.io/sample-rate":"1"'
    assert out == sent.replace(b'{"k":1e3}', b'{"k":1e3,' + rate + b"}")
    sent = sent.replace(b'"annotations":{"k":1e3},', b"")
    out = filter_bytes(sent, format="json", policy_text=policy)[1]
    assert out == sent.replace(b"}\n", b',"annotations":{' + rate + b"}}\n")


def test_events_that_no_rule_matches_get_the_default_level():
    text = HEAD + "defaultLevel: Metadata\nrules: [{level: None, verbs: [list]}]\n"
    sent = line(event(requestObject={}, level="Request"))
    assert filter_bytes(sent, format="json", policy_text=text)[1] == sent
    out = filter_bytes(sent, format="json", policy_text=text, reduce=True)[1]
    assert "requestObject" not in json.loads(out)
