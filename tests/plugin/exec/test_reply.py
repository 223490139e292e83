"""``exec --reply``: an answer for each record, for an agent that keeps the record itself."""

import msgpack
import pytest

from tests.support import DROPPED, KEPT, event, event_time, filter_bytes, line, run_exec
from tests.support.processes import DEADLINE, DROPPED_RECORD, KEPT_RECORD, filtering, read_exactly

KEEP, DROP = b"\xc3", b"\xc2"


def test_each_record_is_answered_in_order(policy_file):
    sent = KEPT_RECORD + DROPPED_RECORD + b"\x07" + DROPPED_RECORD + KEPT_RECORD
    result = run_exec(sent, "--policy", policy_file, "--reply")
    assert (result.returncode, result.stdout) == (0, KEEP + DROP + KEEP + DROP + KEEP)
    assert b"records in=5 kept=2 dropped=2 undecided=1 (not_a_record=1)" in result.stderr


def test_an_answer_comes_at_once(policy_file):
    with filtering(policy_file, "--reply") as child:
        for _ in range(3):
            for record, answer in ((KEPT_RECORD, KEEP), (DROPPED_RECORD, DROP)):
                child.stdin.write(record)
                assert read_exactly(child.stdout.fileno(), 1) == answer
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def test_json_lines_are_answered_with_lines(policy_file):
    sent = line(KEPT) + b"text\n" + line(DROPPED).rstrip()
    result = run_exec(sent, "--policy", policy_file, "--reply", "--format", "json")
    assert result.stdout == b"true\ntrue\nfalse\n"


@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_a_record_that_changes_is_answered_with_what_takes_its_place(policy_file, format, encode):
    full = event(level="RequestResponse", verb="delete", requestObject={"a": 1}, responseObject={"b": 2})
    records = [full, KEPT, {"items": [KEPT, DROPPED]}]
    sent = b"".join(map(encode, records))
    arguments = ["--policy", policy_file, "--reduce", "--format", format]
    kept = run_exec(sent, *arguments).stdout
    answers = run_exec(sent, *arguments, "--reply").stdout
    unchanged = encode(KEPT)
    assert answers == kept.replace(unchanged, KEEP if format == "msgpack" else b"true\n", 1)
    assert answers != kept


def test_fluent_bits_entries_and_their_markers_are_answered(policy_file):
    start, end = event_time(-1), event_time(-2)
    entries = [[[start, {}], {"group": 1}], [[event_time(1), {}], DROPPED], [event_time(1), KEPT], [end, {}]]
    sent = b"".join(map(msgpack.packb, entries))
    result = run_exec(sent, "--policy", policy_file, "--reply")
    assert result.stdout == KEEP + DROP + KEEP + KEEP
    assert b"records in=2 " in result.stderr


def test_a_record_that_can_not_be_held_is_answered_once(policy_file):
    large = msgpack.packb({**DROPPED, "annotations": {"a": "x" * 200_000}})
    result = run_exec(
        large + DROPPED_RECORD, "--policy", policy_file, "--reply", "--max-record-size", "100000"
    )
    assert result.stdout == KEEP + DROP


def test_answers_are_the_same_however_the_stream_is_cut():
    sent = (KEPT_RECORD + DROPPED_RECORD) * 20
    _, out = filter_bytes(sent, reply=True, cuts=range(1, len(sent)))
    assert out == (KEEP + DROP) * 20


def test_a_reply_can_not_be_several_records(policy_file):
    result = run_exec(KEPT_RECORD, "--policy", policy_file, "--reply", "--split")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"--reply gives one answer to each record" in result.stderr
    assert b"leave --split out" in result.stderr
    assert b"Traceback" not in result.stderr
