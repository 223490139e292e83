"""conf/fluent-bit/exec_filter.lua in LuaJIT, called as Fluent Bit calls it, with real children."""

import json
import os
import re
import resource
import signal
import sys
from itertools import count
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.audit_log import events
from filter_engine.fields import FIELDS, MORE_FIELDS
from plugin.exec.stream import PARTIAL
from tests.support import DROPPED, KEPT, event, run_exec
from tests.support.agents import until
from tests.support.exec_filter import CHANGE, DROP, KEEP, UNCHANGED, children, descriptors
from tests.support.lua_filter import lupa

pytestmark = pytest.mark.usefixtures("nothing_is_left")

PYTHON = f"{sys.executable} -IS"
# Keeps what it was asked in a file, and answers each question with itself or with what is said.
RECORDER = """
import msgpack
unpacker, data = msgpack.Unpacker(strict_map_key=False), b""
with open({path!r}, "wb", buffering=0) as file:
    while piece := os.read(0, 1 << 16):
        unpacker.feed(piece)
        data += piece
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            continue
        file.write(data)
        os.write(1, {answer})
        data = b""
"""


def unpacked(data):
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data)
    return unpacker


@pytest.fixture
def recorder(stand_in, tmp_path):
    """Installs a child that keeps what it is asked; returns a function that gives back the questions."""
    path = tmp_path / "asked"
    path.touch()

    def install(answer="b'\\xc3'"):
        stand_in(RECORDER.format(path=str(path), answer=answer), f"{sys.executable} -I")
        return lambda: list(unpacked(path.read_bytes()))

    return install


# With the real filter -------------------------------------------------------------------------------

BODY = {"kind": "Pod", "metadata": {"name": "web", "managedFields": [{"manager": "kubectl"}], "x": None}}
FULL = event(level="RequestResponse", verb="delete", requestObject=BODY, responseObject=BODY, empty=[{}, []])
RECORDS = [
    *events(300, seed=7),
    FULL,
    {"log": json.dumps(DROPPED), "stream": "stdout"},
    {"log": json.dumps(KEPT)},
    {"message": json.dumps({"items": [KEPT, DROPPED]}), "n": 1},
    {"log": DROPPED},
    {"log": "I0501 {klog}", "message": json.dumps(DROPPED)},
    {"log": 5, "message": "text"},
    {"kind": "EventList", "metadata": {}, "items": [KEPT, DROPPED, {"no": "event"}, FULL], "nulls": [None]},
    {"items": [DROPPED, DROPPED]},
    {"items": [KEPT, KEPT]},
    {"items": []},
    {"items": {"auditID": "a", "verb": "get", "user": {}}},
    {},
    {"auditID": "a", "verb": 1},
    {"auditID": "a", "verb": "get"},
    {"auditID": "a", "verb": "get", "user": {}},
    {
        "auditID": "a",
        "verb": "get",
        "user": {"username": "system:kube-proxy", "extra": {}},
        "requestURI": "/api/v1/x",
    },
    {"auditID": "a", "verb": "get", "log": json.dumps(DROPPED)},
    {
        "auditID": "a",
        "verb": "get",
        "user": {"uid": "1"},
        "requestURI": "/api/v1/x",
        "items": [KEPT, DROPPED],
    },
    {**KEPT, "log": json.dumps(DROPPED), "items": [DROPPED]},
    {**DROPPED, "log": json.dumps(KEPT)},
    {**event(verb="create"), "requestURI": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"},
    *(
        event(
            user={"username": user},
            verb="create",
            requestURI=uri,
            objectRef={"apiGroup": "rbac.authorization.k8s.io", "resource": "clusterrolebindings", **ref},
        )
        for user in ("system:kube-proxy", "alice")
        for uri in ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "")
        for ref in ({}, {"namespace": "noisy", "name": "pwn"})
    ),
    {**DROPPED, "user": {"username": "system:kube-proxy", "groups": None, "extra": {"a": ["b"]}}},
    {**DROPPED, "user": [DROPPED["user"]], "objectRef": [], "requestURI": 5},
    {**KEPT, "user": None, "objectRef": None, "responseStatus": {"code": 200, "metadata": {}}},
    {**KEPT, "objectRef": {}, "verb": "größe"},
    {"audit": {"event": DROPPED}},
    {"audit": {"event": KEPT}, "log": json.dumps(DROPPED)},
]


CREATED = """
apiVersion: audit.k8s.io/v1
rules:
- {level: None, users: [system:kube-proxy]}
- {level: None, verbs: [create], namespaces: [noisy]}
- {level: Metadata}
"""


def test_a_body_does_not_move_an_object_into_a_namespace(start, policy_file):
    Path(policy_file).write_text(CREATED)
    ref = {"apiGroup": "rbac.authorization.k8s.io", "resource": "clusterrolebindings", "namespace": "noisy"}
    uri = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    audit_filter = start()
    assert audit_filter.filter(event(verb="create", requestURI=uri, objectRef=ref)) is not None
    uri = "/apis/rbac.authorization.k8s.io/v1/namespaces/noisy/clusterrolebindings"
    assert audit_filter.filter(event(verb="create", requestURI=uri, objectRef=ref)) is None


@pytest.mark.parametrize("options", ["", "--reduce", "--event-key audit.event", "--event-key=log --reduce"])
def test_records_become_what_exec_makes_of_them(start, policy_file, options):
    arguments = ["--policy", policy_file, "--reply", *options.split()]
    answers = msgpack.Unpacker()
    answers.feed(run_exec(b"".join(map(msgpack.packb, RECORDS)), *arguments).stdout)
    expected = [
        {True: record, False: None}[answer] if isinstance(answer, bool) else answer
        for record, answer in zip(RECORDS, answers, strict=True)
    ]
    audit_filter = start(options=options)
    assert [audit_filter.filter(record) for record in RECORDS] == expected
    assert audit_filter.said() == []
    assert None in expected


FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"


@pytest.mark.parametrize(
    "rules",
    [
        "- {level: None, userAgents: ['kube-proxy*', 'kube*']}\n- {level: Metadata, sourceIPs: [10.0.0.0/8]}",
        "- {level: Metadata, sample: {rate: 0.5}}",
        "- {level: Metadata, sample: {rate: 0.5, annotate: false}}",
        "- {level: None, annotations: {authorization.k8s.io/decision: [allow]}}\n- {level: Metadata}",
        "- {level: Metadata, redact: [builtin:secrets, user.username, 'requestObject.metadata.*']}",
        "- {level: Metadata, redact: [userAgent]}\nredaction: {method: remove}",
        "- {level: Request}\nreduce: true\nomitManagedFields: true",
    ],
)
def test_a_filter_policy_does_what_exec_does(start, policy_file, rules):
    Path(policy_file).write_text(f"{FILTER_POLICY}rules:\n{rules}\n")
    answers = msgpack.Unpacker()
    answers.feed(run_exec(b"".join(map(msgpack.packb, RECORDS)), "--policy", policy_file, "--reply").stdout)
    audit_filter = start()
    for record, answer in zip(RECORDS, answers, strict=True):
        expected = {True: record, False: None}[answer] if isinstance(answer, bool) else answer
        assert audit_filter.filter(record) == expected
    assert audit_filter.said() == []


def test_a_child_asks_for_whole_records_once(start, policy_file, recorder):
    asked = recorder("b'\\xc0' if b'partial' in data else b'\\xc3'")
    audit_filter = start()
    assert [audit_filter.filter(FULL) for _ in range(2)] == [FULL, FULL]
    assert [PARTIAL in each for each in asked()] == [True, False, False]
    assert asked()[1:] == [FULL, FULL]


def test_a_list_larger_than_a_pipe_comes_back_without_what_is_dropped(start):
    items = [KEPT, DROPPED] * 3000
    audit_filter = start()
    assert audit_filter.filter({"items": items, "x": "é" * 70_000}) == {
        "items": [KEPT] * 3000,
        "x": "é" * 70_000,
    }


def test_a_record_with_numbers_that_lua_rounds_does_not_change(start):
    audit_filter = start(options="--reduce")
    assert audit_filter({**FULL, "annotations": {"n": float(2**53)}}) == (KEEP, UNCHANGED)
    assert audit_filter({"items": [KEPT, DROPPED], "n": -(2.0**60)}) == (KEEP, UNCHANGED)
    (said,) = audit_filter.said()
    assert "numbers" in said
    assert audit_filter(FULL)[0] == CHANGE


def test_the_end_of_the_state_ends_the_child(start):
    audit_filter = start()
    assert audit_filter.filter(DROPPED) is None
    (child,) = children()
    audit_filter.close()
    assert children() == []
    assert not Path(f"/proc/{child}").exists()


def test_a_child_that_was_killed_is_replaced_and_no_record_stays_undecided(start):
    audit_filter = start({"STEADY = 1\n": "STEADY = 0\n"})
    for _ in range(3):
        assert audit_filter.filter(DROPPED) is None
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        assert audit_filter.filter(DROPPED) is None
        assert audit_filter.filter(KEPT) == KEPT
        assert children() != [child]
    (said,) = audit_filter.said()
    assert "ended (signal 9), next try in 0.0 s" in said


# What is sent ---------------------------------------------------------------------------------------


def test_only_what_policies_look_at_is_sent(start, recorder):
    asked = recorder()
    audit_filter = start()
    user = {"username": "alice", "groups": ["a", "b"]}
    full = {
        **FULL,
        "user": {**user, "uid": "1", "extra": {"k": ["v"]}},
        "responseStatus": {"code": 200, "reason": "x"},
    }
    assert audit_filter.filter(full) == full
    assert asked() == [
        {
            **{name: FULL[name] for name in ("auditID", "verb", "stage", "level", "requestURI")},
            "user": user,
            "objectRef": {"resource": "pods", "namespace": "default", "name": "web"},
            "responseStatus": {"code": 200},
            PARTIAL: True,
        }
    ]
    wrapped = {"items": [KEPT], "log": json.dumps(KEPT), "message": "text", "annotations": BODY}
    assert audit_filter.filter(wrapped) == wrapped
    assert asked()[1:] == [{"items": [KEPT], "log": json.dumps(KEPT)}]


def test_every_field_that_a_policy_may_read_is_sent(start, recorder):
    asked = recorder()
    full = {"auditID": "a", "requestObject": BODY}
    values = {"text": "a", "texts": ["a"], "integer": 1}
    for field in (*FIELDS, *MORE_FIELDS):
        parent = full.setdefault(field.parent, {}) if field.parent else full
        parent[field.name] = values[field.type]
    audit_filter = start()
    assert audit_filter.filter(full) == full
    del full["requestObject"]
    assert asked() == [full | {PARTIAL: True}]


@pytest.mark.parametrize(
    "record",
    [{}, {"a": 1}, {"log": "text"}, {"message": 5}, {"items": "{}"}, {"auditID": 1, "verb": "get"}],
)
def test_nothing_is_asked_about_what_can_not_be_an_event(start, recorder, record):
    asked = recorder("b'\\xc2'")
    audit_filter = start(on_failure="drop")
    assert audit_filter(record) == (KEEP, UNCHANGED)
    assert audit_filter(KEPT) == (DROP, UNCHANGED)
    assert len(asked()) == 1


SIZES = [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536]
NUMBERS = [0, 1, 127, 128, -1, -32, -33, 2**31, -(2**31), 2**32, 2**53 - 1, -(2**53) + 1, 0.5, -0.25, 1e-300]


@pytest.mark.parametrize(
    "value",
    [
        *("x" * size for size in SIZES),
        *([None] * size for size in SIZES),
        *({f"{number:05}": True for number in range(size)} for size in SIZES),
        NUMBERS,
        {2: "a", -1: {}, True: []},
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value)}",
)
def test_values_are_encoded_and_decoded(start, recorder, value):
    asked = recorder("data")
    record = event(value=value)
    audit_filter = start(options="--reduce")
    assert audit_filter(record) == (CHANGE, record)
    assert asked() == [record]


@pytest.mark.parametrize("number", [2.0**53, 2.0**62, -(2.0**63), 2.0**63, 1e300, float("inf")])
def test_numbers_that_lua_rounds_are_sent(start, recorder, number):
    asked = recorder("data")
    record = event(value=[number, -number])
    assert start(options="--reduce")(record) == (KEEP, UNCHANGED)
    assert asked() == [record]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-(2.0**52), max_value=2.0**52)
    | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=50,
)


def test_any_value_is_encoded_and_decoded(start, recorder):
    asked = recorder("data")
    audit_filter = start(options="--reduce")
    number = count()

    @settings(suppress_health_check=list(HealthCheck))
    @given(VALUES)
    def check(value):
        record = event(value=value)
        assert audit_filter(record) == (CHANGE, record)
        assert asked()[next(number)] == record

    check()


def test_answers_are_understood_in_every_encoding_of_msgpack(start, stand_in):
    pieces = {
        b"\xcc\xff": 255,
        b"\xcd\x01\x00": 256,
        b"\xce\xff\xff\xff\xff": 2**32 - 1,
        b"\xcf\0\0\0\x01\0\0\0\0": 2**32,
        b"\xd0\x80": -128,
        b"\xd1\x80\x00": -32768,
        b"\xd2\xff\xff\xff\xfe": -2,
        b"\xd3\xff\xff\xff\xff\xff\xff\xff\xfe": -2,
        b"\xe0": -32,
        b"\xd9\x01a": "a",
        b"\xda\0\x01a": "a",
        b"\xdb\0\0\0\x01a": "a",
        b"\xdc\0\x01\xc0": [None],
        b"\xdd\0\0\0\x01\xc2": [False],
        b"\xde\0\0": {},
        b"\xdf\0\0\0\0": {},
        b"\xcb" + b"\x40\x09\x21\xfb\x54\x44\x2d\x18": 3.141592653589793,
    }
    answer = b"\x81\xa5items\xdc" + len(pieces).to_bytes(2, "big") + b"".join(pieces)
    # Byte by byte, so that every value is cut everywhere.
    body = f"os.read(0, 65536)\nfor byte in {answer!r}: os.write(1, bytes([byte]))\nos.read(0, 1)"
    stand_in(body, PYTHON)
    assert start().filter({"items": [{}], "other": 1}) == {"items": list(pieces.values()), "other": 1}


# Children that don't do what they should ------------------------------------------------------------

COUNTED = {"  child = { pid": "  started_children = (started_children or 0) + 1\n  child = { pid"}
FAST = {"FIRST_PAUSE, LAST_PAUSE = 0.1, 30": "FIRST_PAUSE, LAST_PAUSE = 0, 0"}
MISBEHAVIOUR = {
    "exits at once": ("/bin/sh", "exit 3", "ended (exit status 3)"),
    "dies of a signal": ("/bin/sh", "kill -9 $$", "ended (signal 9)"),
    "exits when asked": (PYTHON, "os.read(0, 1)", "ended (exit status 0)"),
    "closes its output and stays": ("/bin/sh", "exec >&-; exec sleep 600", "ended (was killed)"),
    "closes its input and stays": ("/bin/sh", "exec <&-; exec sleep 600", "(was killed)"),
    "hangs": ("/bin/sh", "exec sleep 600", "did not answer in time (was killed)"),
    "ignores signals and hangs": (
        PYTHON,
        "for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\nsignal.pause()",
        "did not answer in time (was killed)",
    ),
    "answers half": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\x81\\xa1')\ntime.sleep(600)",
        "did not answer in time",
    ),
    "answers too slowly": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\xd9\\xff')\nwhile os.write(1, b'x'): time.sleep(0.02)",
        "did not answer in time",
    ),
    "answers text": (PYTHON, "os.read(0, 9999)\nos.write(1, b'yes\\n')\ntime.sleep(600)", "no answer"),
    "answers twice": (PYTHON, "os.read(0, 9999)\nos.write(1, b'\\xc2\\xc2')\ntime.sleep(600)", "no answer"),
    "answers with a map": (PYTHON, "os.read(0, 9999)\nos.write(1, b'\\x80')\ntime.sleep(600)", "no answer"),
    "answers null": (
        PYTHON,
        "while os.read(0, 9999):\n    os.write(1, b'\\xc0')\ntime.sleep(600)",
        "no answer",
    ),
    "answers a type that was not sent": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\x81\\xc7')\ntime.sleep(600)",
        "no answer",
    ),
    "answers too much": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\xdb\\xff\\xff\\xff\\xff')\ntime.sleep(600)",
        "more than can be right",
    ),
    "answers too deep": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\x91' * 2000)\ntime.sleep(600)",
        "nested too deeply",
    ),
    "answers with a key that Lua does not take": (
        PYTHON,
        "os.read(0, 9999)\nos.write(1, b'\\x81\\xcb\\x7f\\xf8\\0\\0\\0\\0\\0\\0\\xc0')\ntime.sleep(600)",
        "failed",
    ),
}


@pytest.mark.parametrize("fate", ["keep", "drop"])
@pytest.mark.parametrize(("interpreter", "body", "message"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_nothing_is_decided_by_a_child_that_misbehaves(start, stand_in, interpreter, body, message, fate):
    starts = stand_in(body, interpreter)
    patience = 1000 if message.startswith("did not answer in time") else 30_000
    audit_filter = start(start_timeout_ms=patience, timeout_ms=100, on_failure=fate)
    for _ in range(50):
        assert audit_filter(DROPPED) == (KEEP if fate == "keep" else DROP, UNCHANGED)
    assert audit_filter({"no": "event"}) == (KEEP, UNCHANGED)
    assert 1 <= len(starts()) < 10  # the other records fell into pauses
    (said,) = audit_filter.said()
    assert message in said
    assert "next try in" in said
    assert children() == []


def test_a_child_that_does_not_read_is_not_waited_for(start, stand_in):
    stand_in("exec sleep 600")
    audit_filter = start(start_timeout_ms=300)
    large = {"items": [KEPT] * 1000}  # more than a pipe takes
    assert audit_filter(large) == (KEEP, UNCHANGED)
    (said,) = audit_filter.said()
    # The pause is no shorter than the wait.
    assert float(re.search(r"did not answer in time .* next try in ([\d.]+) s", said)[1]) >= 0.3


def test_a_program_that_is_missing_is_named(start, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    audit_filter = start()
    assert [audit_filter(DROPPED)[0] for _ in range(5)] == [KEEP] * 5
    (said,) = audit_filter.said()
    assert "kube-audit-filter can't be started: No such file or directory, next try in 0.1 s" in said


def test_a_policy_that_can_not_be_used_keeps_records(start, policy_file):
    Path(policy_file).write_text("rules: nonsense")
    audit_filter = start()
    assert audit_filter.filter(DROPPED) == DROPPED
    assert "ended (exit status 2)" in audit_filter.said()[0]


def test_a_record_is_asked_about_again_where_a_steady_child_ends(start, stand_in):
    # Each answers two questions and ends without an answer to the third.
    starts = stand_in("for _ in range(2):\n os.read(0, 9999)\n os.write(1, b'\\xc2')\nos.read(0, 1)", PYTHON)
    audit_filter = start({"STEADY = 1\n": "STEADY = 0\n"})
    assert [audit_filter(KEPT)[0] for _ in range(7)] == [DROP] * 7
    assert len(starts()) == 4
    assert len(audit_filter.said()) == 1


def test_a_record_that_kills_every_child_is_kept(start, stand_in):
    starts = stand_in("os.read(0, 9999) and os.write(1, b'\\xc2') and os.read(0, 1)", PYTHON)
    audit_filter = start({"STEADY = 1\n": "STEADY = 0\n"}, options="")
    assert audit_filter(KEPT)[0] == DROP
    stand_in("os.read(0, 1)", PYTHON)
    assert audit_filter(KEPT)[0] == KEEP
    assert len(starts()) == 2


def test_pauses_between_starts_double_to_half_a_minute_and_end_with_success(start, stand_in):
    starts = stand_in("exit 3")
    # Its clock stands still but for what the test says.
    clock = "clock = 0\nlocal function now()\n  do return clock end\n"
    audit_filter = start({"local function now()\n": clock})
    at = 0.0

    def ask(time):
        audit_filter.said()
        audit_filter.advance(60)
        audit_filter.execute(f"clock = {time}")
        return audit_filter(KEPT)[0]

    for number, pause in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30], 1):
        assert ask(at) == KEEP
        assert f"next try in {pause:.1f} s" in audit_filter.said()[0]
        assert ask(at + 0.9 * pause) == KEEP
        assert audit_filter.said() == []
        assert len(starts()) == number
        at += pause + 0.01
    stand_in("os.read(0, 9999)\nos.write(1, b'\\xc2')\nos.read(0, 1)", PYTHON)
    assert ask(at) == DROP
    assert "answers again; 2 records kept undecided" in audit_filter.said()[0]
    assert ask(at + 1.1) == DROP
    assert "next try in 0.0 s" in audit_filter.said()[0]
    assert ask(at + 1.2) == KEEP
    assert "next try in 0.1 s" in audit_filter.said()[0]


def test_the_pause_after_a_steady_child_is_the_first_again(start, stand_in):
    stand_in("exit 3")
    audit_filter = start(
        {"local function now()\n": "clock = 0\nlocal function now()\n  do return clock end\n"}
    )
    for at in (0, 1, 2):
        audit_filter.execute(f"clock = {at}")
        assert audit_filter(KEPT)[0] == KEEP  # the third pause would be 0.4 s, the next 0.8
    answer = "os.read(0, 9999)\nos.write(1, b'\\xc2')\n"
    stand_in(f"{answer}{answer}os.read(0, 9999)\nos.write(1, b'?')\ntime.sleep(600)", PYTHON)
    for at, code in ((10, DROP), (12, DROP), (12, KEEP)):
        audit_filter.said()
        audit_filter.advance(60)
        audit_filter.execute(f"clock = {at}")
        assert audit_filter(KEPT)[0] == code
    assert "no answer (was killed), next try in 0.1 s" in audit_filter.said()[0]


def test_the_same_is_said_once_a_minute_with_the_number_of_records(start, stand_in):
    stand_in("exit 3")
    audit_filter = start(FAST)
    for _ in range(100):
        audit_filter(KEPT)
    assert len(audit_filter.said()) == 1
    audit_filter.advance(60)
    (said,) = until(lambda: audit_filter(KEPT) and audit_filter.said(), lambda: "silence")
    assert re.search(r"; \d{3,} records kept undecided$", said.rstrip())


@pytest.mark.parametrize(
    ("body", "timeout"),
    [("exit 3", 10_000), ("printf '\\303\\303'; exec sleep 600", 10_000), ("exec sleep 600", 2)],
    ids=["exits", "answers garbage", "hangs"],
)
def test_a_thousand_restarts_leave_no_descriptor_and_no_process(start, stand_in, body, timeout):
    starts = stand_in(body)
    audit_filter = start(
        {**FAST, **COUNTED, "FIRST_PAUSE, waited,": "FIRST_PAUSE,"}, start_timeout_ms=timeout
    )
    # While there is a child, its two pipes; the shell may not have got to its first line when it is killed.
    before = len(descriptors()) - 2 * len(children())
    for number in range(1000):
        assert audit_filter(DROPPED) == (KEEP, UNCHANGED)
        if number % 100 == 0:
            assert (len(descriptors()), children()) == (before, [])
    assert (len(descriptors()), children()) == (before, [])
    assert audit_filter.lua.eval(b"started_children") >= 1000
    assert timeout < 1000 or len(starts()) > 0  # those that are killed at once may not get to that


@pytest.mark.parametrize("old_glibc", [False, True])
def test_the_child_inherits_nothing_but_its_streams(start, stand_in, tmp_path, old_glibc):
    stand_in(
        f"with open({str(tmp_path / 'found')!r}, 'w') as file:\n"
        " print(*os.listdir('/proc/self/fd'), file=file)\n"
        " print(signal.pthread_sigmask(signal.SIG_BLOCK, []), file=file)\n"
        " print(*(int(s) for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN), file=file)\n"
        "while os.read(0, 9999): os.write(1, b'\\xc2')",
        PYTHON,
    )
    changes = {"addclosefrom_np": "addclosefrom_that_is_missing"} if old_glibc else {}
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert start(changes)(KEPT)[0] == DROP
    finally:
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reader)
        os.close(writer)
    inherited, blocked, ignored = (tmp_path / "found").read_text().splitlines()
    # Of its own it has the file, and the directory that it lists; Python ignores two signals by itself.
    assert set(inherited.split()) == {"0", "1", "2", "3", "4"}
    assert blocked == "set()"
    assert set(ignored.split()) <= {str(signal.SIGPIPE.value), str(signal.SIGXFSZ.value)}


def test_a_child_that_does_not_end_with_its_input_is_killed(start, stand_in):
    stand_in("while os.read(0, 9999): os.write(1, b'\\xc2')\ntime.sleep(600)", PYTHON)
    audit_filter = start({"pcall(stop, 2)": "pcall(stop, 0.1)"})
    assert audit_filter(KEPT)[0] == DROP
    audit_filter.close()
    assert children() == []


def test_an_answer_to_no_question_is_not_taken_for_the_next(start, stand_in):
    # It comes after the right one, when that has been read.
    starts = stand_in(
        "os.read(0, 9999)\nos.write(1, b'\\xc2')\nopen(sys.argv[0] + '.go').read()\nos.write(1, b'\\xc2')"
        "\nopen(sys.argv[0] + '.done', 'w').close()\ntime.sleep(600)",
        PYTHON,
    )
    program = Path(os.environ["PATH"].partition(os.pathsep)[0]) / "kube-audit-filter"
    os.mkfifo(f"{program}.go")
    audit_filter = start()
    assert audit_filter(KEPT)[0] == DROP
    Path(f"{program}.go").write_text("")
    until(Path(f"{program}.done").exists, lambda: "it did not write")
    assert audit_filter(KEPT)[0] == KEEP
    assert "not asked for" in audit_filter.said()[0]
    assert len(starts()) == 1


@pytest.mark.parametrize("free", range(3))
def test_without_free_descriptors_it_tries_again(start, free):
    taken = set(map(int, descriptors()))
    limit = [number for number in range(len(taken) + 8) if number not in taken][free]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        audit_filter = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (said,) = audit_filter.said()
    assert "no pipe: Too many open files" in said
    until(lambda: audit_filter(DROPPED)[0] == DROP, lambda: "it does not start")


def test_an_error_in_the_script_keeps_the_record(start):
    audit_filter = start({"  local asked, keys =": "  error('a fault')\n  local asked, keys ="})
    assert [audit_filter(DROPPED) for _ in range(3)] == [(KEEP, UNCHANGED)] * 3
    (said,) = audit_filter.said()
    assert "a fault" in said


def test_a_record_that_is_nested_too_deeply_is_kept(start):
    deep = []
    for _ in range(200):
        deep = [deep]
    audit_filter = start()
    assert audit_filter.filter({"items": deep}) == {"items": deep}
    assert "nested too deeply" in audit_filter.said()[0]
    assert audit_filter.filter(DROPPED) is None
    closed = start(on_failure="drop")
    assert closed({"items": deep}) == (DROP, UNCHANGED)
    assert "1 records dropped undecided" in closed.said()[0]


@pytest.mark.parametrize(
    ("setting", "value"), [("timeout_ms", "soon"), ("start_timeout_ms", "0"), ("on_failure", "panic")]
)
def test_a_wrong_setting_is_an_error_at_the_start(start, setting, value):
    with pytest.raises(lupa.LuaError, match=f"AUDIT_FILTER_{setting.upper()}: expected"):
        start(**{setting: value})
