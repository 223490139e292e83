"""Records of every framing, cut anywhere: out come exactly the bytes of those that are kept."""

import json
import math
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import PolicyEvaluator
from filter_engine.request import is_event
from plugin.records.limits import Limits
from tests.support import (
    CAPTURES,
    DROPPED,
    KEPT,
    event,
    event_time,
    filter_bytes,
    line,
    make_stream,
    policy,
    why_undecided,
)

EVALUATOR = PolicyEvaluator(policy())

NAMES = ["", "alice", "system:kube-proxy", "kept", "pods", "secrets", "log", "noisy", "developers", "é\u0000"]
names = st.sampled_from(NAMES)
text = names | st.binary(max_size=4) | names.map(str.encode)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text
odd = scalars | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
keys = names | names.map(str.encode) | st.integers(-5, 5)
anything = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def loosely(strategy):
    """Mostly what belongs there, now and then anything at all."""
    return st.one_of(strategy, strategy, strategy, anything)


def optional_keys(fields):
    return st.fixed_dictionaries({}, optional=fields)


events = st.builds(
    lambda needed, rest, junk: {**junk, **rest, **needed},
    st.fixed_dictionaries(
        {
            "auditID": names,
            "verb": st.sampled_from(["get", "list", "create", "watch", ""]),
            "user": loosely(
                optional_keys(
                    {"username": loosely(names), "groups": loosely(st.lists(loosely(names), max_size=3))}
                )
            ),
        }
    ),
    optional_keys(
        {
            "stage": loosely(st.sampled_from(["RequestReceived", "ResponseComplete"])),
            "requestURI": loosely(st.sampled_from(["/healthz/x?y", "/version", "/%76ersion", "/api"])),
            "objectRef": loosely(
                optional_keys(
                    {k: loosely(names) for k in ("resource", "subresource", "namespace", "name", "apiGroup")}
                )
            ),
            "level": loosely(st.sampled_from(["None", "Metadata", "Request", "info"])),
        }
    ),
    st.dictionaries(keys, anything, max_size=3),
)
bodies = events | st.dictionaries(keys, anything, max_size=4)
times = (
    st.integers(0, 2**32)
    | st.floats(0, 2**33)
    | st.builds(event_time, st.integers(0, 2**31), st.integers(0, 999_999_999))
)
heads = times | st.tuples(times, st.dictionaries(names, scalars, max_size=2))
records = bodies | st.tuples(heads, bodies)


def as_text(value):
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def with_text_keys(value):
    """As a reader sees a value: keys are text, and an ext is not the pair that msgpack makes of it."""
    if isinstance(value, msgpack.ExtType):
        return 0.5
    return {as_text(k): with_text_keys(v) for k, v in value.items()} if isinstance(value, dict) else value


def is_kept(record):
    """What the policy says, straight from the evaluator; what is no event is kept."""
    body = record[1] if isinstance(record, tuple) else record
    readable = with_text_keys(body)
    return not is_event(readable) or EVALUATOR.evaluate(readable).keep


def pack(record):
    return msgpack.packb(record, use_bin_type=True)


def expected_bytes(stream):
    """``stream`` holds records, and lists of records: groups."""
    out = b""
    for item in stream:
        if not isinstance(item, list):
            out += pack(item) if is_kept(item) else b""
        elif kept := b"".join(pack(record) for record in item if is_kept(record)):
            out += GROUP_START + kept + GROUP_END
    return out


GROUP_START = pack([[event_time(-1), {"schema": "otlp"}], {"resource": {}}])
GROUP_END = pack([[event_time(-2), {}], {}])


def encoded(stream):
    return b"".join(
        GROUP_START + b"".join(map(pack, item)) + GROUP_END if isinstance(item, list) else pack(item)
        for item in stream
    )


@settings(max_examples=300)
@given(data=st.data(), stream=st.lists(records | st.lists(records, max_size=3), max_size=8))
def test_kept_records_leave_byte_for_byte_however_the_input_is_cut(data, stream):
    sent = encoded(stream)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=6))
    result, out = filter_bytes(sent, cuts=cuts)
    assert out == expected_bytes(stream)
    assert result.error is None
    totals = result.counters
    count = sum(len(item) if isinstance(item, list) else 1 for item in stream)
    assert totals.records == count == totals.kept + totals.dropped + result.counters.undecided_records
    assert (totals.bytes_in, totals.bytes_out) == (len(sent), len(out))
    assert_undecided_add_up(result)


def assert_undecided_add_up(stream):
    reasons = dict(part.split("=") for part in why_undecided(stream).split())
    assert sum(map(int, reasons.values())) == stream.counters.undecided_records


json_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
json_junk = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
json_events = st.builds(
    lambda verb, user, ref, junk: {**junk, **event(verb=verb, user=user, objectRef=ref)},
    names,
    json_junk | st.fixed_dictionaries({"username": names, "groups": st.lists(names, max_size=2)}),
    json_junk | st.fixed_dictionaries({"resource": names, "namespace": names}),
    st.dictionaries(st.text(max_size=3), json_junk, max_size=2),
)
not_json = st.sampled_from(
    [b"", b"   ", b"I0501 12:00:00 klog line", b"{broken", b"[1,2]", b"3", b'"x"', b"\xff{"]
)
endings = st.sampled_from([b"\n", b"\r\n", b" \n"])


@settings(max_examples=200)
@given(data=st.data(), lines=st.lists(st.tuples(json_events | not_json, endings), max_size=8))
def test_kept_lines_leave_byte_for_byte_however_the_input_is_cut(data, lines):
    sent = kept = b""
    for content, ending in lines:
        is_text = isinstance(content, bytes)
        encoded_line = (content if is_text else json.dumps(content).encode()) + ending
        sent += encoded_line
        kept += encoded_line if is_text or not is_event(content) or EVALUATOR.evaluate(content).keep else b""
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=6))
    result, out = filter_bytes(sent, format="json", cuts=cuts)
    assert out == kept
    assert result.counters.records == len(lines)
    assert_undecided_add_up(result)


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_one_byte_at_a_time(format):
    write = pack if format == "msgpack" else line
    sent = write(KEPT) + write(DROPPED) + write(KEPT)
    result, out = filter_bytes(sent, format=format, cuts=range(1, len(sent)))
    assert out == write(KEPT) * 2
    assert result.counters.dropped == 1


@pytest.mark.parametrize(
    ("name", "framed"),
    [
        ("fluentd-1.18.0-exec_filter-stdin.msgpack", False),
        ("fluent-bit-5.1.1-events.msgpack", True),
    ],
)
def test_bytes_that_real_agents_wrote(name, framed):
    """All 25 events are found in what the agent wrote, and each is decided as its JSON is."""
    sent = (CAPTURES / name).read_bytes()
    inputs = [json.loads(text) for text in (CAPTURES / "input.jsonl").read_text().splitlines()]
    result, out = filter_bytes(sent)
    records = list(unpack_all(out))
    bodies = [record[1] if framed else record for record in records]
    kept = [item["auditID"] + item["stage"] for item in inputs if EVALUATOR.evaluate(item).keep]
    assert [body["auditID"] + body["stage"] for body in bodies] == kept
    assert 0 < len(kept) < len(inputs) == result.counters.records
    assert result.counters.undecided_records == 0


def unpack_all(data):
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data)
    return unpacker


def test_json_captured_input_is_decided_whole():
    sent = (CAPTURES / "input.jsonl").read_bytes()
    result, _ = filter_bytes(sent, format="json")
    assert (result.counters.records, result.counters.undecided_records) == (25, 0)


def test_a_json_line_may_start_with_a_byte_order_mark_and_end_without_newline():
    sent = b"\xef\xbb\xbf" + line(DROPPED) + b"\xef\xbb\xbf" + line(KEPT) + line(DROPPED).rstrip()
    assert filter_bytes(sent, format="json")[1] == b"\xef\xbb\xbf" + line(KEPT)


def test_a_group_left_empty_goes_with_its_markers():
    dropped, kept = pack([event_time(1), DROPPED]), pack([event_time(1), KEPT])
    sent = GROUP_START + dropped + GROUP_END + GROUP_START + dropped + kept + dropped + GROUP_END
    result, out = filter_bytes(sent)
    assert out == GROUP_START + kept + GROUP_END
    assert (result.counters.records, result.counters.dropped_markers) == (4, 2)


def test_a_list_of_which_something_is_left_keeps_its_group():
    def entry(*items):
        return pack([event_time(1), {"items": items}])

    sent = GROUP_START + entry(DROPPED, KEPT) + GROUP_END
    assert filter_bytes(sent)[1] == GROUP_START + entry(KEPT) + GROUP_END


def test_what_is_no_event_keeps_its_group():
    other = pack([event_time(1), {"log": "not an event"}])
    sent = GROUP_START + other + GROUP_END
    assert filter_bytes(sent)[1] == sent


def test_a_group_start_waits_for_a_kept_record_but_not_for_the_next_read():
    stream = make_stream()
    kept = pack([event_time(1), KEPT])
    assert stream.feed(GROUP_START) == []
    assert b"".join(stream.feed(kept)) == GROUP_START + kept


def test_a_group_without_an_end_keeps_its_start():
    assert filter_bytes(GROUP_START)[1] == GROUP_START
    assert filter_bytes(GROUP_START + GROUP_START + pack([event_time(1), KEPT]))[1].startswith(
        GROUP_START * 2
    )


def test_pairs_that_are_no_log_entry_pass():
    for record in (
        ["tag", DROPPED],
        [True, DROPPED],
        [{}, DROPPED],
        [["tag", {}], DROPPED],
        [1, DROPPED, {}],
        [[1, {}, 2], 3],
    ):
        result, out = filter_bytes(pack(record))
        assert out == pack(record)
        assert result.counters.undecided_records == 1


@given(extra=st.binary(max_size=30), data=st.data())
def test_malformed_bytes_end_the_stream_after_what_came_before(extra, data):
    good = pack(KEPT) + pack(DROPPED)
    sent = good + b"\xc1" + extra
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=3))
    result, out = filter_bytes(sent, cuts=cuts)
    assert out == pack(KEPT)
    assert f"offset {len(good)}:" in result.error


@given(cut=st.integers(1, 400))
def test_a_cut_off_last_record_is_an_error_after_what_came_before(cut):
    record = pack(KEPT)
    cut = min(cut, len(record) - 1)
    result, out = filter_bytes(pack(KEPT) + record[:cut])
    assert out == pack(KEPT)
    assert f"{cut} bytes from offset {len(record)}" in result.error


def test_a_cut_off_last_line_is_an_error_but_text_is_not():
    result, out = filter_bytes(line(KEPT) + line(KEPT)[:50], format="json")
    assert out == line(KEPT)
    assert f"50 bytes from offset {len(line(KEPT))}" in result.error
    result, out = filter_bytes(line(KEPT) + b"text", format="json")
    assert (out, result.error) == (line(KEPT) + b"text", None)


nested = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20), max_leaves=30
)


@pytest.mark.parametrize(("format", "write"), [("msgpack", pack), ("json", line)])
def test_a_user_without_a_name_is_told_from_no_user_by_its_groups(format, write):
    text = "apiVersion: audit.k8s.io/v1\nrules: [{level: None, users: ['']}, {level: Metadata}]"
    sent = [event(user={"groups": ["g"]}), event(user={}), event(user=None), event(user={"username": ""})]
    _, out = filter_bytes(b"".join(map(write, sent)), format=format, policy_text=text)
    assert out == b"".join(map(write, sent[1:]))


@settings(max_examples=200)
@given(data=st.data(), large=nested)
def test_a_record_over_the_limit_passes_undecided_and_the_next_ones_are_decided(data, large):
    record = pack({"large": large, "filler": bytes(80), **DROPPED})
    sent = pack(KEPT) + record + pack(DROPPED) + pack(KEPT)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8))
    limit = max(len(pack(KEPT)), len(pack(DROPPED)))
    result, out = filter_bytes(sent, cuts=cuts, max_record_size=limit)
    # Whether the large one is held depends on where the input is cut; it never breaks the stream.
    was_held = result.counters.undecided_records == 0
    assert out == pack(KEPT) + (b"" if was_held else record) + pack(KEPT)
    assert result.counters.records == 4


def test_a_record_over_the_limit_is_not_held():
    stream = make_stream(max_record_size=1000)
    header = b"\x82\xa1a\xda\xff\xff"
    assert b"".join(stream.feed(header)) == b""
    written = sum(len(b"".join(stream.feed(bytes(500)))) for _ in range(10))
    assert written == len(header) + 5000
    assert why_undecided(stream) == "too_large=1"
    assert "its first part has been written" in (stream.finish(), stream.error)[1]


def test_a_line_over_the_limit_is_not_held():
    sent = line(KEPT) + b'{"a":"' + b"x" * 5000 + b'"}\n' + line(DROPPED) + line(KEPT)
    result, out = filter_bytes(sent, format="json", cuts=range(100, len(sent), 100), max_record_size=1000)
    assert out == sent.replace(line(DROPPED), b"")
    assert (why_undecided(result), result.counters.records) == ("too_large=1", 4)


def test_a_header_that_claims_gigabytes_is_not_waited_for():
    stream = make_stream(max_record_size=1000)
    claim = b"\x81\xa1a\xdb\xff\xff\xff\xff"
    out = b"".join(b"".join(stream.feed(piece)) for piece in (pack(KEPT) + claim, bytes(2000), bytes(2000)))
    assert out == pack(KEPT) + claim + bytes(4000)


@pytest.mark.parametrize("depth", [900, 1100, 5000])
def test_nesting_of_any_depth_passes_and_the_next_record_is_decided(depth):
    deep = b"\x91" * depth + b"\xc0"
    record = b"\x83" + b"".join(map(pack, ("auditID", "x", "verb", "get", "body"))) + deep
    result, out = filter_bytes(record + pack(DROPPED) + pack(KEPT))
    assert out == record + pack(KEPT)
    assert result.counters.records == 3
    nested_json = b'{"auditID":"x","verb":"get","body":' + b"[" * depth + b"]" * depth + b"}\n"
    assert filter_bytes(nested_json + line(DROPPED), format="json")[1] == nested_json


def test_a_last_line_that_is_wrong_but_not_cut_off_passes():
    for text in (b"{'a':1}", b'{"a":1}}', b'{"auditID":"a","verb":"update","user":{}} x', b"{ klog"):
        result, out = filter_bytes(line(KEPT) + text, format="json")
        assert (out, result.error) == (line(KEPT) + text, None)
        assert why_undecided(result) == "undecodable=1"


BAD_TIMESTAMP = b"\xd7\xff" + b"\xff" * 8


@pytest.mark.parametrize(
    ("field", "broken", "readable"),
    [
        ("user", b"\x81\xa8username" + BAD_TIMESTAMP, {}),
        ("user", b"\x81\x80\x01", {}),
        ("objectRef", b"\x81\xa8resource" + BAD_TIMESTAMP, {}),
        ("requestURI", BAD_TIMESTAMP, ""),
        ("stage", BAD_TIMESTAMP, ""),
    ],
)
@pytest.mark.parametrize("base", [KEPT, DROPPED], ids=["kept", "dropped"])
def test_a_field_that_cannot_be_read_counts_as_absent(field, broken, readable, base):
    record = pack({**base, field: "FIELD"}).replace(pack("FIELD"), broken)
    result, out = filter_bytes(pack(DROPPED) + record)
    assert (out != b"") is EVALUATOR.evaluate({**base, field: readable}).keep
    assert why_undecided(result) == ""


def test_parts_of_an_event_that_no_rule_reads_may_be_unreadable():
    """A user's extra fields, deeper than can be decoded or with a map as a key."""
    user = {"username": "system:kube-proxy", "extra": "EXTRA"}
    for odd in (b"\x91" * 500 + b"\x01", b"\x81\x80\x01", BAD_TIMESTAMP):
        record = pack({**DROPPED, "user": user}).replace(pack("EXTRA"), odd)
        result, out = filter_bytes(pack(KEPT) + record)
        assert (out, result.counters.undecided_records) == (pack(KEPT), 0)
    deep = line({**DROPPED, "user": user}).replace(b'"EXTRA"', b"[" * 500 + b"]" * 500)
    long = line({**DROPPED, "user": user}).replace(b'"EXTRA"', b"9" * 5000)
    assert filter_bytes(deep + long, format="json")[1] == b""


HEADS = [-1, -5, 0, 1.5, "t", None, True, [1, {}], [-1, {}], msgpack.ExtType(5, b"a" * 300)]


@pytest.mark.parametrize(
    "head", [*HEADS, event_time(1), event_time(-1), event_time(-2), [event_time(-2), {}]]
)
def test_what_an_entry_is_does_not_depend_on_what_comes_with_it(head):
    record = pack([head, DROPPED])
    alone, first, second = (
        filter_bytes(sent)[1].replace(pack(KEPT), b"")
        for sent in (record, record + pack(KEPT), pack(KEPT) + record)
    )
    assert alone == first == second


def test_the_first_error_of_a_stream_is_the_one_that_counts():
    stream = make_stream()
    for piece in (pack(KEPT) + b"\x81", b"\xa1a\xc1"):
        stream.feed(piece)
    assert stream.finish() == []
    assert "malformed" in stream.error


@pytest.mark.parametrize("memo_size", [3000, 0])
def test_decisions_stay_right_when_the_memory_of_them_is_emptied(memo_size):
    text = (
        'apiVersion: audit.k8s.io/v1\nrules:\n- {level: None, users: [u1, u2, "\\0"]}\n'
        "- {level: None, userGroups: [g1, g3]}\n- {level: None, nonResourceURLs: [/p1*]}\n"
        "- {level: Metadata}\n"
    )
    evaluator = PolicyEvaluator(policy(text))
    stream = make_stream(policy_text=text, limits=Limits(memo_size=memo_size))
    kept = sent = b""
    for index in range(3000):
        user = {"username": f"u{index % 7}" if index % 5 else "\0", "groups": [f"g{index % 11}"]}
        ref = {"resource": f"r{index % 13}"} if index % 3 else None
        record = event(user=user, objectRef=ref, requestURI=f"/p{index % 17}")
        sent += pack(record)
        kept += pack(record) if evaluator.evaluate(record).keep else b""
    assert filter_bytes(sent, stream=stream, cuts=range(0, len(sent), 5000))[1] == kept


@pytest.mark.parametrize("odd", [math.nan, math.inf, "\ud800"])
@pytest.mark.parametrize("wrap", [dict, lambda event: {"log": json.dumps(event)}], ids=["bare", "log"])
def test_what_is_no_json_is_undecodable_wherever_it_stands(odd, wrap):
    sent = line(wrap({"odd": odd, **DROPPED}))
    result, out = filter_bytes(sent, format="json")
    assert (out, why_undecided(result)) == (sent, "undecodable=1")


def test_json_with_large_numbers_and_invalid_utf8_is_decided():
    assert filter_bytes(line({"odd": 10**400, **DROPPED}), format="json")[1] == b""
    invalid_utf8 = line(DROPPED).replace(b"ResponseComplete", b"Response\xff")
    assert filter_bytes(invalid_utf8, format="json")[1] == b""


@pytest.mark.parametrize(("count", "length"), [(40_000, 1500), (1500, 200_000)])
def test_decisions_are_remembered_in_bounded_memory(count, length):
    """Scanners make every path a new one, and as long as they like."""
    stream = make_stream(max_record_size=1 << 20)
    dropped = {"auditID": "x", "verb": "get", "user": {}}
    tracemalloc.start()
    try:
        for index in range(count):
            record = pack({**dropped, "requestURI": f"/healthz/{index}".ljust(length, "x")})
            assert stream.feed(record) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 32 << 20
    assert stream.counters.dropped == count
