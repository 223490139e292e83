"""``--split``: a record with a list of events goes on as one record for each event that is left."""

import itertools
import json
import tracemalloc
from datetime import datetime, timezone

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.encoding.codec import JSON, MSGPACK
from plugin.records.event_time import event_time as time_of
from plugin.service.summary import summarize
from tests.plugin.records.test_envelope import azure, event_list, in_both_formats
from tests.support import DROPPED, KEPT, event, event_time, filter_bytes, line

TIMED = event(stageTimestamp="2026-11-24T09:00:00.123456Z")
FULL = event(level="RequestResponse", verb="delete", requestObject={"a": 1}, responseObject={"b": 2})
NO_EVENT = {"kind": "Event", "level": "Metadata", "note": "é"}


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def values(data):
    """The MessagePack values in some bytes, each encoded."""
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(data)
    ends = [0]
    while ends[-1] < len(data):
        unpacker.skip()
        ends.append(unpacker.tell())
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def records_in(data, format):
    return values(data) if format == "msgpack" else data.splitlines(keepends=True)


def split(data, **options):
    return filter_bytes(data, split=True, **options)


@in_both_formats
def test_an_event_list_becomes_its_events(format, write):
    items = event_list(KEPT, DROPPED, NO_EVENT, TIMED)["items"]
    stream, out = split(write(event_list(KEPT, DROPPED, NO_EVENT, TIMED)), format=format)
    assert out == b"".join(map(write, [items[0], items[2], items[3]]))
    counters = stream.counters
    assert (counters.records, counters.kept, counters.rewritten) == (1, 1, 1)
    assert (counters.split, counters.added, counters.not_split, counters.undecided_items) == (1, 2, 0, 1)


@in_both_formats
def test_without_the_option_a_list_stays_a_list(format, write):
    sent = write(event_list(KEPT, TIMED))
    assert filter_bytes(sent, format=format)[1] == sent


@in_both_formats
@pytest.mark.parametrize(
    "record",
    [
        KEPT,
        {"log": json.dumps(KEPT, indent=1), "stream": "stdout"},
        NO_EVENT,
        {"items": []},
        {"items": [NO_EVENT, 5], "log": json.dumps(KEPT)},
        {"log": "text"},
    ],
)
def test_a_record_without_a_list_of_events_keeps_its_bytes(format, write, record):
    stream, out = split(write(record), format=format)
    assert out == write(record)
    assert stream.counters.split == 0


@in_both_formats
def test_nothing_is_left_of_a_list_whose_events_are_all_dropped(format, write):
    stream, out = split(write(event_list(DROPPED, DROPPED)), format=format)
    assert (out, stream.counters.dropped, stream.counters.split) == (b"", 1, 0)


@in_both_formats
def test_even_a_list_of_one_event_is_split(format, write):
    assert split(write(event_list(KEPT)), format=format)[1] == write(event_list(KEPT)["items"][0])


@in_both_formats
@pytest.mark.parametrize("key", [None, "log"])
def test_what_stands_beside_a_list_in_text_is_repeated(format, write, key):
    record = {
        "stream": "stdout",
        "log": json.dumps(event_list(KEPT, DROPPED, TIMED)) + "\n",
        "n": [1.5, None],
    }
    _, out = split(write(record), format=format, event_key=key)
    kept = [json.dumps(item) for item in event_list(KEPT, TIMED)["items"]]
    assert out == b"".join(write({**record, "log": text + "\n"}) for text in kept)


@in_both_formats
def test_each_element_takes_the_place_of_the_list_that_a_path_names(format, write):
    log = json.dumps(event_list(KEPT, DROPPED, TIMED))
    sent = {"n": 1, **azure(json.dumps(KEPT), DROPPED, log, {"no": "event"})}
    stream, out = split(write(sent), format=format, event_key="records[].properties.log")
    inner = [json.dumps(item) for item in event_list(KEPT, TIMED)["items"]]
    expected = azure(json.dumps(KEPT), *inner, {"no": "event"})["records"]
    assert out == b"".join(write({"n": 1, "records": element}) for element in expected)
    assert (stream.counters.split, stream.counters.added) == (1, 3)


def test_a_line_that_is_an_array_becomes_its_elements():
    _, out = split(line([KEPT, DROPPED, TIMED]), format="json", event_key="[]")
    assert out == line(KEPT) + line(TIMED)


@in_both_formats
def test_what_an_agent_has_put_into_the_list_goes_into_each_event(format, write):
    added = {"__tag": "kube.audit", "verb": "none", "n": {"a": [1]}}
    record = {"__time": 1.5, **event_list(KEPT, NO_EVENT, TIMED), **added}
    _, out = split(write(record), format=format)
    expected = [
        {**item, "__time": 1.5, **{name: value for name, value in added.items() if name not in item}}
        for item in record["items"]
    ]
    assert out == b"".join(map(write, expected))


def test_a_map_of_any_size_and_with_any_keys_takes_more_members():
    for size in (0, 14, 15, 16, 65_534, 65_535, 65_536):
        own = {str(number): number for number in range(size)}
        raw = MSGPACK.extended(pack(own), MSGPACK.members(pack({"é": 1, b"b": 2})))
        assert raw == pack({**own, "é": 1, b"b": 2})
    more = JSON.members(b'{"a":1,"b":[ 2 ]}')
    assert JSON.extended(b'{ "x" : 1 }', more) == b'{ "x" : 1 ,"a":1,"b":[ 2 ]}'
    assert JSON.extended(b"{ }", more) == b'{ "a":1,"b":[ 2 ]}'
    assert JSON.extended(b'{"x":1}', {}) == b'{"x":1}'


@in_both_formats
def test_reduced_events_are_split_too(format, write):
    sent = write(event_list(FULL, KEPT, FULL))
    stream, out = split(sent, format=format, reduce=True)
    _, whole = filter_bytes(sent, format=format, reduce=True)
    left = records_in(whole, format)[0]
    read = json.loads if format == "json" else msgpack.unpackb
    assert out == b"".join(map(write, read(left)["items"]))
    assert sum(tally.reduced for tally in stream.counters.tallies()) == 2


EVENTS = st.sampled_from([KEPT, DROPPED, TIMED, FULL, NO_EVENT, {}, {**DROPPED, "auditID": 5}])
WRAPS = [
    (None, event_list, lambda r: r["items"], lambda r: r),
    (
        None,
        lambda *e: {"log": json.dumps(event_list(*e)), "n": 1},
        lambda r: json.loads(r["log"])["items"],
        lambda r: json.loads(r["log"]),
    ),
    ("a.b[]", lambda *e: {"a": {"b": list(e)}, "n": 1}, lambda r: r["a"]["b"], lambda r: r["a"]["b"]),
    (
        "a[].b",
        lambda *e: {"a": [{"b": json.dumps(each)} for each in e]},
        lambda r: [json.loads(each["b"]) for each in r["a"]],
        lambda r: json.loads(r["a"]["b"]),
    ),
    (
        "a[].b",
        lambda *e: {"a": [{"b": event_list(*e)}]},
        lambda r: r["a"][0]["b"]["items"],
        lambda r: r["a"]["b"],
    ),
]


@in_both_formats
@pytest.mark.parametrize(("key", "wrap", "from_list", "from_one"), WRAPS)
@given(events=st.lists(EVENTS, max_size=6), reduce=st.booleans())
def test_the_events_that_come_out_are_those_of_the_list_in_its_order(
    format, write, key, wrap, from_list, from_one, events, reduce
):
    sent = write(wrap(*events)) + write(KEPT)
    options = {"format": format, "event_key": key, "reduce": reduce}
    whole_stream, whole = filter_bytes(sent, **options)
    stream, out = split(sent, **options)
    read = json.loads if format == "json" else msgpack.unpackb
    lists, parts = ([*map(read, records_in(each, format))] for each in (whole, out))
    assert lists.pop() == parts.pop() == KEPT
    if not stream.counters.split:
        assert out == whole
    else:
        assert [*map(from_one, parts)] == from_list(lists[0])
    assert stream.counters.added == len(parts) - len(lists)
    for name in ("records", "kept", "dropped", "undecided", "undecided_items"):
        assert getattr(stream.counters, name) == getattr(whole_stream.counters, name)


def heads_of(out):
    return [pack(msgpack.unpackb(entry)[0]) for entry in values(out)]


@pytest.mark.parametrize("head", [7, 1.5, None, event_time(5, 6), [event_time(5, 6), {"m": "x"}], [9, {}]])
def test_an_entry_gets_its_events_own_time(head):
    received = event(stageTimestamp="soon", requestReceivedTimestamp="2026-11-24T10:00:00.5+01:00")
    items = event_list(TIMED, KEPT, DROPPED, received)["items"]
    _, out = split(pack([head, event_list(TIMED, KEPT, DROPPED, received)]))

    def at(seconds, nanoseconds):
        time = event_time(seconds, nanoseconds)
        return [time, head[1]] if isinstance(head, list) else time

    seconds = int(datetime(2026, 11, 24, 9, tzinfo=timezone.utc).timestamp())
    heads = [at(seconds, 123_456_000), head, at(seconds, 500_000_000)]
    left = [items[0], items[1], items[3]]
    assert out == b"".join(pack([own, item]) for own, item in zip(heads, left, strict=True))


def test_the_time_of_an_event_in_text_is_found():
    key = "records[].properties.log"
    for log in (json.dumps(TIMED), json.dumps(event_list(TIMED, TIMED)), event_list(TIMED), TIMED):
        _, out = split(pack([7, azure(log, "text", log)]), event_key=key)
        times = heads_of(out)
        middle = len(times) // 2
        assert times[middle] == pack(7)
        assert {*times[:middle], *times[middle + 1 :]} == {pack(event_time(1795510800, 123_456_000))}


def test_entries_with_headers_of_any_size_are_split():
    body = pack(event_list(KEPT, TIMED))
    _, out = split(b"\xdd\0\0\0\2" + b"\xdd\0\0\0\2" + pack(event_time(5)) + pack({"m": 1}) + body)
    assert [msgpack.unpackb(entry)[0][1] for entry in values(out)] == [{"m": 1}, {"m": 1}]
    assert heads_of(out)[1] == pack([event_time(1795510800, 123_456_000), {"m": 1}])


TIMES = [
    ("1970-01-01T00:00:00Z", (0, 0)),
    ("2024-02-29t23:59:59.9z", (1709251199, 900_000_000)),
    ("2026-11-24T09:00:00.1234567899Z", (1795510800, 123_456_789)),
    ("2026-11-24T09:00:00-00:30", (1795512600, 0)),
    ("2106-02-07T06:28:13Z", (0xFFFFFFFD, 0)),
    ("2106-02-07T06:28:14Z", None),
    ("2106-02-07T06:28:15.000000Z", None),
    ("1969-12-31T23:59:59Z", None),
    ("1970-01-01T00:30:00+01:00", None),
    ("0001-01-01T00:00:00Z", None),
    ("9999-12-31T23:59:59-23:59", None),
    ("2023-02-29T00:00:00Z", None),
    ("2026-13-01T00:00:00Z", None),
    ("2026-11-00T00:00:00Z", None),
    ("2026-11-24T24:00:00Z", None),
    ("2026-11-24T09:60:00Z", None),
    ("2026-11-24T09:00:60Z", None),
    ("2026-11-24T09:00:00", None),
    ("2026-11-24T09:00:00.Z", None),
    ("2026-11-24T09:00:00123Z", None),
    ("2026-11-24T09:00:00Zx", None),
    ("2026-11-24T09:00:00+0100", None),
    ("2026-11-24 09:00:00Z", None),
    ("٢026-11-24T09:00:00Z", None),
    ("2026-11-24T09:00:00." + "1" * 60 + "Z", None),
    ("", None),
    (1795510800, None),
    (None, None),
]


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_a_time_is_read_as_rfc_3339(text, expected):
    for codec, write in ((MSGPACK, pack), (JSON, line)):
        found = time_of(codec, write({"stageTimestamp": text}), ())
        assert found == (None if expected is None else pack(event_time(*expected)))


START, END = pack([[event_time(0xFFFFFFFF), {"g": 1}], {}]), pack([[event_time(0xFFFFFFFE), {}], {}])


def test_the_markers_of_a_group_stay_around_what_its_records_are_split_into():
    entries = pack([[7, {}], event_list(KEPT, DROPPED, KEPT)])
    _, out = split(START + entries + END)
    assert values(out)[0] == START
    assert values(out)[-1] == END
    assert len(values(out)) == 4
    stream, out = split(START + pack([[7, {}], event_list(DROPPED)]) + END + pack(KEPT))
    assert (out, stream.counters.dropped_markers) == (pack(KEPT), 2)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \n", b""])
def test_each_line_gets_its_end(end):
    kept = [json.dumps(item).encode() for item in event_list(KEPT, TIMED)["items"]]
    sent = b"\xef\xbb\xbf " + json.dumps(event_list(KEPT, TIMED)).encode() + end
    between = end if end == b"\r\n" else b"\n"
    assert split(sent, format="json")[1] == b"\xef\xbb\xbf " + kept[0] + between + kept[1] + end


@in_both_formats
@pytest.mark.parametrize("odd", [5, None, "text", [KEPT]])
def test_a_list_stays_whole_if_an_element_could_not_be_a_record(format, write, odd):
    sent = write({"items": [KEPT, odd, DROPPED]})
    stream, out = split(sent, format=format)
    assert out == filter_bytes(sent, format=format)[1] == write({"items": [KEPT, odd]})
    assert (stream.counters.split, stream.counters.not_split) == (0, 1)
    sent = write({"items": [KEPT, odd]})
    assert split(sent, format=format)[1] == sent
    # In text under a key, it can.
    sent = write({"log": json.dumps({"items": [KEPT, odd]})})
    assert split(sent, format=format)[1] == write({"log": json.dumps(KEPT)}) + write({"log": json.dumps(odd)})


@in_both_formats
@pytest.mark.parametrize(
    "wrap",
    [
        lambda events, rest: {"log": json.dumps({"items": events}), "rest": rest},
        lambda events, rest: {"items": events, "rest": rest},
        lambda events, rest: {"log": json.dumps({"items": events, "rest": rest})},
        lambda events, rest: {"log": {"items": events}, "a": {"rest": rest}},
    ],
)
def test_a_record_stays_whole_if_its_parts_would_repeat_too_much(format, write, wrap):
    events = [KEPT] * 100 + [DROPPED]
    little, much = write(wrap(events, "x" * 500)), write(wrap(events, "x" * 5000))
    stream, out = split(little, format=format)
    assert (stream.counters.split, stream.counters.added) == (1, 99)
    assert len(out) <= 4 * len(little)
    stream, out = split(much, format=format)
    assert out == filter_bytes(much, format=format)[1] != much
    assert (stream.counters.split, stream.counters.not_split, stream.counters.kept) == (0, 1, 1)


def test_metadata_of_entries_is_bounded_too():
    entry = pack([[7, {"m": "x" * 5000}], event_list(*[KEPT] * 100)])
    stream, out = split(entry)
    assert (out, stream.counters.not_split) == (entry, 1)


def test_a_list_of_many_small_elements_takes_no_more_memory_than_the_bound():
    sent = pack({"items": [KEPT] + [{}] * 190_000, "rest": "x" * 190_000})
    tracemalloc.start()
    stream, out = split(sent)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (out, stream.counters.not_split) == (sent, 1)
    assert peak < 64 << 20  # without the option, it is 18 MB


def test_the_summary_says_how_many_records_were_split_into_how_many():
    data = pack(event_list(KEPT, KEPT)) + pack(event_list(KEPT)) + pack({"items": [KEPT, 5]})
    stream, _ = split(data)
    assert (
        "records in=3 kept=3 dropped=0 undecided=0 rewritten=2 reduced=0 split=2 split_into=3 not_split=1"
        in (summarize(stream.counters))
    )
