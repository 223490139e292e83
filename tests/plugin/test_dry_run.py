"""A dry run: all is decided and counted as always, and every byte goes on as it came."""

import gzip
import re

import msgpack
import pytest

from filter_engine import PolicyEvaluator
from plugin.forward.protocol.entries import PayloadLimits
from plugin.forward.protocol.message_filter import MessageFilter
from plugin.records.record_filter import RecordFilter
from tests.plugin.forward.test_message_filter import put_through
from tests.support import DROPPED, KEPT, event, event_time, line, policy, run_exec
from tests.support.lua_filter import LuaFilter

FULL = event(level="RequestResponse", requestObject={}, responseObject={})
RECORDS = [KEPT, DROPPED, FULL, {"no": "event"}, {"items": [KEPT, DROPPED]}, DROPPED]
OPTIONS = ("--reduce", "--split")
TOTALS = re.compile(rb"records in=\d+ kept=\d+ dropped=\d+ undecided=\d+.* bytes in=\d+")


def totals(stderr):
    return TOTALS.search(stderr)[0]


@pytest.mark.parametrize(("format", "encode"), [("msgpack", msgpack.packb), ("json", line)])
def test_exec_counts_as_always_and_hands_everything_back(policy_file, format, encode):
    sent = b"".join(map(encode, RECORDS))
    arguments = ["--policy", policy_file, "--format", format, *OPTIONS]
    real, dry = run_exec(sent, *arguments), run_exec(sent, *arguments, "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, sent)
    assert real.stdout != sent
    assert totals(dry.stderr) == totals(real.stderr)
    would = f"dry run: nothing was dropped or changed, and bytes out would have been {len(real.stdout)}"
    assert would.encode() in dry.stderr
    assert b"dry run" not in real.stderr


def test_a_group_of_fluent_bit_keeps_its_markers(policy_file):
    start, end = event_time(-1), event_time(-2)
    entries = [[[start, {}], {"group": 1}], [[event_time(1), {}], DROPPED], [[end, {}], {}]]
    sent = b"".join(map(msgpack.packb, entries))
    assert run_exec(sent, "--policy", policy_file).stdout == b""
    assert run_exec(sent, "--policy", policy_file, "--dry-run").stdout == sent
    cut = b"".join(map(msgpack.packb, entries[:2]))
    assert run_exec(cut, "--policy", policy_file, "--dry-run").stdout == cut


def test_every_question_is_answered_with_keep(policy_file):
    sent = b"".join(map(msgpack.packb, [KEPT, DROPPED, FULL]))
    result = run_exec(sent, "--policy", policy_file, "--reply", "--reduce", "--dry-run")
    assert result.stdout == b"\xc3\xc3\xc3"
    assert b" dropped=1 " in result.stderr


def message(mode):
    entries = [[event_time(1), record] for record in RECORDS]
    packed = b"".join(map(msgpack.packb, entries))
    if mode == "forward":
        return msgpack.packb(["tag", entries, {"size": 6, "chunk": "c"}])
    if mode == "gzip":
        return msgpack.packb(["tag", gzip.compress(packed), {"compressed": "gzip"}])
    if mode == "packed":
        return msgpack.packb(["tag", packed, {"size": 6}])
    return msgpack.packb(
        ["tag", 1, {"message": DROPPED, "list": FULL}["message" if mode == "one" else "list"]]
    )


@pytest.mark.parametrize("mode", ["forward", "packed", "gzip", "one", "full"])
def test_a_forward_message_goes_on_byte_for_byte(mode):
    counted = []
    for dry_run in (False, True):
        records = RecordFilter(reduce=True, split=True, dry_run=dry_run)
        records.use(records.prepare(PolicyEvaluator(policy())))
        left = put_through(message(mode), MessageFilter(records, PayloadLimits(1 << 20)))
        assert (left == message(mode)) is dry_run
        counters = records.counters
        counted.append(
            (counters.records, counters.kept, counters.dropped, counters.rewritten, counters.split)
        )
    assert counted[0] == counted[1]


def test_a_compiled_policy_lets_every_record_stay():
    lua = LuaFilter(policy(), reduce=True, dry_run=True)
    assert [lua.call(record)[0] for record in RECORDS] == [0] * len(RECORDS)
    said = lua.end()
    assert "dropped=2 " in said
    assert "dry run: nothing was dropped or changed" in said
