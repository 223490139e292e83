"""Where the event is in a record, and what is left of a record that holds several."""

import json
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.records.event_path import EACH, parse_event_path
from tests.support import DROPPED, KEPT, filter_bytes, line, run_exec, why_undecided


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


WRITERS = [("msgpack", pack), ("json", line)]
in_both_formats = pytest.mark.parametrize(("format", "write"), WRITERS, ids=["msgpack", "json"])


def azure(*events):
    """An Event Hub batch as Azure's diagnostic settings send it."""
    return {"records": [{"category": "kube-audit", "properties": {"log": event}} for event in events]}


def event_list(*events):
    items = [
        {key: value for key, value in event.items() if key not in ("kind", "apiVersion")} for event in events
    ]
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}


WRAPPED = [
    (None, lambda e: e),
    (None, lambda e: {"log": json.dumps(e), "stream": "stdout"}),
    (None, lambda e: {"message": json.dumps(e) + "\n", "time": 1}),
    (None, lambda e: {"log": e}),
    (None, event_list),
    (None, lambda e: {"message": json.dumps(event_list(e))}),
    ("log", lambda e: {"log": json.dumps(e, indent=2)}),
    ("body", lambda e: {"body": event_list(e)}),
    ("a.b", lambda e: {"a": {"b": e}}),
    ("a.b", lambda e: {"a": json.dumps({"b": json.dumps(e)})}),
    (r"a\.b", lambda e: {"a.b": e}),
    ("records[].properties.log", azure),
    ("records[].properties.log", lambda e: azure(json.dumps(e))),
]


@in_both_formats
@pytest.mark.parametrize(("key", "wrap"), WRAPPED)
def test_an_event_is_found(format, write, key, wrap):
    kept, dropped = write(wrap(KEPT)), write(wrap(DROPPED))
    result, out = filter_bytes(kept + dropped + kept, format=format, event_key=key)
    assert out == kept * 2
    assert (result.counters.kept, result.counters.dropped, result.counters.undecided_records) == (2, 1, 0)


def test_a_line_may_be_an_array_of_events():
    sent = line([KEPT, DROPPED])
    assert json.loads(filter_bytes(sent, format="json", event_key="[]")[1]) == [KEPT]
    assert filter_bytes(sent, format="json")[1] == sent


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"log": None},
        {"log": "I0501 12:00:00.000000 1 klog.go:1] text"},
        {"log": '{"auditID": "cut off'},
        {"log": "[]", "message": "{}"},
        {"log": json.dumps({**DROPPED, "auditID": 5})},
        {"items": [{"kind": "Pod"}, 1, None]},
        {"items": {}},
        {"nested": DROPPED},
        {**DROPPED, "verb": ["list"]},
    ],
)
@in_both_formats
def test_what_holds_no_event_passes_and_is_counted(format, write, record):
    result, out = filter_bytes(write(record), format=format)
    assert out == write(record)
    assert (result.counters.records, result.counters.undecided_records) == (1, 1)


def test_a_key_may_be_called_like_the_sign_for_each_element():
    assert filter_bytes(pack({"[]": DROPPED}), event_key=r"\[\]")[1] == b""


@in_both_formats
def test_a_named_key_is_the_only_place_that_is_looked_at(format, write):
    records = [DROPPED, {"log": DROPPED}, {"event": "text"}, {"event": [DROPPED]}]
    sent = b"".join(map(write, records))
    result, out = filter_bytes(sent, format=format, event_key="event")
    assert out == sent
    assert result.counters.undecided_records == len(records)


def test_a_named_key_is_looked_at_alone_in_json_that_only_a_lenient_reader_takes():
    sent = line({"odd": float("nan"), **DROPPED})
    result, out = filter_bytes(sent, format="json", event_key="log")
    assert (out, why_undecided(result)) == (sent, "undecodable=1")


PARTS = [
    (None, event_list, lambda r: r["items"]),
    ("records[].properties.log", azure, lambda r: [item["properties"]["log"] for item in r["records"]]),
    (
        "records[].properties.log",
        lambda *events: azure(*map(json.dumps, events)),
        lambda r: [json.loads(item["properties"]["log"]) for item in r["records"]],
    ),
    (None, lambda *e: {"log": json.dumps(event_list(*e))}, lambda r: json.loads(r["log"])["items"]),
]


@in_both_formats
@pytest.mark.parametrize(("key", "wrap", "unwrap"), PARTS)
def test_of_several_events_only_the_kept_ones_go_on(format, write, key, wrap, unwrap):
    read = msgpack.unpackb if format == "msgpack" else json.loads
    sent = wrap(KEPT, DROPPED, KEPT)
    result, out = filter_bytes(write(sent), format=format, event_key=key)
    assert unwrap(read(out)) == unwrap(wrap(KEPT, KEPT))
    assert out.endswith(b"\n") is (format == "json")
    assert result.counters.rewritten == 1

    everything_kept = write(wrap(KEPT, KEPT))
    assert filter_bytes(everything_kept, format=format, event_key=key)[1] == everything_kept
    nothing_kept, out = filter_bytes(write(wrap(DROPPED, DROPPED)), format=format, event_key=key)
    assert (out, nothing_kept.counters.dropped) == (b"", 1)


def test_what_is_no_event_stays_in_a_list():
    sent = {"items": [DROPPED, {"kind": "Pod"}, 7, "{not json"]}
    assert msgpack.unpackb(filter_bytes(pack(sent))[1]) == {"items": [{"kind": "Pod"}, 7, "{not json"]}


@pytest.mark.parametrize(("format", "write"), WRITERS)
def test_arrays_of_very_many_values_are_not_taken_apart(format, write):
    many = list(range(100)) * 10_000
    for record in ({"items": many}, {"items": [*many, KEPT, DROPPED]}):
        sent = write(record)
        tracemalloc.start()
        result, out = filter_bytes(sent, format=format, max_record_size=1 << 26)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert out == sent
        assert result.counters.undecided_records == 1
        assert peak < 12 * len(sent)


def test_text_that_is_not_utf_8_is_rewritten_all_the_same():
    inner = json.dumps({"items": [KEPT, DROPPED]}).replace("web", "w\u00ff").encode("latin-1")
    record = b"\x81\xa3log\xda" + len(inner).to_bytes(2, "big") + inner
    result, out = filter_bytes(record)
    assert b"w\xff" in out
    assert b"kube-proxy" not in out
    assert (result.counters.kept, result.counters.rewritten) == (1, 1)


def test_what_is_around_a_dropped_item_keeps_its_bytes():
    """float32, wide integers, ext types, bin and invalid UTF-8 come out as they went in."""
    odd = b"\x83\xa1a\xca\x3f\x80\x00\x00\xa1b\xcf" + bytes(7) + b"\x01\xc4\x01c\xd6\x05abcd"
    dropped = pack(DROPPED)
    kept = pack({**KEPT, "x": "abc"}).replace(b"\xa3abc", b"\xa3a\xffc")

    def record(*items):
        return (
            b"\x83\xa3odd" + odd + b"\xa5items" + bytes([0x90 | len(items)]) + b"".join(items) + b"\x07\xc0"
        )

    assert filter_bytes(record(dropped, kept, dropped))[1] == record(kept)


@pytest.mark.parametrize("as_bin", [str.encode, str])
def test_strings_and_keys_may_be_bin(as_bin):
    def convert(value):
        if isinstance(value, dict):
            return {as_bin(key): convert(item) for key, item in value.items()}
        if isinstance(value, list):
            return [convert(item) for item in value]
        return as_bin(value) if isinstance(value, str) else value

    for record in (convert(KEPT), convert({"log": json.dumps(KEPT)}), convert({"log": KEPT})):
        assert filter_bytes(pack(record))[1] == pack(record)
    for record in (convert(DROPPED), convert({"message": json.dumps(DROPPED)}), convert({"log": DROPPED})):
        assert filter_bytes(pack(record))[1] == b""
    rewritten = filter_bytes(pack(convert({"log": json.dumps({"items": [KEPT, DROPPED]})})))[1]
    ((key, value),) = msgpack.unpackb(rewritten).items()
    assert (type(key), type(value)) == (type(as_bin("log")),) * 2
    assert json.loads(value)["items"] == [KEPT]


@pytest.mark.parametrize("length", [40, 255, 256, 65535, 65536])
@pytest.mark.parametrize("as_bin", [str.encode, str])
def test_json_text_may_be_a_string_of_any_size(as_bin, length):
    """Each of the sizes has a header of its own, in str and in bin."""
    dropped = {"log": as_bin('{"auditID":"","verb":"put","user":{}}'.ljust(length))}
    assert filter_bytes(pack(dropped))[1] == b""
    kept = {"log": as_bin('{"auditID":"","verb":"get","user":{}}'.ljust(length))}
    assert filter_bytes(pack(kept))[1] == pack(kept)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("log", ("log",)),
        ("a.b", ("a", "b")),
        ("records[].properties.log", ("records", EACH, "properties", "log")),
        ("[][].log", (EACH, EACH, "log")),
        (r"a\.b.c\[\]", ("a.b", "c[]")),
    ],
)
def test_event_paths(text, steps):
    assert parse_event_path(text) == steps


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a[", "a[0]", "a]", "a[]b", "a.[]", "a\\"])
def test_a_wrong_event_path_is_explained(text):
    with pytest.raises(ValueError, match="character"):
        parse_event_path(text)
    result = run_exec(b"", "--policy", "builtin:recommended", "--event-key", text)
    assert result.returncode == 1
    assert b"--event-key" in result.stderr
    assert b"Traceback" not in result.stderr


@given(st.text(max_size=20))
def test_any_text_is_an_event_path_or_refused(text):
    try:
        steps = parse_event_path(text)
    except ValueError:
        return
    assert steps
    assert "" not in steps
