"""The quick way through the filter is taken: a fault in it loses no record, only speed, so that nothing else
would show it."""

import itertools
import json
from functools import partial

import msgpack
import pytest

from filter_engine import PolicyEvaluator
from plugin.records.envelope import Envelope
from plugin.records.event_filter import EventFilter
from plugin.records.limits import Limits
from plugin.records.outcome import DROP, KEEP, UNDECIDED
from plugin.records.record_filter import RecordFilter
from tests.support import DROPPED, KEPT, event, event_time, filter_bytes, line, make_stream, policy

compact = partial(json.dumps, separators=(",", ":"))


def entry(head):
    return lambda body: msgpack.packb([head, body])


def bare(sent):
    return sent


def under(key, **more):
    return lambda sent: {**more, key: compact(sent)}


# The format, how a body is written, and how an event stands in a body.
SHAPES = {
    "msgpack: bare": ("msgpack", msgpack.packb, bare),
    "msgpack: under log": ("msgpack", msgpack.packb, under("log", x=1)),
    "msgpack: under message": ("msgpack", msgpack.packb, under("message")),
    "[time, bare]": ("msgpack", entry(event_time(1)), bare),
    "[integer, bare]": ("msgpack", entry(1_700_000_000), bare),
    "[time, under log]": ("msgpack", entry(1.5), under("log", stream="stdout")),
    "[[time, metadata], bare]": ("msgpack", entry([event_time(1), {"a": 1}]), bare),
    "[[time, metadata], under message]": ("msgpack", entry([event_time(1), {}]), under("message")),
    "json: bare": ("json", line, bare),
    "json: under log": ("json", line, under("log", stream="stdout")),
    "json: under message": ("json", line, under("message")),
}
in_each_shape = pytest.mark.parametrize(("format", "encode", "put"), SHAPES.values(), ids=SHAPES)
OTHER = {key: value for key, value in event(requestURI="/metrics").items() if key != "objectRef"}
# As kube-apiserver writes them, one of each kind.
USUAL = [
    KEPT,
    DROPPED,
    event(verb="create", requestURI="/api/v1/namespaces/default/pods", level="Request"),
    event(verb="update", objectRef={"resource": "pods", "namespace": "noisy", "name": "kept"}),
    event(verb="list", objectRef={"resource": "pods", "namespace": "noisy"}),
    {**OTHER, "requestURI": "/healthz?verbose"},
    OTHER,
    event(user={}, stage="RequestReceived"),
    event(user={"username": "", "groups": ["developers"]}),
    event(responseStatus={"code": 404}, annotations={"a": "b"}, responseObject={"kind": "Status"}),
]
EVALUATOR = PolicyEvaluator(policy())


def written(encode, put, events):
    return b"".join(encode(put(sent)) for sent in events)


def kept_of(events):
    return [sent for sent in events if EVALUATOR.evaluate(sent).keep]


@pytest.fixture
def no_other_way(monkeypatch):
    """Every other way to a decision raises."""

    def refuse(*_):
        raise AssertionError("the long way")

    monkeypatch.setattr(Envelope, "open", refuse)
    monkeypatch.setattr(EventFilter, "filter_members", refuse)


@in_each_shape
@pytest.mark.usefixtures("no_other_way")
def test_usual_records_take_the_short_way(format, encode, put):
    stream = make_stream(format)
    for events in (USUAL, USUAL[:1], USUAL[1:2], USUAL * 3):
        out = filter_bytes(written(encode, put, events), stream=stream)[1]
        assert out == written(encode, put, kept_of(events))
    assert stream.counters.undecided_records == 0


@pytest.mark.usefixtures("no_other_way")
@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_records_take_the_short_way_when_their_shape_changes(format):
    stream = make_stream(format)
    shapes = [shape[1:] for shape in SHAPES.values() if shape[0] == format]
    for shape in [*shapes, *shapes[::-1]]:
        assert filter_bytes(written(*shape, USUAL), stream=stream)[1] == written(*shape, kept_of(USUAL))
    assert stream.counters.undecided_records == 0


@pytest.mark.usefixtures("no_other_way")
@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_many_small_records_that_come_together_take_the_short_way(format, encode):
    events = USUAL * 500
    sent = written(encode, bare, events)
    assert len(sent) > 1 << 20  # a record of this size would go another way
    assert filter_bytes(sent, format=format)[1] == written(encode, bare, kept_of(events))


@pytest.mark.usefixtures("no_other_way")
@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_bare_events_take_the_short_way_under_a_lower_limit_of_depth(format, encode):
    out = filter_bytes(written(encode, bare, USUAL), format=format, limits=Limits(depth=10))[1]
    assert out == written(encode, bare, kept_of(USUAL))


@in_each_shape
@pytest.mark.usefixtures("no_other_way")
def test_events_that_are_reduced_take_the_short_way(format, encode, put):
    text = "apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata}]\n"
    sent = [event(level="Request", requestObject={"a": index}) for index in range(5)]
    stream, out = filter_bytes(written(encode, put, sent), format=format, policy_text=text, reduce=True)
    assert out == written(encode, put, [event(level="Metadata")] * 5)
    assert stream.counters.rewritten == 5


@in_each_shape
def test_a_record_of_another_shape_sends_only_itself_the_long_way(format, encode, put, monkeypatch):
    opened = []
    unpatched = Envelope.open

    def note(self, events, codec, record):
        opened.append(bytes(record))
        return unpatched(self, events, codec, record)

    monkeypatch.setattr(Envelope, "open", note)
    stream = make_stream(format)
    stream.feed(encode(put(KEPT)))
    others = [{"items": [KEPT]}, {"nothing": 1}]
    kept, dropped = (encode(put(sent)) for sent in (KEPT, DROPPED))
    sent = [dropped, encode(others[0]), kept, encode(others[1]), dropped]
    assert filter_bytes(b"".join(sent), stream=stream)[1] == b"".join(sent[1:4])
    assert list(map(json.loads if format == "json" else msgpack.unpackb, opened)) == others


@pytest.fixture
def evaluated(monkeypatch):
    """The events that the policy was asked about."""
    asked = []
    evaluate = PolicyEvaluator.evaluate

    def ask(self, sent):
        asked.append(sent)
        return evaluate(self, sent)

    monkeypatch.setattr(PolicyEvaluator, "evaluate", ask)
    return asked


def alike(count):
    """Events that differ in all that the policy has no word for."""
    for index in range(count):
        yield event(
            auditID=str(index),
            user={"username": f"user-{index}", "groups": [f"group-{index}"], "uid": str(index)},
            requestURI=f"/api/v1/namespaces/ns-{index}/pods/pod-{index}",
            objectRef={"resource": "pods", "namespace": f"ns-{index}", "name": f"pod-{index}"},
        )


@in_each_shape
@pytest.mark.parametrize("reduce", [False, True])
def test_the_policy_is_asked_once_about_events_that_it_does_not_tell_apart(
    format, encode, put, reduce, evaluated
):
    sent = [encode(put(each)) for each in alike(50)]
    stream = make_stream(format, reduce=reduce)
    for data in [*sent, b"".join(sent)]:
        assert filter_bytes(data, stream=stream)[1] == data
    assert len(evaluated) == 1


def test_creates_and_other_urls_are_remembered_too(evaluated):
    def others(index):
        ref = {"resource": "pods", "namespace": f"ns-{index}", "name": f"pod-{index}"}
        create = event(verb="create", requestURI=f"/api/v1/namespaces/ns-{index}/pods", objectRef=ref)
        return [create, {**OTHER, "requestURI": f"/metrics/{index}"}]

    stream = make_stream()
    for sent in (msgpack.packb(each) for index in range(30) for each in others(index)):
        assert filter_bytes(sent, stream=stream)[1] == sent
    assert len(evaluated) == 2


URLS = ["", "/api/v1/pods", "/api/v1/pods/a", "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/pods/a"]
URLS += ["/apis/g/v1/namespaces/ns/pods", "/apis/g/v1/pods/a", "/api/v1/namespaces/ns/log/a", "/api/v1/log"]
REFS = [
    {"resource": "pods", **more}
    for more in (
        {},
        {"namespace": "ns", "name": "a"},
        {"namespace": "other", "name": "other"},
        {"namespace": "ns", "name": "other"},
        {"namespace": "other", "name": "a"},
        {"namespace": "ns", "name": "a", "subresource": "log"},
        {"namespace": "ns", "name": "a", "apiGroup": "g"},
    )
]
RULES = [
    "{level: None, namespaces: [ns]}",
    '{level: None, namespaces: [""]}',
    '{level: None, resources: [{group: "*", resources: ["*"], resourceNames: [a]}]}',
    '{level: None, resources: [{group: "*", resources: ["*"], resourceNames: [""]}]}',
    '{level: None, namespaces: [ns], resources: [{resources: [pods, "*/log"], resourceNames: [a]}]}',
    '{level: None, users: [""]}',
    '{level: None, users: ["", u], userGroups: [g]}',
]
USERS = [{}, {"username": "u"}, {"groups": ["g"]}, {"username": "other"}, {"username": "u", "groups": ["g"]}]
USERS += [{"groups": ["other"]}, {"username": "other", "groups": ["g", "other"]}]


@pytest.mark.parametrize("rule", RULES)
def test_events_that_a_policy_tells_apart_do_not_share_a_decision(rule):
    """Namespace and name may be those of the URL or of the body. A user without a name may have groups."""
    events = [
        event(verb=verb, requestURI=url, objectRef=ref)
        for verb, url, ref in itertools.product(("create", "update", "get"), URLS, REFS)
    ] + [event(user=user) for user in USERS]
    text = f"apiVersion: audit.k8s.io/v1\nrules: [{rule}, {{level: Metadata}}]\n"
    evaluator = PolicyEvaluator(policy(text))
    expected = [msgpack.packb(sent) if evaluator.evaluate(sent).keep else b"" for sent in events]
    for order in (list(range(len(events))), list(range(len(events)))[::-1]):
        stream = make_stream(policy_text=text)
        for index in order * 2:
            out = filter_bytes(msgpack.packb(events[index]), stream=stream)[1]
            assert out == expected[index], events[index]


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_without_memory_for_decisions_the_policy_is_asked_each_time(format, evaluated):
    write = msgpack.packb if format == "msgpack" else line
    sent = b"".join(map(write, alike(20)))
    assert filter_bytes(sent, format=format, limits=Limits(memo_size=0))[1] == sent
    assert len(evaluated) == 20


@in_each_shape
def test_a_fault_loses_neither_the_record_nor_its_neighbours_and_is_told_each_time(
    format, encode, put, monkeypatch
):
    """Once for the batch, and once for the record alone."""
    evaluate = PolicyEvaluator.evaluate

    def fail(self, sent):
        if sent["verb"] == "fail":
            raise ValueError("at fault")
        return evaluate(self, sent)

    monkeypatch.setattr(PolicyEvaluator, "evaluate", fail)
    faults = []
    records = RecordFilter(format=format, on_error=faults.append)
    records.use(records.prepare(EVALUATOR))
    sent = [memoryview(encode(put(each))) for each in (KEPT, event(verb="fail"), DROPPED)]
    assert records.filter(sent) == [KEEP, UNDECIDED, DROP]
    assert records.counters.undecided == {"internal_error": 1}
    assert records.counters.faults == len(faults) == 2
    assert all("at fault" in str(fault) for fault in faults)
