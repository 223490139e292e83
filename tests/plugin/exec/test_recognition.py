"""Input that holds no audit event is named soon, and costs no more than its bytes."""

import bz2
import gzip
import json
import lzma

import msgpack
import pytest

from tests.support import DROPPED, KEPT, filter_bytes, line, run_exec, why_undecided
from tests.support.processes import filtering, wait_for_line

TEXT = line(KEPT) * 200
NO_EVENTS = msgpack.packb({"message": "klog line"}) * 100
INPUTS = {
    "json": (TEXT, "msgpack", b"the input looks like JSON text; use --format json"),
    "indented json": (json.dumps([KEPT] * 9, indent=2).encode(), "msgpack", b"looks like JSON text"),
    "text": (b"I0501 klog line\n" * 50, "msgpack", b"the input looks like text, not like MessagePack"),
    "msgpack": (
        msgpack.packb([1, KEPT]) * 3 + b"\n",
        "json",
        b"looks like MessagePack; use --format msgpack",
    ),
    "gzip": (gzip.compress(TEXT) + b"\n" * 200, "json", b"compressed with gzip; decompress it first"),
    "bzip2": (bz2.compress(TEXT) + b"\n" * 200, "json", b"compressed with bzip2"),
    "xz": (lzma.compress(TEXT) + b"\n" * 200, "json", b"compressed with xz"),
    "utf-16": (TEXT.decode().encode("utf-16"), "json", b"looks like UTF-16 text"),
    "other records": (NO_EVENTS, "msgpack", b"see --event-key if the event is inside of each record"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_what_the_input_looks_like_is_said_once_and_all_of_it_goes_on(name, policy_file):
    sent, format_, expected = INPUTS[name]
    result = run_exec(sent, "--format", format_, "--policy", policy_file)
    assert result.stdout == sent
    assert result.stderr.count(b"an audit event: ") == 1
    assert expected in result.stderr


def test_it_is_said_after_the_first_hundred_records_while_the_input_goes_on(policy_file):
    with filtering(policy_file) as child:
        child.stdin.write(NO_EVENTS)
        assert b"none of the first 100 records is an audit event" in wait_for_line(
            child.stderr, b"audit event"
        )
        child.stdin.close()


def test_nothing_is_said_of_input_with_an_event_in_it(policy_file):
    for sent in (msgpack.packb(DROPPED) + NO_EVENTS, b""):
        result = run_exec(sent, "--policy", policy_file)
        assert b"audit event" not in result.stderr


def test_text_in_place_of_messagepack_is_counted_as_no_records():
    sent = TEXT + msgpack.packb(KEPT)
    stream, out = filter_bytes(sent, cuts=range(0, len(sent), 4000))
    assert out == sent
    assert why_undecided(stream) == f"not_a_record={len(TEXT)}"
    assert stream.counters.kept == 1


def test_text_in_place_of_messagepack_is_answered_value_by_value():
    sent = b"x" * 100 + msgpack.packb(DROPPED)
    assert filter_bytes(sent, reply=True)[1] == b"\xc3" * 100 + b"\xc2"
