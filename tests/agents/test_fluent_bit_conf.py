"""conf/fluent-bit, as it is, in a real Fluent Bit: only the variables that it names are set.

What Fluent Bit writes is compared with what it writes without the filter, after ``exec`` has filtered
that. The tests run where there is one: FLUENT_BIT names it, or it is on the PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL
from typing import Any

import msgpack
import pytest

from benchmarks.audit_log import events
from tests.support import DROPPED, KEPT, ROOT, event, filter_bytes, line
from tests.support.agents import Agent, AuditLog, configured, entries_of, fluent_bit_program, free_port, until
from tests.support.lua_filter import compiled

DIRECTORY = ROOT / "conf/fluent-bit"
SIDECAR = ROOT / "conf/kubernetes/sidecar/kube-audit-filter.yaml"
WAYS, FORMATS = ("exec-filter", "compiled"), ("yaml", "conf")
TAILS, EKS, HTTP = (
    [f"{way}-{name}.{format_}" for way in WAYS for format_ in FORMATS] for name in ("tail", "eks", "http")
)
TAIL, COMPILED_TAIL = "exec-filter-tail.yaml", "compiled-tail.yaml"
NUMBERED = {"stageTimestamp": "2026-11-01T06:00:00.123456789Z"}
LAST = line({"last": "record", **NUMBERED})


class FluentBit(Agent):
    """Fluent Bit with a configuration, and one more output: MessagePack in a file.

    Args:
        options: for the command line.
        settings: environment variables.
    """

    def __init__(
        self, program: str, options: list[str], configuration: Path, directory: Path, settings: dict[str, str]
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.written = directory / "out.msgpack"
        self.written.unlink(missing_ok=True)
        more = ["-o", "file", "-m", "*", "-p", "format=msgpack", "-p", f"path={directory}", "-p"]
        super().__init__(
            [program, *options, "-c", str(configuration), *more, f"file={self.written.name}"],
            directory / "fluent-bit.out",
            settings,
        )

    def output_bytes(self) -> bytes:
        return self.written.read_bytes() if self.written.exists() else b""

    def entries(self) -> list[bytes]:
        """The bytes of each log event that has come out so far."""
        return entries_of(self.output_bytes())

    def wait_for(self, count: int) -> None:
        self.until(lambda: len(self.entries()) >= count)

    def wait_for_last(self) -> None:
        """Until LAST has come out, which no policy drops."""
        self.until(lambda: b"\xa4last\xa6record" in b"".join(self.entries()[-1:]))


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.log")


@pytest.fixture
def start(tmp_path: Path, log: AuditLog, policy_file: str) -> Iterator[Callable[..., FluentBit]]:
    """Starts Fluent Bit with a configuration, with its filter or without."""
    program = fluent_bit_program()
    started: list[FluentBit] = []
    script = tmp_path / "audit-policy.lua"
    script.write_text(compiled(Path(policy_file).read_text()))

    def start_one(
        name: str | Path, *, with_filter: bool = True, hot_reload: bool = False, **settings: str
    ) -> FluentBit:
        settings = {
            "AUDIT_LOG": str(log.path),
            "AUDIT_POLICY": policy_file,
            "AUDIT_POLICY_SCRIPT": str(script),
            **{f"AUDIT_{key.upper()}": value for key, value in settings.items()},
        }
        directory, options = tmp_path / f"out-{len(started)}", ["-Y"] if hot_reload else []
        # With all that it names beside it.
        shutil.copytree(DIRECTORY, directory)
        text, environment = configured((DIRECTORY / name).read_text(), settings)
        configuration = directory / Path(name).name
        configuration.write_text(text if with_filter else without_filter(text))
        started.append(FluentBit(program, options, configuration, directory, environment))
        return started[-1]

    yield start_one
    for agent in started:
        agent.kill()


def without_filter(configuration: str) -> str:
    """The configuration in which the filter has nothing to do."""
    text, count = re.subn(
        r"((?:name:?) +lua\n +match:? +)kube\.audit", r"\1nothing", configuration, flags=re.IGNORECASE
    )
    assert count == 1
    return text


BODY = {"kind": "Pod", "metadata": {"name": "web", "managedFields": [{}], "nothing": None}, "empty": [[], {}]}
FULL = event(**NUMBERED, verb="delete", level="RequestResponse", requestObject=BODY, responseObject=BODY)
LINES = [
    line(FULL),
    line({**DROPPED, **NUMBERED, "requestObject": BODY}),
    line({"items": [KEPT, {**KEPT, **BODY}], **NUMBERED}),
    line({"items": [DROPPED, DROPPED], **NUMBERED}),
    line({"no": "event", **NUMBERED}),
    line({"log": json.dumps(DROPPED), **NUMBERED}),
    line({"log": json.dumps(KEPT), **NUMBERED, "large": [2**63 - 1, 1.0, None]}),
    line({**KEPT, **NUMBERED, "user": None, "objectRef": [], "annotations": {"é☃": "\u0001"}}),
    *(line(event) for event in events(2000, seed=11)),
    LAST,
]


def text_under_log(lines: list[bytes]) -> list[bytes]:
    return [line({"log": text.decode().rstrip(), "stream": None}) for text in lines[:-1]] + lines[-1:]


def record_of(entry: bytes) -> bytes:
    """The bytes of a log event's record, without its time."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(entry)
    unpacker.read_array_header()
    unpacker.skip()
    return entry[unpacker.tell() :]


def unpacked(record: bytes) -> Any:
    return msgpack.unpackb(record, strict_map_key=False)


@pytest.mark.parametrize("name", [*TAILS, *EKS])
def test_what_comes_out_of_a_log_is_what_exec_keeps_to_the_byte(
    start: Callable[..., FluentBit], log: AuditLog, name: str
) -> None:
    log.write(*(text_under_log(LINES) if name in EKS else LINES))
    plain, filtered = start(name, with_filter=False), start(name)
    for agent in (plain, filtered):
        agent.wait_for_last()
        agent.stop()
    stream, expected = filter_bytes(plain.output_bytes(), max_record_size=1 << 24)
    assert len(entries_of(plain.output_bytes())) == len(LINES)
    if name in EKS:  # there, the time is that of reading
        assert list(map(record_of, filtered.entries())) == list(map(record_of, entries_of(expected)))
    else:
        assert filtered.output_bytes() == expected
    assert stream.counters.dropped > 500
    assert stream.counters.kept > 100
    assert f"kept={stream.counters.kept} dropped={stream.counters.dropped}" in filtered.printed()


@pytest.mark.parametrize("name", HTTP)
def test_lists_of_the_webhook_lose_what_exec_drops(start: Callable[..., FluentBit], name: str) -> None:
    batches = [
        [DROPPED, KEPT, DROPPED],
        [KEPT, FULL],
        [DROPPED],
        list(events(400, seed=12)),
        [{**KEPT, "annotations": BODY}, DROPPED],
    ]
    lists = [
        {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}
        for items in batches
    ]
    came = []
    for with_filter in (False, True):
        port = free_port()
        agent = start(name, with_filter=with_filter, port=str(port))
        agent.until(lambda: post(port, {"first": "record"}))  # noqa: B023 - called at once
        for path, value in [*(("/kube.audit", value) for value in lists), ("", {"last": "record"})]:
            assert post(port, value, path)
        agent.wait_for_last()
        agent.stop()
        came.append([record_of(entry) for entry in agent.entries()])
    plain, filtered = came
    _, expected = filter_bytes(b"".join(plain), max_record_size=1 << 24)
    # A list that has lost something is written anew; the others are the same to the byte.
    assert list(map(unpacked, filtered)) == [unpacked(record) for record in entries_of(expected)]
    assert len(filtered) == len(plain) - 1
    assert plain[2] in filtered
    assert [record for record in filtered if record in plain] == [plain[0], plain[2], plain[-1]]


@pytest.mark.parametrize("name", ["compiled-http.yaml", "compiled-http.conf"])
def test_with_split_and_the_second_filter_each_event_is_a_record_with_its_time(
    start: Callable[..., FluentBit], policy_file: str, tmp_path: Path, name: str
) -> None:
    script, configuration = tmp_path / "split.lua", tmp_path / name
    script.write_text(compiled(Path(policy_file).read_text(), split=True))
    text = (DIRECTORY / name).read_text()
    filter_, count = re.subn(r"(?m)^( *)# (?=- name: lua|  [a-z_]+: |\[FILTER|    [A-Z]\w+  )", r"\1", text)
    assert count in (5, 6)
    configuration.write_text(filter_)
    port = free_port()
    agent = start(configuration, port=str(port), policy_script=str(script))
    agent.until(lambda: post(port, {"first": "record"}))
    events_ = [
        {**KEPT, "stageTimestamp": f"2026-11-01T06:00:0{number}.00000{number}Z"} for number in range(5)
    ]
    assert post(port, {"kind": "EventList", "metadata": {}, "items": [*events_, DROPPED]}, "/kube.audit")
    assert post(port, {"last": "record"})
    agent.wait_for_last()
    agent.stop()
    first, *split, last = map(unpacked, agent.entries())
    assert (first[1], last[1]) == ({"first": "record"}, {"last": "record"})
    assert [record for _, record in split] == events_
    times = [struct.unpack(">II", head[0].data) for head, _ in split]
    assert times == [(1793512800 + number, number * 1000) for number in range(5)]


def post(port: int, value: Any, path: str = "") -> bool:
    """Send JSON as the API server's webhook does; whether it was taken."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(value).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 200 <= answer.status < 300
    except OSError:  # it does not listen yet
        return False


def test_reduced_records_are_those_of_exec(start: Callable[..., FluentBit], log: AuditLog) -> None:
    log.write(*LINES)
    plain, filtered = start(TAIL, with_filter=False), start(TAIL, filter_options="--reduce")
    for agent in (plain, filtered):
        agent.wait_for_last()
        agent.stop()
    stream, expected = filter_bytes(plain.output_bytes(), reduce=True, max_record_size=1 << 24)
    assert list(map(unpacked, filtered.entries())) == list(map(unpacked, entries_of(expected)))
    assert stream.counters.rewritten > 100
    # What needs no change is not touched.
    same = set(entries_of(plain.output_bytes())) & set(entries_of(expected))
    assert len(same) > 20
    assert same <= set(filtered.entries())


def test_a_killed_filter_is_replaced_and_no_kept_record_is_lost(
    start: Callable[..., FluentBit], log: AuditLog
) -> None:
    agent = start(TAIL)
    with log.growing():
        for number in range(1, 4):
            agent.wait_for(300 * number)
            (killed,) = agent.filters()
            os.kill(killed, SIGKILL)
            agent.until(lambda: agent.filters().keys() - {killed})  # noqa: B023 - called at once
    log.write(LAST)
    agent.wait_for_last()
    agent.stop()
    came = [unpacked(entry)[1] for entry in agent.entries()]
    ids = [(record.get("auditID"), record["stageTimestamp"]) for record in came]
    sent = [json.loads(text) for text in log.lines]
    _, kept = filter_bytes(b"".join(log.lines), format="json")
    kept_ids = [
        (record.get("auditID"), record["stageTimestamp"]) for record in map(json.loads, kept.splitlines())
    ]
    remaining = iter(ids)
    assert all(one in remaining for one in kept_ids), "a kept record is missing, or out of order"
    in_order = iter((record.get("auditID"), record["stageTimestamp"]) for record in sent)
    assert all(one in in_order for one in ids), "something twice, or out of order"
    assert "ended (signal 9)" in agent.printed()
    # A few may have gone on undecided, if a filter that had just been started was killed.
    assert len(ids) < len(sent)


def test_without_the_filter_program_every_record_comes_out_and_is_counted(
    start: Callable[..., FluentBit], log: AuditLog, tmp_path: Path
) -> None:
    log.write(*LINES)
    plain = start(TAIL, with_filter=False)
    filtered = start(
        TAIL, filter_program="kube-audit-filter-is-not-here", filter_metrics_textfile=str(tmp_path)
    )
    for agent in (plain, filtered):
        agent.wait_for_last()
        agent.stop()
    assert filtered.output_bytes() == plain.output_bytes()
    assert filtered.printed().count("can't be started") == 1
    assert f"; {len(LINES) - 2} records kept undecided" in filtered.printed()
    metrics = (tmp_path / "kube-audit-filter-script-0.prom").read_text()
    assert f'{{script="0",reason="not_started",fate="kept"}} {len(LINES) - 2}\n' in metrics


@pytest.mark.parametrize("group", [False, True], ids=["to Fluent Bit", "to its process group"])
def test_when_fluent_bit_stops_so_does_the_filter(
    start: Callable[..., FluentBit], log: AuditLog, group: bool
) -> None:
    agent = start(TAIL)
    with log.growing():
        agent.wait_for(100)
        (child,) = agent.filters()
        agent.stop(group=group)
    assert not Path(f"/proc/{child}").exists()
    assert "records in=" in agent.printed()
    assert "[kube-audit-filter]" not in agent.printed(), "the script had nothing to complain about"


def test_when_fluent_bit_is_killed_the_filter_ends(start: Callable[..., FluentBit], log: AuditLog) -> None:
    agent = start(TAIL)
    log.write(*LINES)
    agent.wait_for_last()
    (child,) = agent.filters()
    agent.signal(SIGKILL)
    until(lambda: not Path(f"/proc/{child}").exists(), agent.logs)


def test_a_reload_leaves_one_filter_and_no_zombie(
    start: Callable[..., FluentBit], log: AuditLog, tmp_path: Path
) -> None:
    configuration = tmp_path / TAIL
    text = (DIRECTORY / TAIL).read_text()
    configuration.write_text(text.replace("script: exec", f"script: {DIRECTORY}/exec"))
    agent = start(configuration, hot_reload=True)
    log.write(*LINES)
    agent.wait_for_last()
    for _ in range(3):
        (child,) = agent.filters()
        agent.signal(SIGHUP)
        agent.until(lambda: agent.filters().keys() - {child})  # noqa: B023
        until(lambda: not Path(f"/proc/{child}").exists(), agent.logs)  # noqa: B023
    agent.stop()


def test_settings_may_stand_in_the_configuration(start: Callable[..., FluentBit], tmp_path: Path) -> None:
    configuration = tmp_path / TAIL
    text = (DIRECTORY / TAIL).read_text().replace("script: exec", f"script: {DIRECTORY}/exec")
    configuration.write_text(text.replace("env:\n", "env:\n  AUDIT_FILTER_PROGRAM: not-there\n"))
    agent = start(configuration)
    agent.until(lambda: "not-there can't be started" in agent.printed())


@pytest.mark.parametrize("name", ["compiled-tail.yaml", "compiled-tail.conf"])
def test_a_variable_that_the_configuration_does_not_set_comes_from_the_environment(
    start: Callable[..., FluentBit], log: AuditLog, tmp_path: Path, name: str
) -> None:
    configuration = tmp_path / name
    text, count = re.subn(r"\n(  AUDIT_LOG: |@SET AUDIT_LOG=).*", "", (DIRECTORY / name).read_text())
    assert count == 1
    configuration.write_text(text)
    log.write(*LINES)
    agent = start(configuration)
    agent.wait_for_last()
    agent.stop()


@pytest.mark.parametrize("path", [*sorted(DIRECTORY.iterdir()), SIDECAR], ids=lambda path: path.name)
def test_no_configuration_needs_a_fluent_bit_that_knows_defaults_for_variables(path: Path) -> None:
    # ${NAME:-default} is known since 4.2.5 and 5.0.6 only. Before, it is nothing.
    assert ":-" not in path.read_text()


@pytest.mark.parametrize("name", [*TAILS, *EKS])
def test_the_classic_configurations_need_no_fluent_bit_that_knows_parsers_in_yaml(name: str) -> None:
    # They are known in YAML since 3.2. Those files say which one to take before.
    if name.endswith(".yaml"):
        assert f"there is {name.removesuffix('.yaml')}.conf." in (DIRECTORY / name).read_text()
    else:
        assert "Parsers_File  parsers.conf" in (DIRECTORY / name).read_text()


@pytest.mark.parametrize("name", HTTP)
def test_a_batch_is_taken_up_to_what_the_api_server_may_be_told_to_send_at_most(
    start: Callable[..., FluentBit], name: str
) -> None:
    port = free_port()
    agent = start(name, port=str(port))
    agent.until(lambda: post(port, {"first": "record"}))
    # --audit-webhook-truncate-max-batch-size is 10 MiB.
    assert post(port, {"items": [{**KEPT, "annotations": {"large": "x" * (10 << 20)}}]})
    agent.wait_for(2)
    # What is larger than buffer_max_size gets no answer of success. Fluent Bit goes on.
    assert not post(port, {"items": [{**KEPT, "annotations": {"large": "x" * (40 << 20)}}]})
    assert post(port, {"last": "record"})
    agent.wait_for_last()
    agent.stop()
    assert len(agent.entries()) == 3


# Each output has a policy of its own, or none.
ARCHIVE_AND_FILTER = """
    - name: file
      match: kube.audit
      path: {directory}
      file: everything
    - name: file
      match: kube.audit
      path: {directory}
      file: compiled
      processors:
        logs:
          - name: lua
            script: ${{AUDIT_POLICY_SCRIPT}}
            call: kube_audit_filter
    - name: file
      match: kube.audit
      path: {directory}
      file: asked
      processors:
        logs:
          - name: lua
            code: |
              AUDIT_POLICY = "builtin:recommended"
              dofile("{script}")
            call: kube_audit_filter
            enable_flb_null: true
"""


def test_one_output_archives_everything_and_others_filter_by_policies_of_their_own(
    start: Callable[..., FluentBit], log: AuditLog, tmp_path: Path
) -> None:
    text = (DIRECTORY / COMPILED_TAIL).read_text()
    before, filters, after = re.split(r"(\n  filters:\n(?:    .+\n)+)", text)
    assert "lua" in filters
    outputs = ARCHIVE_AND_FILTER.format(directory=tmp_path, script=DIRECTORY / "exec_filter.lua")
    configuration = tmp_path / COMPILED_TAIL
    configuration.write_text(before + after.replace("\n  outputs:\n", f"\n  outputs:{outputs}"))
    log.write(*LINES)
    agent = start(configuration)
    agent.wait_for_last()
    agent.stop()
    counts = {
        name: (tmp_path / name).read_bytes().count(b"\n") for name in ("everything", "compiled", "asked")
    }
    _, by_script = filter_bytes(b"".join(LINES), format="json")
    recommended = (ROOT / "conf/policies/recommended.yaml").read_text()
    _, by_child = filter_bytes(b"".join(LINES), format="json", policy_text=recommended)
    assert counts == {
        "everything": len(LINES),
        "compiled": by_script.count(b"\n"),
        "asked": by_child.count(b"\n"),
    }
    assert len(set(counts.values())) == 3


def test_a_wrong_setting_is_named(start: Callable[..., FluentBit]) -> None:
    agent = start(TAIL, filter_on_failure="panic")
    agent.until(lambda: "AUDIT_FILTER_ON_FAILURE: expected keep or drop" in agent.printed())
