"""What bounds the filter: sizes that records claim, nesting, long lists."""

import json
import os
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.encoding.nesting import has_more_items, is_deeper
from plugin.records.limits import Limits
from plugin.service.summary import summarize
from tests.support import DROPPED, KEPT, event, filter_bytes, line, make_stream, run_exec, why_undecided
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    filtering,
    read_exactly,
    status_of,
)

HUGE = b"\xff\xff\xff\xff"
CLAIMS = {
    "str 32": b"\xdb" + HUGE + b"text",
    "bin 32": b"\xc6" + HUGE,
    "ext 32": b"\xc9\xff\xff\xff\xf0\x05data",
    "array 32": b"\xdd" + HUGE + b"\x01\x02",
    "map 32": b"\xdf" + HUGE + b"\xa1k\x01",
    "a string in a map": b"\x82\xa1a\x01\xa1b\xdb" + HUGE,
    "an array in arrays": b"\x92\x92\x01\xdd\x7f\xff\xff\xff\xc0",
    "just over the limit": b"\xdb" + (1 << 20).to_bytes(4, "big"),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_record_that_claims_more_than_can_be_held_is_let_go_with_all_that_follows(claim):
    stream = make_stream()
    assert b"".join(stream.feed(KEPT_RECORD + claim)) == KEPT_RECORD
    assert stream.held_from == len(KEPT_RECORD)
    assert b"".join(stream.give_up()) == claim
    assert stream.held_from is None
    assert why_undecided(stream) == "too_large=1"
    # There is no way to tell where it ends but by its own claim.
    assert b"".join(stream.feed(DROPPED_RECORD)) == DROPPED_RECORD
    assert stream.give_up() == []
    assert (stream.counters.records, stream.counters.bytes_out) == (
        2,
        len(KEPT_RECORD + claim + DROPPED_RECORD),
    )
    assert stream.finish() == []
    assert "its first part has been written" in stream.error


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_records_behind_one_that_was_let_go_are_decided_again(size):
    claim = b"\xc6" + size.to_bytes(4, "big")
    stream = make_stream(max_record_size=4000)
    out = stream.feed(claim + b"x" * 10) + stream.give_up()
    out += stream.feed(b"x" * (size - 10) + DROPPED_RECORD + KEPT_RECORD)
    assert b"".join(out) == claim + b"x" * size + KEPT_RECORD
    assert stream.finish() == []
    assert stream.error is None


@given(cut=st.integers(1, len(DROPPED_RECORD) - 1))
def test_a_record_that_may_still_become_whole_is_waited_for(cut):
    stream = make_stream(max_record_size=len(DROPPED_RECORD))
    stream.feed(DROPPED_RECORD[:cut])
    assert stream.give_up() == []
    assert stream.feed(DROPPED_RECORD[cut:]) == []
    assert stream.counters.dropped == 1


def test_a_claim_that_comes_late_is_noticed_when_it_is_asked_again():
    stream = make_stream()
    stream.feed(b"\x82\xa1a\xa1x\xa1b")
    assert stream.give_up() == []
    stream.feed(b"\xdb" + HUGE)
    assert b"".join(stream.give_up()) == b"\x82\xa1a\xa1x\xa1b\xdb" + HUGE


def test_a_large_record_is_walked_over_in_parts_and_its_successor_anew():
    whole = msgpack.packb({"a": [0] * 3_000_000})
    stream = make_stream(max_record_size=1 << 23)
    stream.feed(whole[:2_500_000])
    for _ in range(4):
        assert stream.give_up() == []
    assert b"".join(stream.feed(whole[2_500_000:] + b"\xdb")) == whole
    stream.feed(HUGE)
    assert b"".join(stream.give_up()) == b"\xdb" + HUGE


def test_the_process_lets_go_of_a_claim_that_comes_after_a_pause(policy_file):
    start, claim = b"\x82\xa1a\xa1x\xa1b", b"\xdb" + HUGE
    with filtering(policy_file) as child:
        child.stdin.write(KEPT_RECORD + start)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        with pytest.raises(AssertionError, match="0 of 1 bytes"):
            read_exactly(child.stdout.fileno(), 1, deadline=1.5)
        child.stdin.write(claim)
        assert read_exactly(child.stdout.fileno(), len(start + claim)) == start + claim


def test_a_json_line_says_nothing_of_its_size_and_is_waited_for():
    stream = make_stream("json")
    stream.feed(line(DROPPED)[:50])
    assert (stream.give_up(), stream.held_from) == ([], 0)
    assert stream.feed(line(DROPPED)[50:]) == []


def test_the_process_lets_go_of_a_claim_while_the_pipe_stays_open(policy_file):
    with filtering(policy_file) as child:
        claim = CLAIMS["str 32"]
        child.stdin.write(KEPT_RECORD + claim)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD + claim)) == KEPT_RECORD + claim
        child.stdin.write(KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 1
        assert b"its first part has been written" in child.stderr.read()


def test_the_process_waits_for_the_rest_of_a_record_for_as_long_as_it_takes(policy_file):
    with filtering(policy_file) as child:
        # Long enough for the filter to ask whether there can be a rest: another record is decided after
        # that question and before the rest.
        os.write(child.stdin.fileno(), KEPT_RECORD + DROPPED_RECORD[:50])
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        with pytest.raises(AssertionError, match="0 of 1 bytes"):
            read_exactly(child.stdout.fileno(), 1, deadline=1.5)
        os.write(child.stdin.fileno(), DROPPED_RECORD[50:] + KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def nested(levels, encode, base=KEPT):
    """A record of so many levels that is an event."""
    value = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return encode({**base, "responseObject": value})


@pytest.mark.parametrize("depth", [10, 100])
@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_a_record_nested_deeper_than_the_limit_passes_and_its_neighbours_are_decided(format, encode, depth):
    deep = nested(depth + 1, encode, DROPPED)
    fits = nested(depth, encode, DROPPED)
    stream, out = filter_bytes(
        encode(DROPPED) + deep + fits + encode(KEPT), format=format, limits=Limits(depth=depth)
    )
    assert out == deep + encode(KEPT)
    assert why_undecided(stream) == "too_deep=1"
    assert (stream.counters.dropped, stream.counters.kept) == (2, 1)


def test_json_text_in_a_record_has_the_same_limit():
    deep, fits = ({"log": nested(levels, json.dumps, DROPPED)} for levels in (51, 50))
    stream, out = filter_bytes(msgpack.packb(fits) + msgpack.packb(deep), limits=Limits(depth=50))
    assert out == msgpack.packb(deep)
    assert why_undecided(stream) == "too_deep=1"


def test_json_nested_deeper_than_can_be_read_passes():
    deep = b"[" * 100_000 + b"]" * 100_000
    record = b'{"auditID":"a","verb":"get","user":{"username":"system:kube-proxy"},"x":' + deep + b"}\n"
    stream, out = filter_bytes(record + line(DROPPED), format="json")
    assert (out, why_undecided(stream)) == (record, "too_deep=1")


@pytest.mark.parametrize(
    "line_of_text",
    [
        pytest.param(
            line({"items": [event(annotations={"a": "," * 300_000 + "x" * (8 << 20)})]}), id="a long string"
        ),
        pytest.param(b'{"auditID":"' + b'{\\"' * 100_000 + b"\n", id="a string that is cut off"),
    ],
)
@pytest.mark.parametrize("depth", [50, 1024])
def test_looking_for_depth_and_items_takes_neither_long_nor_much_memory(line_of_text, depth):
    tracemalloc.start()
    start = time.process_time()
    _, out = filter_bytes(line_of_text, format="json", max_record_size=1 << 25, limits=Limits(depth=depth))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert out == line_of_text
    assert time.process_time() - start < 5
    assert peak < 8 * len(line_of_text) + (1 << 20)


def values(children):
    return st.lists(children, max_size=3) | st.dictionaries(
        st.text(alphabet='a"\\[{,', max_size=3), children, max_size=3
    )


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(
    value=st.recursive(
        st.integers() | st.text(alphabet='a"\\[{é', max_size=40) | st.booleans() | st.floats(allow_nan=False),
        values,
        max_leaves=20,
    ),
    limit=st.integers(0, 6),
)
def test_depth_and_length_are_found_without_decoding(value, limit):
    deeper = depth_of(value) > limit
    text = json.dumps(value).encode()
    assert is_deeper(text, limit, is_json=True) == deeper
    if not isinstance(value, int) or -(1 << 63) <= value < 1 << 64:
        packed = msgpack.packb(value, default=str)
        assert is_deeper(packed, limit, is_json=False) == deeper
    if isinstance(value, list) and limit:
        assert has_more_items(text, limit) == (len(value) > limit)


# What a walk over text must not take for its structure, at every place of a string.
STRINGS = st.lists(
    st.sampled_from(["[", "]", "{", "}", ",", '"', "\\", '\\"', '"\\', "\\\\", "\n", "é", "a"]), max_size=6
).map("".join)
FLAT = st.lists(STRINGS | st.integers(-9, 9) | st.just([]) | st.just({}), min_size=1, max_size=6)
# Text is looked at in pieces of this size.
PIECE = 1 << 16


@given(value=FLAT | st.dictionaries(STRINGS, STRINGS | FLAT, min_size=1, max_size=4))
def test_brackets_quotes_and_escapes_in_strings_are_no_structure(value):
    depth, items = depth_of(value), len(value)
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        for limit in (depth - 1, depth, depth + 1):
            assert is_deeper(text.encode(), limit, is_json=True) == (depth > limit)
        for limit in (items - 1, items, items + 1):
            if limit:  # one item has no comma that could be counted
                assert has_more_items(text.encode(), limit) == (items > limit)


@pytest.mark.parametrize(
    "value",
    [
        ["[{", "]}", '"', '\\"', "\\", "\\\\", '"\\\\"', ",,", [","], {"{": "]"}, "a"],
        {'"[': "\\", "\\": '"', '\\"{': ["\\\\"], ",": "\\\\\\"},
        ["\\" * 9 + '"' * 9, [["\\" * 10], '"[']],
    ],
)
def test_text_means_the_same_wherever_it_is_cut_into_pieces(value):
    text = json.dumps(value).encode()
    depth, items = depth_of(value), len(value)
    for cut in range(len(text) + 1):
        padded = b" " * (PIECE - cut) + text
        assert not is_deeper(padded, depth, is_json=True), cut
        assert is_deeper(padded, depth - 1, is_json=True), cut
        assert not has_more_items(padded, items), cut
        assert has_more_items(padded, items - 1), cut


GROUPS = ["developers", "a", "b"]


@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_a_user_of_more_groups_passes_undecided(format, encode):
    users = [{"username": "system:kube-proxy", "groups": GROUPS[:count]} for count in range(4)]
    fits, *_ = sent = [encode(event(user=user)) for user in users[::-1]]
    stream, out = filter_bytes(b"".join(sent), format=format, limits=Limits(groups=2))
    assert (out, why_undecided(stream)) == (fits, "too_many_items=1")
    assert stream.counters.dropped == 3


def test_ten_thousand_groups_are_decided_on_and_one_more_is_not():
    for count, passes in ((10_000, False), (10_001, True)):
        sent = msgpack.packb(event(user={"username": "system:kube-proxy", "groups": [""] * count}))
        stream, out = filter_bytes(sent)
        assert out == (sent if passes else b"")
        assert why_undecided(stream) == ("too_many_items=1" if passes else "")


@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_a_map_of_more_than_a_hundred_thousand_members_is_not_written_anew(format, encode):
    """But an event in it is decided on: all other members are skipped."""
    own = {**DROPPED, "user": {**DROPPED["user"], "groups": None}}
    for count, passes in ((100_000, False), (100_001, True)):
        more = {f"{index}": 0 for index in range(count - 1)}
        sent = encode({"items": [DROPPED, KEPT], **more})
        stream, out = filter_bytes(sent, format=format)
        assert out == (sent if passes else encode({"items": [KEPT], **more})), count
        assert why_undecided(stream) == ("too_many_items=1" if passes else "")
        assert filter_bytes(encode({**own, **more}), format=format)[1] == b""


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
@pytest.mark.parametrize("more", [0, 1])
def test_the_number_of_items_is_read_from_each_kind_of_header(count, more):
    sent = msgpack.packb({"items": [DROPPED] + [0] * (count + more - 1)})
    left = msgpack.packb({"items": [0] * (count - 1)})
    stream, out = filter_bytes(sent, limits=Limits(list_items=count))
    assert out == (sent if more else left)
    assert why_undecided(stream) == ("too_many_items=1" if more else "")


@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_a_longer_list_of_events_passes_whole(format, encode):
    many, few = ({"kind": "EventList", "items": [DROPPED] * count} for count in (4, 3))
    sent = encode(many) + encode(few)
    stream, out = filter_bytes(sent, format=format, limits=Limits(list_items=3))
    assert out == encode(many)
    assert why_undecided(stream) == "too_many_items=1"


def test_a_longer_list_is_not_reduced():
    managed = {"metadata": {"managedFields": [1]}}
    text = "apiVersion: audit.k8s.io/v1\nomitManagedFields: true\nrules: [{level: RequestResponse}]\n"

    def listing(count):
        body = {"kind": "PodList", "metadata": {}, "items": [managed] * count}
        return line({**KEPT, "level": "RequestResponse", "responseObject": body})

    sent = listing(4) + listing(3)
    options = {"format": "json", "policy_text": text, "reduce": True}
    stream, out = filter_bytes(sent, limits=Limits(list_items=3), **options)
    first, second = out.splitlines(keepends=True)
    assert first == listing(4)
    assert b"managedFields" not in second
    assert "not_reduced=1" in summarize(stream.counters)


def test_elements_that_stay_undecided_in_a_list_are_counted():
    record = {"items": [DROPPED, {"no": "event"}, KEPT]}
    stream, out = filter_bytes(line(record), format="json")
    assert json.loads(out)["items"] == [{"no": "event"}, KEPT]
    assert "undecided_list_items=1" in summarize(stream.counters)


@pytest.mark.parametrize(
    ("option", "record", "passes"),
    [
        (["--max-record-size", "1K"], line({**DROPPED, "annotations": {"a": "x" * 2000}})[:-1], True),
        (["--max-record-size", "4K"], line({**DROPPED, "annotations": {"a": "x" * 2000}})[:-1], False),
        (["--max-depth", "10"], nested(11, line, DROPPED), True),
        (["--max-depth", "11"], nested(11, line, DROPPED), False),
        (["--max-list-items", "1"], line({"items": [DROPPED, DROPPED]}), True),
        (["--max-list-items", "2"], line({"items": [DROPPED, DROPPED]}), False),
    ],
)
def test_the_limits_are_options(policy_file, option, record, passes):
    result = run_exec(record, "--format", "json", "--policy", policy_file, *option)
    assert (result.returncode, result.stdout) == (0, record if passes else b"")


def test_the_memo_takes_as_much_memory_as_it_may(policy_file):
    users = (f"{number:06}" + "x" * 500 for number in range(12_000))
    records = [msgpack.packb(event(user={"username": user})) for user in users]
    memory = {}
    for size in ("64M", "0"):
        with filtering(policy_file, "--memo-size", size) as child:
            for start in range(0, len(records), 50):
                sent = b"".join(records[start : start + 50])
                child.stdin.write(sent)
                assert read_exactly(child.stdout.fileno(), len(sent)) == sent
            memory[size] = status_of(child, "VmRSS")
    assert memory["64M"] - memory["0"] > 4 << 10  # KiB


@pytest.mark.parametrize(
    "option",
    [
        ["--max-depth", "9"],
        ["--max-depth", "1025"],
        ["--max-list-items", "0"],
        ["--memo-size", "2G"],
        ["--memo-size", "-1"],
        ["--max-record-size", "0"],
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(policy_file, option):
    result = run_exec(b"", "--policy", policy_file, *option)
    assert (result.returncode, option[0].encode() in result.stderr) == (1, True)
