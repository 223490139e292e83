"""The same record in exec and in a compiled policy: the same fate, the same new record, the same reason."""

import json
import re
from contextlib import suppress
from functools import cache

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.plugin.records.test_envelope import azure, event_list
from tests.support import DROPPED, KEPT, POLICY, event, filter_bytes, why_undecided
from tests.support.lua_filter import LuaFilter, compiled

REDUCING = """
apiVersion: audit.k8s.io/v1
omitManagedFields: true
rules:
- {level: None, users: [system:kube-proxy, ""]}
- level: None
  verbs: [create, update]
  namespaces: [a, ""]
  resources: [{resources: [a], resourceNames: [a, ""]}]
- {level: None, nonResourceURLs: [/a*]}
- {level: Metadata}
"""


@cache
def script(policy, **options):
    return compiled(policy, **options)


def same_in_both(record, *, event_key=None, policy=POLICY, reduce=False):
    """Check a record, and return what became of it: its fate, and the reason where it is undecided."""
    sent = msgpack.packb(record, unicode_errors="surrogateescape")
    options = {"event_key": event_key, "reduce": reduce}
    stream, out = filter_bytes(sent, policy_text=policy, max_record_size=1 << 24, **options)
    lua = LuaFilter(script=script(policy, **options))
    code, value = lua.call(record)
    reason = re.search(r"undecided=\d \((.*)\) rewritten", lua.end())
    reason = reason[1] if reason else ""
    assert reason == why_undecided(stream), record
    if code == 2:
        left = lua.from_lua(value)
        assert out not in (b"", sent)
        assert read(left) == read(msgpack.unpackb(out, unicode_errors="surrogateescape"))
    else:
        assert out == (b"" if code == -1 else sent), record
    return {0: "kept", -1: "dropped", 2: "changed"}[code], reason.partition("=")[0]


def read(value):
    """A value, with JSON text in it read: exec also writes anew what is around an event in text."""
    if isinstance(value, dict):
        return {key: read(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [read(inner) for inner in value]
    if isinstance(value, str):
        with suppress(ValueError):
            return read(json.loads(value.removeprefix("\ufeff")))
    return value


ODD = {**DROPPED, "x": [1, -0.5e3, True, None, '\\"\u00e9\ud83d\ude00\n', {}, []], "": {"": ""}}
FULL = event(level="RequestResponse", requestObject={"metadata": {"managedFields": [{}]}})
TEXTS = [
    json.dumps(DROPPED),
    json.dumps(ODD, indent=1),
    json.dumps({**FULL, "annotations": {"patch.webhook.admission.k8s.io/a": "\u2028"}}),
    json.dumps(event_list(KEPT, DROPPED)),
    json.dumps([DROPPED, KEPT, 5]),
    json.dumps({"a": json.dumps(DROPPED)}),
    json.dumps({"a": json.dumps(json.dumps([FULL, DROPPED]))}),
    json.dumps(azure(KEPT, json.dumps(DROPPED))),
]
PIECES = [
    *('{ } [ ] , : " \\ / 0 - + . e E ' + " \t\n\r\x0b\x0c\x00\x01\x1f\x7f\xa0\u2028\ufeff é ☃ 😀").split(
        " "
    ),
    *(" ", "null", "true", "nul", "NaN", "Infinity", "-Infinity", "nan", "01", "1.", "1e5", ".5", "0x1"),
    *(
        "\\ud800",
        "\\udc00",
        "\\uD83D\\uDE00",
        "\\ud83d\\u0041",
        "\\u00",
        "\\u0000",
        "\\u00e9",
        "\\x",
        "\\U0041",
    ),
    *(
        '"a":1',
        '"verb":5',
        '"user":null',
        '"objectRef":null',
        '"user":[],',
        '"auditID":"x",',
        "//",
        "/**/",
        "'a'",
    ),
    *("\\n", "\\/", '\\"', '\\\\"', "auditID", "a" * 300),
]
KEYS = [None, "log", "log[]", "log.a", "log.a[]", "log.records[].properties.log"]


@st.composite
def mutated(draw):
    """A text of which some characters were put in, taken out or replaced."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(text))), draw(st.sampled_from([0, 0, 1, 2, 9, 40]))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + length :]
    return text


@given(text=mutated(), key=st.sampled_from(KEYS), reduce=st.booleans())
@example(text=json.dumps(DROPPED)[:-1] + ',"x":"\\ud83d"}', key=None, reduce=False)
@example(text=json.dumps(DROPPED)[:-1] + ',"x":NaN}', key=None, reduce=False)
def test_any_text_is_decided_on_alike(text, key, reduce):
    same_in_both({"log": text, "stream": "stdout"}, event_key=key, policy=REDUCING, reduce=reduce)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON_VALUES, escape=st.booleans(), indent=st.none() | st.just("\t"))
def test_all_that_is_json_is_read(value, escape, indent):
    text = json.dumps({**DROPPED, "x": value}, ensure_ascii=escape, indent=indent)
    assert same_in_both({"log": text}) == ("dropped", "")


NO_JSON = [
    '"\\ud800"', '"\\udfff"', '"\\ud800\\ud800"', '"\\ud800\\u0041"', '"\\ud800x"', '{"\\ud800":1}',
    "NaN", "Infinity", "-Infinity",
    '"\x00"', '"\x1f"', '"\t"', '"\n"', "01", "-01", "00", "[1,]", '{"a":1,}', "1.", ".5", "-",
]  # fmt: skip


@pytest.mark.parametrize("value", NO_JSON)
def test_what_is_no_json_goes_on_as_undecodable(value):
    for text in (
        f'{{"x":{value},{json.dumps(DROPPED)[1:]}',
        f'{json.dumps(DROPPED)[:-1]},"x":[{{"y":{value}}}]}}',
    ):
        assert same_in_both({"log": text}) == ("kept", "undecodable")


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf8\x88\x80\x80\x80", b"\xf4\x90\x80\x80"]
)
def test_strings_that_are_not_utf_8_are_compared_by_their_bytes(bad):
    bad = bad.decode("utf-8", "surrogateescape")
    text = json.dumps({**DROPPED, "x": "?"}).replace("?", bad)
    assert same_in_both({"log": text}) == ("dropped", "")
    user = json.dumps(event(user={"username": "?"})).replace("?", bad)
    assert same_in_both({"log": user}) == ("kept", "")
    nested = json.dumps({"a": text}, ensure_ascii=False)
    assert same_in_both({"log": nested}, event_key="log.a") == ("kept", "undecodable")


FIELDS = {
    "auditID": st.just("a") | st.sampled_from([None, 5]),
    "verb": st.sampled_from(["get", "create", "update", "patch", None, 5]),
    "user": st.sampled_from(
        [None, {}, {"username": "a"}, {"username": 5, "groups": ["", 5, None]}, [], [1], "a", 5]
    ),
    "objectRef": st.sampled_from(
        [None, {}, [], "a", {"resource": "a", "name": "a", "namespace": "a"}, {"resource": "a", "name": 5}]
    ),
    "requestURI": st.sampled_from(
        [
            "/a",
            "/api/v1/a",
            "/api/v1/namespaces/a/a",
            "/api/v1/namespaces/b/a/a",
            "/api",
            "/apis/a/v1",
            None,
            5,
        ]
    ),
    "stage": st.sampled_from(["Panic", None]),
    "level": st.sampled_from(["Request", "Metadata", "info", None, 5]),
    "items": st.sampled_from([None, [], [DROPPED], [KEPT, DROPPED], {}]),
    "log": st.sampled_from([None, DROPPED, json.dumps(DROPPED), "{", "text"]),
    "message": st.sampled_from([json.dumps(KEPT), DROPPED]),
    "requestObject": st.sampled_from([None, {"metadata": {"managedFields": []}}, []]),
    "user_username": st.just("eve"),
}


@given(
    record=st.fixed_dictionaries({}, optional=FIELDS),
    reduce=st.booleans(),
)
def test_any_map_is_an_event_in_both_or_in_none(record, reduce):
    same_in_both(record, policy=REDUCING, reduce=reduce)
    text = {"log": json.dumps(record)}
    same_in_both(text, policy=REDUCING, reduce=reduce)
    same_in_both({"items": [record, DROPPED]}, policy=REDUCING, reduce=reduce)
    same_in_both(
        {"log": json.dumps({"items": [DROPPED, record]})},
        policy=REDUCING,
        reduce=reduce,
    )


FLATTENED = {
    "auditID": "a",
    "verb": "get",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/kube-system/secrets/db",
    "user_username": "eve",
    "objectRef_resource": "secrets",
}


def test_an_event_whose_user_or_object_was_lifted_out_is_no_event():
    for record in (FLATTENED, {**FLATTENED, "user": {}}, {**event(), "objectRef": None}):
        assert same_in_both(record) == ("kept", "not_an_event")
        assert same_in_both({"log": json.dumps(record)}) == ("kept", "not_an_event")
    assert same_in_both({**FLATTENED, "user": {}, "requestURI": "/healthz"}) == ("dropped", "")


@pytest.mark.parametrize(
    "wrap", [lambda sent: sent, lambda sent: {"log": json.dumps(sent)}], ids=["table", "text"]
)
def test_what_has_too_many_items_is_not_taken_apart(wrap):
    def groups(count):
        return event(user={"username": "", "groups": [f"g{number}" for number in range(count)]})

    assert same_in_both(wrap(groups(10_000))) == ("dropped", "")
    assert same_in_both(wrap(groups(10_001))) == ("kept", "too_many_items")
    assert same_in_both(wrap({"items": [DROPPED] * 3 + [1] * 199_997})) == ("changed", "")
    assert same_in_both(wrap({"items": [DROPPED] * 3 + [1] * 199_998})) == ("kept", "too_many_items")
    assert same_in_both(wrap({"items": [1] * 200_001})) == ("kept", "not_an_event")


@pytest.mark.parametrize("levels", [500, 5000, 100_000])
def test_text_that_is_nested_too_deep_goes_on(levels):
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        text = f'{json.dumps(DROPPED)[:-1]},"deep":{opening * levels}1{closing * levels}}}'
        assert same_in_both({"log": text}) == (("dropped", "") if levels == 500 else ("kept", "too_deep"))
