"""Compiled policies in a real Fluent Bit.

The tests run where there is one: FLUENT_BIT names it, or it is on the PATH. What Fluent Bit writes
with the filter is compared with what it writes without, after ``exec`` has filtered that.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import msgpack
import pytest

from benchmarks.audit_log import events, json_lines
from filter_engine import Policy
from plugin.service.summary import summarize
from tests.support import DROPPED, KEPT, POLICY, ROOT, event, filter_bytes, line
from tests.support.agents import Agent, fluent_bit_program, until
from tests.support.lua_filter import compiled

DOCS = ROOT / "docs/fluent-bit.md"
GCE = (ROOT / "conf/policies/gce.yaml").read_text()
RECOMMENDED = (ROOT / "plugin/policies/recommended.yaml").read_text()
FILTER_POLICY = """\
apiVersion: kube-audit-filter.io/v1
kind: FilterPolicy
defaultLevel: Metadata
omitStages: [RequestReceived]
omitManagedFields: true
reduce: true
rules:
- name: leases
  level: Metadata
  resources: [{group: coordination.k8s.io, resources: ["lease*"]}]
  sample: {rate: 0.3}
- name: controllers
  level: None
  users: ["system:serviceaccount:*:*-controller"]
  verbs: [get, list, watch]
  except: [{responseCodes: [4xx]}]
- {name: nodes, level: None, userGroups: ["*:nodes"], userAgents: ["kubelet/*"], sourceIPs: [10.0.0.0/23]}
- {name: probes, level: None, nonResourceURLs: ["/*z", "/readyz/*"]}
- name: allowed
  level: Request
  annotations: {authorization.k8s.io/decision: [all*]}
  sample: {rate: 0.9}
"""
REDUCE_ALL = "apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata, omitManagedFields: true}]\n"

PARSERS = """\
[PARSER]
    Name         json
    Format       json
    Time_Key     stageTimestamp
    Time_Format  %Y-%m-%dT%H:%M:%S.%LZ
    Time_Keep    On
"""
CONFIGURATION = """\
[SERVICE]
    Flush         0.1
    Grace         1
    Log_Level     info
    Parsers_File  parsers.conf

[INPUT]
    Name              tail
    Path              {log}
    {parser}
    Read_from_Head    true
    Exit_On_Eof       true
    Buffer_Chunk_Size 1M
    Buffer_Max_Size   8M

{filter}

[OUTPUT]
    Name    file
    Match   *
    Format  msgpack
    Path    {directory}
    File    out.msgpack
"""


@pytest.fixture(scope="session")
def program() -> str:
    return fluent_bit_program()


def run(command: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    """Run Fluent Bit until it has read all of its input; return what it printed."""
    agent = Agent(command, directory / "fluent-bit.out", environment or {})
    try:
        until(agent.ended, agent.logs)
    finally:
        agent.kill()
    return agent.printed()


class FluentBit:
    """Fluent Bit over a log, with a script or without; ``printed`` is what it said the last time."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self.printed = ""

    def filter(self, log: bytes, script: str | None, *, parse: bool = True, settings: str = "") -> bytes:
        """The log events that Fluent Bit writes."""
        source, target = self._directory / "audit.log", self._directory / "out.msgpack"
        source.write_bytes(log)
        target.unlink(missing_ok=True)
        (self._directory / "parsers.conf").write_text(PARSERS)
        section = ""
        if script is not None:
            (self._directory / "policy.lua").write_text(script)
            section = (
                "[FILTER]\n    Name lua\n    Match *\n    Script policy.lua\n    Call kube_audit_filter\n"
                + settings
            )
        configuration = self._directory / "fluent-bit.conf"
        configuration.write_text(
            CONFIGURATION.format(
                log=source,
                parser="Parser json" if parse else "Key log",
                filter=section,
                directory=self._directory,
            )
        )
        self.printed = run([self._program, "-c", str(configuration)], self._directory)
        return target.read_bytes() if target.exists() else b""


@pytest.fixture
def fluent_bit(program: str, tmp_path: Path) -> FluentBit:
    return FluentBit(program, tmp_path)


def bodies(stream: bytes) -> list[Any]:
    """The records of log events."""
    unpacker = msgpack.Unpacker(strict_map_key=False, unicode_errors="surrogateescape")
    unpacker.feed(stream)
    return [record for _, record in unpacker]


NUMBERED = {"stageTimestamp": "2026-11-01T06:00:00.123456789Z"}
ODD = {
    "null": None,
    "nulls": [None, 1, None],
    "empty": [[], {}, [{}]],
    "float": 0.1,
    "max": 2**53 - 1,
    "é☃": "\u0001",
}
LARGE = {"large": [2**63 - 1, -(2**53) - 1, 1e300]}
LINES = [
    line(event(**NUMBERED, **ODD, **LARGE)),
    line({**DROPPED, **NUMBERED, **ODD}),
    line({"kind": "EventList", "items": [KEPT, {**KEPT, **ODD, **LARGE}], **NUMBERED}),
    line({"items": [DROPPED, DROPPED], **NUMBERED}),
    line({"no": "event", **NUMBERED, **ODD}),
    line({"items": [], **NUMBERED}),
    line({"log": json.dumps(DROPPED), **NUMBERED}),
    line({"log": json.dumps(KEPT), **NUMBERED, **LARGE}),
    line({"message": json.dumps(DROPPED)[:-1], **NUMBERED}),
    line({**DROPPED, **NUMBERED, "verb": None}),
    line({**KEPT, **NUMBERED, "user": None, "objectRef": [], "requestURI": 5}),
]


def test_kept_records_keep_their_bytes_and_their_order(fluent_bit: FluentBit) -> None:
    log = b"".join([*LINES, *json_lines(events(3000, seed=3)), *LINES])
    unfiltered = fluent_bit.filter(log, None)
    stream, expected = filter_bytes(unfiltered, policy_text=GCE, max_record_size=1 << 24)
    assert len(bodies(unfiltered)) == 3000 + 2 * len(LINES)
    assert stream.counters.dropped > 1000
    assert stream.counters.kept > 500
    assert fluent_bit.filter(log, compiled(GCE)) == expected
    totals = stream.counters
    assert (
        f"records in={totals.records} kept={totals.kept} dropped={totals.dropped}"
        f" undecided={stream.counters.undecided_records} (" in fluent_bit.printed
    )
    by_rule = summarize(stream.counters).splitlines()[0].removeprefix("events dropped by rule: ")
    assert f"events dropped by rule: {by_rule};" in fluent_bit.printed


def test_lines_that_no_parser_has_read_are_decided_on(fluent_bit: FluentBit) -> None:
    broken = [b"\xff\n", b"I0501 klog\n", line(DROPPED)[:-3] + b"\n", b"[]\n"]
    log = b"".join([*LINES, *broken, *json_lines(events(1000, seed=4))])
    unfiltered = fluent_bit.filter(log, None, parse=False)
    _, expected = filter_bytes(unfiltered, policy_text=POLICY, max_record_size=1 << 24)
    left = fluent_bit.filter(log, compiled(POLICY), parse=False)
    assert bodies(left) == bodies(expected)
    assert 0 < len(bodies(left)) < len(bodies(unfiltered))


@pytest.mark.parametrize("parse", [True, False], ids=["parsed", "text"])
@pytest.mark.parametrize("settings", ["", "    enable_flb_null On\n    time_as_table On\n"])
def test_reduced_records_are_those_of_exec(fluent_bit: FluentBit, parse: bool, settings: str) -> None:
    body = {
        "kind": "A",
        "metadata": {"name": "a", "managedFields": [{}]},
        "items": [{"metadata": {"x": None}}],
    }
    full = event(**NUMBERED, **ODD, responseObject=body, requestObject=body, level="RequestResponse")
    log = b"".join([line(full), line(event(**NUMBERED, **ODD)), *json_lines(events(1000, seed=5))])
    unfiltered = fluent_bit.filter(log, None, parse=parse)
    for text in (GCE, REDUCE_ALL):
        stream, expected = filter_bytes(unfiltered, policy_text=text, reduce=True, max_record_size=1 << 24)
        left = fluent_bit.filter(log, compiled(text, reduce=True), parse=parse, settings=settings)
        read = bodies if parse else lambda data: [json.loads(record["log"]) for record in bodies(data)]
        assert read(left) == read(expected)
        assert (
            f"rewritten={stream.counters.rewritten} reduced={stream.counters.rewritten}" in fluent_bit.printed
        )
        assert stream.counters.rewritten > 10
        # What needs no change is not touched: the same bytes, time included.
        if parse:
            same = set(entries(unfiltered)) & set(entries(expected))
            assert len(same) > 100
            assert [entry for entry in entries(left) if entry in same] == [
                entry for entry in entries(expected) if entry in same
            ]
            times = [msgpack.unpackb(entry, strict_map_key=False)[0] for entry in entries(left)]
            assert times == [msgpack.unpackb(entry, strict_map_key=False)[0] for entry in entries(expected)]


@pytest.mark.parametrize("parse", [True, False], ids=["parsed", "text"])
@pytest.mark.parametrize("policy", [FILTER_POLICY, RECOMMENDED], ids=["all", "recommended"])
def test_a_filter_policy_leaves_what_exec_leaves(fluent_bit: FluentBit, parse: bool, policy: str) -> None:
    full = event(**NUMBERED, **ODD, responseObject={"a": 1}, level="RequestResponse")
    log = b"".join([*LINES, line(full), *json_lines(events(3000, seed=9))])
    unfiltered = fluent_bit.filter(log, None, parse=parse)
    stream, expected = filter_bytes(unfiltered, policy_text=policy, max_record_size=1 << 24)
    left = fluent_bit.filter(log, compiled(policy), parse=parse)
    assert read(left) == read(expected)
    counters = stream.counters
    assert f"kept={counters.kept} dropped={counters.dropped} " in fluent_bit.printed
    if policy is FILTER_POLICY:
        counted = {tally.rule for tally in counters.tallies() if tally.events}
        assert counted >= set(Policy.from_yaml(policy).rule_names.values())
        assert "; of these not in the sample: leases=" in fluent_bit.printed
    elif parse:  # a line of text has the time of reading
        assert left == expected, "no event has to change, so all bytes stay"


def entries(stream: bytes) -> list[bytes]:
    """The bytes of each log event."""
    unpacker, found, start = msgpack.Unpacker(), [], 0
    unpacker.feed(stream)
    while start < len(stream):
        unpacker.skip()
        found.append(stream[start : unpacker.tell()])
        start = unpacker.tell()
    return found


def test_a_record_that_lua_cannot_hold_is_not_reduced(fluent_bit: FluentBit) -> None:
    full = {**event(**NUMBERED, **ODD, **LARGE, level="Request"), "requestObject": {"a": 1}}
    unfiltered = fluent_bit.filter(line(full), None)
    assert fluent_bit.filter(line(full), compiled(REDUCE_ALL, reduce=True)) == unfiltered
    assert "not_reduced=1" in fluent_bit.printed


def test_a_partly_dropped_list_loses_the_dropped_events(fluent_bit: FluentBit) -> None:
    sent = {"items": [KEPT, DROPPED, {**KEPT, **ODD}], **NUMBERED, **ODD}
    (record,) = bodies(fluent_bit.filter(line(sent), compiled(POLICY)))
    assert record == {**sent, "items": [KEPT, {**KEPT, **ODD}]}


TIME_FILTER = "[FILTER]\n    Name lua\n    Match *\n    Script policy.lua\n    Call kube_audit_time\n"
TIMED = {**event(**ODD), "stageTimestamp": "2026-11-01T06:00:00.000001Z"}
RECEIVED = {**event(), "stageTimestamp": None, "requestReceivedTimestamp": "2026-11-01T06:00:00.999999+00:00"}
LISTS = [
    {
        "kind": "EventList",
        "apiVersion": "audit.k8s.io/v1",
        "metadata": {},
        "items": [TIMED, DROPPED, RECEIVED],
    },
    {
        "kind": "EventList",
        "items": [{**KEPT, **NUMBERED}, {"no": "event", "null": None}],
        "cluster": {"a": [None]},
    },
    {"items": [DROPPED, DROPPED]},
    {"log": json.dumps({"items": [TIMED, DROPPED, RECEIVED], **ODD}), "stream": None},
    {**KEPT, **NUMBERED},
    {"log": json.dumps({**KEPT, **NUMBERED})},
]


@pytest.mark.parametrize("parse", [True, False], ids=["parsed", "text"])
@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("precise", ["On", "Off"])
def test_a_list_is_split_and_a_second_filter_sets_times(
    fluent_bit: FluentBit, parse: bool, reduce: bool, precise: str
) -> None:
    log = b"".join([*map(line, LISTS), *json_lines(events(500, seed=8)), *map(line, LISTS)])
    unfiltered = fluent_bit.filter(log, None, parse=parse)
    options = {"policy_text": REDUCE_ALL if reduce else POLICY, "reduce": reduce, "max_record_size": 1 << 24}
    stream, expected = filter_bytes(unfiltered, split=True, **options)
    script = compiled(options["policy_text"], reduce=reduce, split=True)
    settings = f"    time_as_table {precise}\n"
    left = fluent_bit.filter(log, script, parse=parse, settings=settings)
    assert read(left) == read(expected)
    counters = stream.counters
    assert f" split={counters.split} split_into={counters.split + counters.added} " in fluent_bit.printed
    assert counters.split > 3
    # With the second filter, each has the time of its event.
    left = fluent_bit.filter(log, script, parse=parse, settings=settings + TIME_FILTER + settings)
    assert read(left) == read(expected)
    own = filter_bytes(as_lists(expected), split=True, **options)[1]
    # A record whose event has no time has that of reading, which differs from run to run.
    compared = [pair for pair in zip(times(left), times(own), strict=True) if pair[1] is not None]
    assert all(abs(time - wanted) <= (1 if precise == "On" else 250) for time, wanted in compared)
    assert len(compared) > 100


def read(stream: bytes) -> list[Any]:
    """Records, with JSON text under log read."""
    return [
        {**record, "log": json.loads(record["log"])} if "log" in record else record
        for record in bodies(stream)
    ]


def as_lists(stream: bytes) -> bytes:
    """Log events, each as a list of one event and without a time: exec --split gives it its event's own."""
    return b"".join(
        msgpack.packb([None, {**record, "log": f'{{"items":[{record["log"]}]}}'}])
        if "log" in record
        else msgpack.packb([None, {"items": [record]}])
        for record in bodies(stream)
    )


def times(stream: bytes) -> list[int | None]:
    """Nanoseconds since the epoch; None for a log event without a time."""
    found: list[int | None] = []
    for each in entries(stream):
        head = msgpack.unpackb(each, strict_map_key=False, unicode_errors="surrogateescape")[0]
        time = head[0] if isinstance(head, list) else head
        if time is None:
            found.append(None)
        else:
            seconds, nanoseconds = struct.unpack(">II", time.data)
            found.append(seconds * 10**9 + nanoseconds)
    return found


def test_an_error_in_the_script_keeps_every_record(fluent_bit: FluentBit) -> None:
    """Without the script's own pcall, Fluent Bit would pass on the chunk as it is, dropped records too."""
    log = b"".join(json_lines(events(500, seed=6)))
    script = compiled(GCE).replace("  read_request(event)\n", "  error('a fault')\n")
    assert fluent_bit.filter(log, script) == fluent_bit.filter(log, None)
    fluent_bit.filter(log, script)
    assert fluent_bit.printed.count("a fault") == 1
    assert "records in=500 kept=0 dropped=0 undecided=500 (internal_error=500)" in fluent_bit.printed


def test_a_new_script_is_in_use_after_a_reload(program: str, tmp_path: Path) -> None:
    script, configuration, log = tmp_path / "policy.lua", tmp_path / "fluent-bit.conf", tmp_path / "audit.log"
    log.write_bytes(line(KEPT) + line(DROPPED))
    (tmp_path / "parsers.conf").write_text(PARSERS)
    section = "[FILTER]\n    Name lua\n    Match *\n    Script policy.lua\n    Call kube_audit_filter\n"
    text = CONFIGURATION.format(log=log, parser="Parser json", filter=section, directory=tmp_path)
    # At a reload, Fluent Bit 5.1.1 does not find what relative paths name.
    for name in ("parsers.conf", "policy.lua"):
        text = text.replace(f" {name}", f" {tmp_path}/{name}")
    configuration.write_text(text.replace("Exit_On_Eof       true", ""))
    script.write_text(compiled(POLICY, report_interval=0))
    agent = Agent([program, "-Y", "-c", str(configuration)], tmp_path / "fluent-bit.out", {})
    try:
        agent.until((tmp_path / "out.msgpack").exists)
        script.write_text(compiled(GCE, report_interval=0))
        agent.signal(Signals.SIGHUP)
        agent.until(lambda: "17 rules, policy sha256" in agent.printed())
        agent.stop()
    finally:
        agent.kill()
    assert "records in=2 kept=1 dropped=1" in agent.printed(), "the report of the script that was replaced"


def configurations() -> list[Any]:
    """The complete configurations in the documentation."""
    blocks = re.findall(r"^```(ini|yaml)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return [pytest.param(kind, text, id=kind) for kind, text in blocks if "read_from_head" in text.lower()]


@pytest.mark.parametrize(("kind", "text"), configurations())
def test_the_documented_configurations_work(program: str, tmp_path: Path, kind: str, text: str) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(line(KEPT) + line(DROPPED) + line(KEPT))
    script = compiled(Policy.from_yaml(POLICY))
    (tmp_path / "policy.lua").write_text(script)
    (tmp_path / "parsers.conf").write_text(PARSERS)
    configuration = tmp_path / f"fluent-bit.{'conf' if kind == 'ini' else 'yaml'}"
    adapted = text.replace("/var/log/kubernetes/audit.log", str(log)).replace(
        "/etc/fluent-bit", str(tmp_path)
    )
    assert adapted.count(str(tmp_path)) == 3
    configuration.write_text(adapted)
    agent = Agent([program, "-c", str(configuration)], tmp_path / "fluent-bit.out", {})
    try:
        agent.until(lambda: agent.printed().count('"auditID"') == 2)
        agent.stop()
    finally:
        agent.kill()
    assert "records in=3 kept=2 dropped=1 undecided=0" in agent.printed()
