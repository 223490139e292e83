"""``compile --split``: a list of events becomes a record for each, and a second filter gives them times."""

import json
import re
from datetime import datetime

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugin.lua.test_same_as_exec import REDUCING, read, script
from tests.plugin.records.test_envelope import event_list
from tests.plugin.records.test_splitting import TIMED, TIMES, values
from tests.support import DROPPED, KEPT, POLICY, event, filter_bytes
from tests.support.lua_filter import LuaFilter, compiled

FULL = event(
    level="RequestResponse", requestObject={"metadata": {"managedFields": [{}], "x": [None, {}, []]}}
)
NO_EVENT = {"level": "Metadata", "note": None}
ADDED = {"__tag": "a", "verb": "none", "n": [1]}


def same_as_exec(record, *, event_key=None, policy=POLICY, reduce=False):
    """Check a record; return the records into which it is split, None if it is not."""
    options = {"event_key": event_key, "reduce": reduce, "split": True}
    stream, out = filter_bytes(msgpack.packb(record), policy_text=policy, **options)
    lua = LuaFilter(script=script(policy, **options))
    code, value = lua.call(record)
    said = lua.end()
    split = stream.counters.split and f" split=1 split_into={1 + stream.counters.added}"
    assert re.search(rf"{split}\b", said) if split else " split=" not in said
    assert (" not_split=1" in said) == bool(stream.counters.not_split)
    if not split:
        assert {0: "kept", -1: "dropped", 2: "kept"}[code] == ("kept" if out else "dropped")
        if code == 2:
            assert read(lua.from_lua(value)) == read(msgpack.unpackb(out))
        return None
    assert code == 2
    found = lua.from_lua(value)
    assert [read(each) for each in found] == [read(msgpack.unpackb(each)) for each in values(out)]
    return found


WRAPS = [
    (None, event_list),
    (None, lambda *e: {**ADDED, **event_list(*e)}),
    (None, lambda *e: {"log": json.dumps(event_list(*e)) + "\n", "n": {"m": None}}),
    (None, lambda *e: {"message": " \ufeff" + json.dumps({**event_list(*e), **ADDED}, indent=1), "n": []}),
    (None, lambda *e: {"log": event_list(*e), "n": 1}),
    ("a[]", lambda *e: {"a": list(e), "n": 1}),
    ("a.b[].c", lambda *e: {"a": {"b": [{"c": each, "d": 1} for each in e]}, "n": 1}),
    ("a[].b", lambda *e: {"a": json.dumps([{"b": json.dumps(each), "c": 1} for each in e]), "n": 1}),
    ("a[].b", lambda *e: {"a": [{"b": json.dumps(event_list(each, KEPT))} for each in e], "n": 1}),
    ("a[][]", lambda *e: {"a": [list(e), [DROPPED], [KEPT], list(e)]}),
    ("a", lambda *e: {"a": json.dumps({"items": list(e), "n": 1, "n ": 2})}),
]
EVENTS = st.sampled_from([KEPT, DROPPED, TIMED, FULL, NO_EVENT, {**DROPPED, "auditID": 5}, {}])


@pytest.mark.parametrize(("key", "wrap"), WRAPS)
@given(events=st.lists(EVENTS, max_size=5), reduce=st.booleans())
def test_a_record_is_split_as_by_exec(key, wrap, events, reduce):
    same_as_exec(wrap(*events), event_key=key, policy=REDUCING, reduce=reduce)
    same_as_exec(wrap(*events), event_key=key)


def test_the_events_of_a_list_go_on_in_its_order():
    items = event_list(KEPT, DROPPED, NO_EVENT, TIMED)["items"]
    assert same_as_exec(event_list(KEPT, DROPPED, NO_EVENT, TIMED)) == [items[0], items[2], items[3]]
    log = {"log": json.dumps(event_list(KEPT, DROPPED, TIMED)), "n": 1}
    assert same_as_exec(log) == [{"log": json.dumps(items[index]), "n": 1} for index in (0, 3)]
    assert same_as_exec(KEPT) is None
    assert same_as_exec({"log": json.dumps(KEPT)}) is None
    assert same_as_exec(event_list(DROPPED)) is None
    assert same_as_exec(event_list(KEPT)) == [items[0]]


def test_text_keeps_its_bytes():
    texts = ['{"auditID":"a", "verb":"x" ,"user":{},"n":1e0,"n":"\\u0041"}', '{ "auditID" : 1 }']
    text = f' {{"items" : [ {texts[0]} ,{texts[1]}]}} '
    lua = LuaFilter(POLICY.replace('""', '"a"') + "- level: Metadata\n", split=True)
    assert lua.split({"log": text}) == [{"log": f" {each} "} for each in texts]
    text = f'{{"a":[2.50],"items":[{texts[0]},{{ }}],"verb":"y"}}'
    assert lua.split({"log": text}) == [
        {"log": texts[0][:-1] + ',"a":[2.50]}'},
        {"log": '{"a":[2.50],"verb":"y"}'},
    ]


@pytest.mark.parametrize("odd", [5, "text", [KEPT]])
def test_a_list_stays_whole_if_an_element_could_not_be_a_record(odd):
    assert same_as_exec({"items": [KEPT, odd, DROPPED]}) is None
    assert same_as_exec({"items": [KEPT, odd]}) is None
    assert len(same_as_exec({"log": json.dumps({"items": [KEPT, odd]})})) == 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda events, rest: {"log": json.dumps({"items": events}), "rest": rest},
        lambda events, rest: {"items": events, "rest": rest},
        lambda events, rest: {"log": json.dumps({"items": events, "rest": rest})},
        lambda events, rest: {"log": {"items": events}, "a": {"rest": rest}},
    ],
)
def test_a_record_stays_whole_if_its_parts_would_repeat_too_much(wrap):
    assert len(same_as_exec(wrap([KEPT] * 100 + [DROPPED], "x" * 500))) == 100
    assert same_as_exec(wrap([KEPT] * 100 + [DROPPED], "x" * 5000)) is None


def test_what_could_not_be_written_stays_whole():
    lua = LuaFilter(POLICY, split=True)
    record = {**event_list(KEPT, KEPT), "large": 2.0**53}
    assert lua.call(record) == (0, 0)
    record = {**event_list(KEPT, DROPPED), "large": 2.0**53}
    assert lua.call(record) == (0, 0)
    assert "kept=2 dropped=0 undecided=0 rewritten=0 reduced=0 not_split=2 not_reduced=1" in lua.end()


def test_without_nulls_no_list_is_split_and_the_script_says_so():
    lua = LuaFilter(POLICY, split=True, setup=b"package.loaded['string.buffer'] = {}; ")
    assert "no list is split" in "".join(lua.said())
    assert lua.call(event_list(KEPT)) == (0, 0)
    assert lua.time(TIMED) is None


def test_the_bound_is_that_of_each_record():
    lua = LuaFilter(POLICY, split=True)
    for _ in range(3):
        assert lua.split({"log": json.dumps({"items": [KEPT] * 50}), "rest": "x" * 800})
        assert lua.call({"items": [NO_EVENT]}) == (0, 0)
    assert " split=3 split_into=150;" in lua.end()


SECONDS, NANOSECONDS = 1795510800, 123_456_000
PLACES = [
    (None, TIMED),
    (None, {"log": json.dumps(TIMED)}),
    (None, {"log": 5, "message": "\ufeff " + json.dumps(TIMED)}),
    (None, {"log": TIMED}),
    ("a", {"a": TIMED}),
    ("a[].b", {"a": {"b": json.dumps(TIMED)}}),
    ("a[].b", {"a": json.dumps({"b": json.dumps(TIMED)})}),
    ("a[][]", {"a": TIMED}),
]


@pytest.mark.parametrize(("key", "record"), PLACES)
def test_the_second_filter_gives_a_record_the_time_of_its_event(key, record):
    lua = LuaFilter(POLICY, event_key=key, split=True)
    assert lua.time(record, (5, 6)) == ((SECONDS, NANOSECONDS), record)
    assert lua.time(record, (SECONDS, NANOSECONDS)) is None
    time, same = lua.time(record, 5.000006)
    assert same == record
    assert int((time - SECONDS) * 1e6) == NANOSECONDS // 1000
    assert lua.time(record, SECONDS + NANOSECONDS / 1e9) is None


@pytest.mark.parametrize(
    ("key", "record"),
    [
        (None, KEPT),
        (None, {}),
        (None, {"log": "text", "message": "{"}),
        (None, {"log": json.dumps(KEPT)[:-1]}),
        (None, {"log": [TIMED]}),
        ("a", TIMED),
        ("a", {"a": "[]"}),
        ("a[]", {"a": [TIMED]}),
        ("a.b", {"a": TIMED}),
        (None, {**TIMED, "large": 2.0**53}),
        (None, {"stageTimestamp": ["2026-11-24T09:00:00Z"]}),
    ],
)
def test_a_record_whose_event_has_no_time_keeps_its_own(key, record):
    lua = LuaFilter(POLICY, event_key=key, split=True)
    assert lua.time(record) is None
    assert lua.time(record, (5, 6)) is None


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_times_are_read_as_by_exec(text, expected):
    lua = LuaFilter(POLICY, split=True)
    found = lua.time({"stageTimestamp": text, "x": 1}, (5, 6))
    assert (found and found[0]) == expected
    found = lua.time({"log": json.dumps({"stageTimestamp": text})}, (5, 6))
    assert (found and found[0]) == expected
    found = lua.time({"stageTimestamp": text, "requestReceivedTimestamp": "2026-11-24T09:00:00Z"}, (5, 6))
    assert found[0] == (expected or (SECONDS, 0))


@given(
    st.datetimes(
        min_value=datetime(1970, 1, 1),
        max_value=datetime(2106, 1, 1),
    )
)
def test_any_day_is_counted_right(moment):
    lua = LuaFilter(script=script(POLICY, split=True))
    text = moment.isoformat(timespec="microseconds") + "Z"
    seconds = int((moment.replace(microsecond=0) - datetime(1970, 1, 1)).total_seconds())
    assert lua.time({"stageTimestamp": text}, (5, 6))[0] == (seconds, moment.microsecond * 1000)


def test_a_script_without_the_option_has_nothing_of_it():
    without, with_ = compiled(POLICY), compiled(POLICY, split=True)
    assert "kube_audit_time" not in without
    header = re.match(r"(?:--.*\n)+", with_)[0]
    assert "options    --split" in header
    assert "Call           kube_audit_time" in header
