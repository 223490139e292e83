"""What a compiled policy does with records: where the event is in them, what changes, what is reported."""

import json
import re
import time

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import PolicyEvaluator, reduce_event
from tests.plugin.records.test_envelope import PARTS, WRAPPED, azure
from tests.plugin.records.test_reduce import EVENTS, OBJECT, policy_text
from tests.support import DROPPED, KEPT, POLICY, event, filter_bytes, policy, verdicts, why_undecided
from tests.support.lua_filter import LuaFilter, compiled


@pytest.mark.parametrize(("key", "wrap"), WRAPPED)
def test_an_event_is_found_where_exec_finds_it(key, wrap):
    lua = LuaFilter(POLICY, event_key=key)
    assert lua.call(lua.from_lua(lua.to_lua(wrap(KEPT)))) == (0, 0)
    assert lua.call(wrap(DROPPED)) == (-1, 0)


@pytest.mark.parametrize(("key", "wrap", "unwrap"), PARTS)
def test_of_several_events_only_the_kept_ones_go_on(key, wrap, unwrap):
    lua = LuaFilter(POLICY, event_key=key)
    assert unwrap(lua.filter(wrap(KEPT, DROPPED, KEPT))) == unwrap(wrap(KEPT, KEPT))
    assert lua.call(wrap(KEPT, KEPT)) == (0, 0)
    assert lua.call(wrap(DROPPED, DROPPED)) == (-1, 0)
    assert summary(lua)["rewritten"] == 1


@pytest.mark.parametrize(
    ("key", "record", "reason"),
    [
        (None, {}, "not_an_event"),
        (None, {"log": None}, "not_an_event"),
        (None, {"log": "I0501 12:00:00.000000 1 klog.go:1] text"}, "not_an_event"),
        (None, {"log": '{"auditID": "cut off'}, "undecodable"),
        (None, {"log": json.dumps(DROPPED)[:-1]}, "undecodable"),
        (None, {"log": json.dumps(DROPPED) + "}"}, "undecodable"),
        (None, {"log": json.dumps({"items": [DROPPED]}) + ","}, "undecodable"),
        (None, {"log": "[]", "message": "{}"}, "not_an_event"),
        (None, {"log": json.dumps({**DROPPED, "auditID": 5})}, "not_an_event"),
        (None, {"items": [{"kind": "Pod"}, 1, None]}, "not_an_event"),
        (None, {"items": {}}, "not_an_event"),
        (None, {"items": [{"items": [DROPPED]}, json.dumps(DROPPED)]}, "not_an_event"),
        (None, {"log": json.dumps({"items": [{"items": [DROPPED]}, json.dumps(DROPPED)]})}, "not_an_event"),
        (None, {"nested": DROPPED}, "not_an_event"),
        (None, {**DROPPED, "verb": ["list"]}, "not_an_event"),
        ("event", {**DROPPED, "log": DROPPED}, "not_an_event"),
        ("event", {"event": [DROPPED]}, "not_an_event"),
        ("event[]", {"event": DROPPED}, "not_an_event"),
        ("event[]", {"event": ['{"broken']}, "not_an_event"),
        ("a.b", {"a": json.dumps({"c": DROPPED})}, "not_an_event"),
        ("a.b", {"a": json.dumps({"b": "{"})}, "undecodable"),
    ],
)
def test_what_holds_no_event_passes_and_is_counted_as_by_exec(key, record, reason):
    lua = LuaFilter(POLICY, event_key=key)
    assert lua.call(record) == (0, 0)
    assert f"undecided=1 ({reason}=1)" in lua.end()
    assert why_undecided(filter_bytes(msgpack.packb(record), event_key=key)[0]) == f"{reason}=1"


def test_text_nested_very_deep_passes():
    lua = LuaFilter(POLICY)
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for levels, code in ((1000, -1), (100_000, 0)):
            value = opening * levels + "1" + closing * levels
            text = f'{json.dumps(DROPPED)[:-1]},"deep":{value}}}'
            assert lua.call({"log": text}) == (code, 0)
    assert summary(lua)["too_deep"] == 2


def test_the_first_of_the_usual_keys_with_an_event_decides():
    lua = LuaFilter(POLICY)
    assert lua.keeps({"log": json.dumps(KEPT), "message": DROPPED})
    assert not lua.keeps({"log": DROPPED, "message": json.dumps(KEPT)})
    assert not lua.keeps({"log": "text", "message": DROPPED})


def test_json_that_is_written_unusually_is_read():
    dropped = json.dumps(DROPPED)
    escaped = dropped.replace("system:kube-proxy", "\\u0073ystem\\u003Akube\\u002dproxy").replace(
        "verb", "v\\u0065rb"
    )
    indented = json.dumps(DROPPED, indent="\t")
    again = f'{{"user":{{"username":"alice"}},{dropped[1:]}'
    lua = LuaFilter(POLICY)
    for text in (dropped, "\ufeff" + dropped, f" \r\n\t{dropped}\n", escaped, indented, again):
        assert lua.call({"log": text}) == (-1, 0)
    smile = LuaFilter(POLICY.replace("system:kube-proxy", "\U0001f600"))
    assert not smile.keeps({"log": json.dumps(event(user={"username": "\U0001f600"}))})


VALUES = [
    "0",
    "-0",
    "10",
    "1.5",
    "-1e5",
    "1E+5",
    "1.0e-7",
    "true",
    "null",
    '"\\u00e9\\/"',
    "[]",
    "{}",
    " [ 1 , 2 ] ",
]
NO_VALUES = [
    "", "01", "-", "+1", "1.", ".5", "1e", "1e+", "0x1", "True", "nul", "nullx", "NaN", "'a'",
    '"\\x"', '"\\u12g4"', '"a\tb"', '"a', "[1,]", "[,1]", "[1 2]", "[}",
    "{,}", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", '{"a":1 "b":2}', "{]",
]  # fmt: skip


@pytest.mark.parametrize(("values", "code"), [(VALUES, -1), (NO_VALUES, 0)], ids=["json", "not json"])
def test_all_of_a_text_has_to_be_json(values, code):
    lua = LuaFilter(POLICY)
    for value in values:
        for text in (
            f'{{"x":{value},{json.dumps(DROPPED)[1:]}',
            f'{json.dumps(DROPPED)[:-1]},"x":[{{"y":{value}}}]}}',
        ):
            assert lua.call({"log": text}) == (code, 0), text


def summary(lua):
    """The counters of the last report."""
    return {
        name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", lua.end().partition("; events")[0])
    }


def as_event_list(sent):
    return {"items": [sent]}


def as_text(sent):
    return {"log": json.dumps(sent), "stream": "stdout"}


@given(sent=EVENTS, level=st.sampled_from(["Metadata", "Request", "RequestResponse"]), omit=st.booleans())
def test_events_are_reduced_as_by_reduce_event(sent, level, omit):
    text = policy_text(level, omit)
    reduced = reduce_event(sent, PolicyEvaluator(policy(text)).evaluate(sent))
    lua = LuaFilter(text, reduce=True)
    assert lua.filter(sent) == reduced
    assert lua.filter(as_event_list(sent)) == as_event_list(reduced)
    after = json.loads(lua.filter(as_text(sent))["log"])
    assert after == reduced
    assert list(after) == list(reduced)
    if reduced == sent:
        assert lua.call(sent) == lua.call(as_text(sent)) == (0, 0)
    assert summary(lua)["reduced"] == (0 if reduced == sent else 3)


@pytest.mark.parametrize("wrap", [lambda sent: sent, as_text], ids=["table", "text"])
def test_recorded_logs_become_what_the_api_server_would_have_written(wrap):
    reduced = 0
    for case in verdicts("level_reduction.jsonl.gz"):
        lua = LuaFilter(case["policy"], reduce=True)
        left = [lua.filter(wrap(sent)) for sent in case["recorded"]]
        left = [record for record in left if record is not None]
        if wrap is as_text:
            left = [json.loads(record["log"]) for record in left]
        assert left == case["expected"]
        reduced += summary(lua).get("reduced", 0)
    assert reduced > 200


@pytest.mark.parametrize("wrap", [lambda sent: sent, as_text], ids=["table", "text"])
def test_the_body_of_a_patch_is_not_an_object(wrap):
    lua = LuaFilter(policy_text("RequestResponse", True), reduce=True)
    patch = event(verb="patch", level="RequestResponse", requestObject=OBJECT)
    assert lua.call(wrap(patch)) == (0, 0)
    assert lua.call(wrap({**patch, "verb": "update"}))[0] == 2
    assert lua.call(wrap({**patch, "responseObject": OBJECT}))[0] == 2


def test_reduction_only_cuts_out_of_text():
    """What is left keeps its bytes: order, spelling of numbers and strings, invalid UTF-8."""
    head = rb'{"auditID":"x","verb":"get","user":{},"n":[12345678901234567890,1.0,1e400,null],"s":"\u00e9\/'
    sent = head + b'\xff","level":"Request","requestObject":{"a":[1,"}"]},"last":{}}\n'
    left = head + b'\xff","level":"Metadata","last":{}}\n'
    lua = LuaFilter(policy_text("Metadata", False), reduce=True)
    code, record = lua.call({"log": sent})
    assert (code, record[b"log"]) == (2, left)


def test_without_the_option_bodies_stay():
    sent = event(level="RequestResponse", requestObject=OBJECT, responseObject=OBJECT)
    assert LuaFilter(policy_text("Metadata", True)).call(sent) == (0, 0)
    assert (
        "reduce_table"
        not in compiled(policy_text("Metadata", True)).partition("-- What becomes of a record")[0]
    )


LEFT = {
    "nulls": [None, 1, None],
    "empty": [[], {}, [{}]],
    "big": 2**53 - 1,
    "negative": -(2**53) + 1,
    "half": 0.5,
}


def test_nulls_empty_lists_and_integers_survive_in_changed_records():
    lua = LuaFilter(policy_text("Metadata", False), reduce=True)
    sent = event(level="Request", requestObject=OBJECT, **LEFT)
    assert lua.filter(sent) == event(level="Metadata", **LEFT)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 1e300, float("inf"), float("nan")])
def test_a_record_with_a_number_that_lua_cannot_hold_is_not_changed_and_counted(number):
    lua = LuaFilter(policy_text("Metadata", False), reduce=True)
    assert lua.call(event(level="Request", requestObject=OBJECT, n={"a": [number]})) == (0, 0)
    listed = {"items": [event(level="Request", requestObject=OBJECT), event(n=number)]}
    assert lua.call(listed) == (0, 0)
    report = lua.end()
    assert "not_reduced=2" in report
    assert "rewritten=0 reduced=0" in report
    # It is only about what is left.
    assert lua.filter(event(level="Request", requestObject={"n": number})) == event(level="Metadata")


def test_without_a_null_that_fluent_bit_understands_no_record_is_changed():
    """As in a Lua that has no string.buffer: nulls in the record would vanish unseen."""
    lua = LuaFilter(
        policy_text("Metadata", False),
        reduce=True,
        setup=b'package.preload["string.buffer"] = nil; flb_null = nil',
    )
    assert "enable_flb_null" in lua.said()[1]
    assert lua.call(event(level="Request", requestObject=OBJECT)) == (0, 0)
    assert "not_reduced=1" in lua.end()
    assert lua.call({"items": [event(stage="Panic"), event()]}) == (0, 0)
    enabled = LuaFilter(
        policy_text("Metadata", False),
        reduce=True,
        setup=b'package.preload["string.buffer"] = nil; flb_null = print',
    )
    assert enabled.call(event(level="Request", requestObject=OBJECT))[0] == 2


def test_an_empty_table_of_unknown_kind_is_not_written():
    """Older Fluent Bits do not tell arrays from maps."""
    lua = LuaFilter(policy_text("Metadata", False), reduce=True)
    lua.lua.execute(b"plain = function(r) r.x = {}; return r end")
    sent = lua.lua.globals()[b"plain"](lua.to_lua(event(level="Request", requestObject=OBJECT)))
    assert lua.lua.globals()[b"kube_audit_filter"](b"tag", 1.5, sent) == (0, 0, 0)
    assert "not_reduced=1" in lua.end()


def raising(lua, message):
    """A record that raises when it is looked at."""
    return lua.lua.eval(b"setmetatable({}, { __index = function() error('%s') end })" % message)


def test_an_error_keeps_the_record_and_is_logged_once_a_minute_and_counted():
    lua = LuaFilter(POLICY)
    call = lua.lua.globals()[b"kube_audit_filter"]
    lua.said()
    for number in range(3):
        assert call(b"tag", 1.5, raising(lua, b"broken %d" % number)) == (0, 0, 0)
    (said,) = lua.said()
    assert said.startswith("[now] [error] [kube-audit-filter] a record went on undecided:")
    assert "broken 0" in said
    lua.advance(59)
    call(b"tag", 1.5, raising(lua, b"later"))
    assert lua.said() == []
    lua.advance(1)
    call(b"tag", 1.5, raising(lua, b"next"))
    error, counters = lua.said()
    assert "next (3 more since the last such message)" in error
    assert "undecided=5 (internal_error=5)" in counters
    lua.advance(60)
    call(b"tag", 1.5, raising(lua, b"last"))
    assert "more" not in lua.said()[0]
    assert lua.call(DROPPED) == (-1, 0), "and it goes on"


def test_a_report_that_cannot_be_written_costs_no_record():
    lua = LuaFilter(POLICY)
    lua.lua.execute(b"io.stderr = nil")
    lua.advance(100)
    assert lua.call(DROPPED) == (-1, 0)
    assert lua.lua.globals()[b"kube_audit_filter"](b"tag", 1.5, raising(lua, b"x")) == (0, 0, 0)


def test_a_time_that_is_a_table_is_handed_back():
    """With time_as_table, Fluent Bit complains of each record for which it gets none."""
    lua = LuaFilter(POLICY)
    stamp = lua.lua.table_from({b"sec": 1, b"nsec": 2})
    call = lua.lua.globals()[b"kube_audit_filter"]
    for record, code in ((KEPT, 0), (DROPPED, -1)):
        back = call(b"tag", stamp, lua.to_lua(record))
        assert (back[0], dict(back[1]), back[2]) == (code, dict(stamp), 0)


def test_counters_are_reported_when_they_have_changed_and_at_the_end():
    lua = LuaFilter(POLICY, report_interval=10)
    assert "5 rules, policy sha256" in lua.said()[0]
    lua.call(DROPPED)
    assert lua.said() == []
    lua.advance(10)
    lua.call(KEPT)
    (said,) = lua.said()
    assert said.startswith(
        "[now] [ info] [kube-audit-filter] records in=2 kept=1 dropped=1 undecided=0 rewritten=0"
        " reduced=0; events dropped by rule: 0=1; events kept by rule: 4=1; policy sha256 "
    )
    lua.lua.execute(b"collectgarbage()")
    assert lua.said() == []
    lua.call(KEPT)
    assert "records in=3 kept=2" in lua.end()
    silent = LuaFilter(POLICY, report_interval=0)
    silent.said()
    silent.advance(100_000)
    silent.call(KEPT)
    assert silent.said() == []
    assert "records in=1" in silent.end()


def test_lists_say_how_many_of_their_elements_stayed_undecided():
    lua = LuaFilter(POLICY, event_key="records[].properties.log")
    assert lua.call(azure(KEPT, "text", json.dumps(KEPT)[:-1])) == (0, 0)
    assert lua.call({"records": json.dumps(azure(KEPT, "text")["records"])}) == (0, 0)
    assert "undecided_list_items=3" in lua.end()


def test_very_long_lists_are_not_taken_apart():
    lua = LuaFilter(POLICY)
    many = "[" + "1," * 200_000 + json.dumps(DROPPED) + "]"
    assert lua.call({"log": f'{{"items":{many}}}'}) == (0, 0)
    assert lua.call({"items": [1] * 200_000 + [DROPPED]}) == (0, 0)
    assert lua.call({"items": [1] * 200_001}) == (0, 0)
    last = summary(lua)
    assert (last["too_many_items"], last["not_an_event"]) == (2, 1)


def test_an_event_with_a_list_that_is_too_long_is_kept_unreduced_and_counted():
    lua = LuaFilter(policy_text("Request", True), reduce=True)
    full = event(level="RequestResponse", requestObject={**OBJECT, "items": [1] * 200_001})
    assert lua.call(full) == (0, 0)
    assert lua.call({"log": json.dumps(full)}) == (0, 0)
    assert lua.filter({"items": [full, event(stage="x", level="Request")]}) is not None
    assert summary(lua)["not_reduced"] == 3
    stream, out = filter_bytes(
        msgpack.packb(full), policy_text=policy_text("Request", True), reduce=True, max_record_size=1 << 24
    )
    assert (stream.counters.not_reduced, out) == (1, msgpack.packb(full))


PATCHED = {
    "patch.webhook.admission.k8s.io/round_0_index_0": "[{}]",
    "mutation.webhook.admission.k8s.io/round_0_index_0": "{}",
}


@pytest.mark.parametrize("wrap", [lambda sent: sent, as_text], ids=["table", "text"])
@pytest.mark.parametrize("level", ["Metadata", "Request", "RequestResponse"])
@pytest.mark.parametrize("recorded", ["Metadata", "Request", "RequestResponse", "info"])
@pytest.mark.parametrize(
    "annotations", [None, {}, PATCHED, dict(list(PATCHED.items())[:1]), dict(list(PATCHED.items())[1:]), 5]
)
def test_annotations_with_patches_of_the_body_go_with_the_body(wrap, level, recorded, annotations):
    text = policy_text(level, True)
    sent = event(level=recorded, annotations=annotations, requestObject=OBJECT)
    left = LuaFilter(text, reduce=True).filter(wrap(sent))
    left = json.loads(left["log"]) if wrap is as_text else left
    assert left == reduce_event(sent, PolicyEvaluator(policy(text)).evaluate(sent))


def test_names_that_are_written_with_escapes_are_found():
    lua = LuaFilter(policy_text("Metadata", True), reduce=True)
    sent = json.dumps(event(level="Request", requestObject=OBJECT, annotations=PATCHED))
    plain = json.loads(lua.filter({"log": sent})["log"])
    escaped = (
        sent.replace("requestObject", "request\\u004fbject")
        .replace("annotations", "\\u0061nnotations")
        .replace("patch.webhook", "patch\\u002ewebhook")
    )
    assert json.loads(lua.filter({"log": escaped})["log"]) == plain
    body = json.dumps(event(requestObject=OBJECT)).replace("managedFields", "managedField\\u0073")
    assert "managedField" not in lua.filter({"log": body})["log"].replace('"labels": {"managedField', "")


def test_the_time_for_a_list_of_events_grows_with_its_length_and_no_faster():
    lua = LuaFilter(policy_text("Metadata", True), reduce=True)

    def seconds(count):
        text = json.dumps({"items": [event()] * count})
        before = time.process_time()
        assert lua.call({"log": text}) == (0, 0)
        return time.process_time() - before

    seconds(2000)
    short, long = min(seconds(1000) for _ in range(3)), min(seconds(16_000) for _ in range(3))
    assert long < 16 * 4 * short
