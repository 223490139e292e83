"""conf/fluentd/exec_filter.conf, as it is, in a real Fluentd: only its environment variables are set.

The tests with Fluentd run where there is one: FLUENTD names it, or it is on the PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import msgpack
import pytest

from tests.support import DROPPED, KEPT, ROOT
from tests.support.agents import (
    BACKLOG,
    PRINTED,
    Agent,
    AuditLog,
    Emitted,
    Event,
    fluentd_program,
    kept,
    kept_lines,
    nanoseconds,
    path_with_filter,
    printed_by_fluentd,
    text_of,
    times,
)

CONFIGURATION = ROOT / "conf/fluentd/exec_filter.conf"
POLICIES = ROOT / "conf/policies"
RECOMMENDED, MINIMAL = POLICIES / "recommended.yaml", POLICIES / "minimal.yaml"


class Fluentd(Agent):
    """Fluentd with the configuration, its state under a directory."""

    def __init__(
        self, program: str, configuration: Path, directory: Path, log: AuditLog, policy: Path, run: int
    ) -> None:
        self.state = directory / "state"
        self.filter_log = directory / "filter.log"
        super().__init__(
            [program, "-c", str(configuration)],
            directory / f"fluentd-{run}.out",
            {
                "AUDIT_LOG": str(log.path),
                "AUDIT_POLICY": str(policy),
                "AUDIT_STATE_DIR": str(self.state),
                "AUDIT_FILTER_LOG": str(self.filter_log),
                "TZ": "UTC",
            },
        )

    def emitted(self) -> list[Emitted]:
        """What has come out of the filter so far, in order."""
        return printed_by_fluentd(self.output.read_bytes())

    def wait_for(self, count: int) -> None:
        self.until(
            lambda: len(PRINTED.findall(self.output.read_bytes())) >= count,
            lambda: f"fewer than {count} records came out\n{self.logs()}",
        )

    def logs(self) -> str:
        """The ends of Fluentd's log and the filter's."""
        said = self.filter_log.read_text(errors="replace") if self.filter_log.exists() else "(none)"
        return f"Fluentd:\n{self.printed()[-3000:]}\nThe filter:\n{said[-3000:]}"

    def filter_said(self, text: str) -> bool:
        return self.filter_log.exists() and text in self.filter_log.read_text(errors="replace")

    def chunks(self) -> list[Path]:
        """The chunks that Fluentd keeps on disk: what it has not handed to the filter, or not whole."""
        return list((self.state / "buffer").glob("*.log"))

    def unfinished(self, log: AuditLog) -> list[Event]:
        """The records that Fluentd, once it has stopped, will send to the filter at its next start."""
        # Without the gem Oj, Fluentd has every string of a JSON log as binary.
        unpacker = msgpack.Unpacker(raw=True)
        for chunk in self.chunks():
            unpacker.feed(chunk.read_bytes())
        buffered = [text_of(record) for record in unpacker]
        position = int((self.state / "audit.log.pos").read_text().split("\t")[1], 16)
        return buffered + [json.loads(line) for line in b"".join(log.lines)[position:].splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.log")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return Path(shutil.copy(RECOMMENDED, tmp_path / "policy.yaml"))


@pytest.fixture
def start(tmp_path: Path, log: AuditLog, policy: Path) -> Iterator[Callable[..., Fluentd]]:
    """Starts Fluentd on the log, also again with the state that the last one left."""
    program = fluentd_program()
    started: list[Fluentd] = []

    def start_one(configuration: Path = CONFIGURATION) -> Fluentd:
        started.append(Fluentd(program, configuration, tmp_path, log, policy, run=len(started)))
        return started[-1]

    yield start_one
    for agent in started:
        agent.kill()


def test_records_come_out_as_the_filter_keeps_them_with_tag_and_exact_time(
    start: Callable[[], Fluentd], log: AuditLog, policy: Path
) -> None:
    log.write_events(1000)
    expected = kept(log.lines, policy)
    agent = start()
    agent.wait_for(len(expected))
    agent.stop()
    assert agent.emitted() == [
        Emitted("kube.audit", nanoseconds(record["stageTimestamp"]), record) for record in expected
    ]
    assert 0 < len(expected) < 1000


def test_a_line_that_is_no_json_goes_on(start: Callable[[], Fluentd], log: AuditLog, policy: Path) -> None:
    log.write_events(100)
    log.write(b"I0501 10:00:00.000000 1 klog.go:1] no JSON\n")
    log.write_events(100)
    expected = [
        json.loads(line) if line.startswith(b"{") else line.decode() for line in kept_lines(log.lines, policy)
    ]
    agent = start()
    agent.wait_for(len(expected))
    agent.stop()
    assert [record.get("unmatched_line", record) for _, _, record in agent.emitted()] == expected


@pytest.mark.parametrize(
    ("number", "group", "growing"),
    [
        pytest.param(signal.SIGTERM, False, True, id="SIGTERM to Fluentd"),
        # systemd does so too, unless told otherwise.
        pytest.param(signal.SIGTERM, True, True, id="SIGTERM to its process group"),
        pytest.param(signal.SIGINT, True, True, id="Ctrl-C"),
        # Here the last chunk is a large one, and usually the stop cuts it off.
        pytest.param(signal.SIGTERM, False, False, id="SIGTERM to Fluentd with a backlog"),
    ],
)
def test_a_stop_under_load_loses_nothing(
    start: Callable[[], Fluentd],
    log: AuditLog,
    policy: Path,
    number: signal.Signals,
    group: bool,
    growing: bool,
) -> None:
    log.write_events(6000 if growing else 24000)
    first = start()
    with log.growing(BACKLOG) if growing else nullcontext():
        first.wait_for(1)
        first.stop(number, group=group)
    before = [record for _, _, record in first.emitted()]
    # Fluentd itself sends a few records again when it is stopped under load; the filter never does.
    # It waits until it has begun to hand the last chunk to the filter, but not until it has ended: a
    # chunk that is cut off stays in the buffer and is handed over again, whole. And, rarely, in_tail
    # still reads when it has closed its pos_file ("closed stream" in the log): it reads that again.
    unfinished = first.unfinished(log)
    assert "child process exits" not in first.printed(), first.logs()

    log.write_events(500)
    second = start()
    expected = kept(log.lines, policy)
    end = expected[-1]["stageTimestamp"].encode()
    second.until(lambda: end in second.output.read_bytes())
    second.stop()
    after = [record for _, _, record in second.emitted()]

    assert not second.chunks()
    assert before == expected[: len(before)]
    assert after == expected[len(expected) - len(after) :]
    repeated = len(before) + len(after) - len(expected)
    assert repeated >= 0, f"{-repeated} records are lost"
    assert set(times(after[:repeated])) <= set(times(unfinished))


def test_a_filter_that_is_killed_is_started_again(
    start: Callable[[], Fluentd], log: AuditLog, policy: Path
) -> None:
    log.write_events(300)
    agent = start()
    agent.wait_for(len(kept(log.lines, policy)))
    agent.until(lambda: not agent.chunks())
    ((killed, parent),) = agent.filters().items()
    os.kill(killed, signal.SIGKILL)
    agent.until(lambda: agent.filters().keys() - {killed})
    assert list(agent.filters().values()) == [parent], "there is a shell between Fluentd and the filter"

    log.write_events(300)
    expected = kept(log.lines, policy)
    agent.wait_for(len(expected))
    agent.stop()
    assert [record for _, _, record in agent.emitted()] == expected


def test_a_new_policy_takes_effect_without_a_restart(
    start: Callable[[], Fluentd], log: AuditLog, policy: Path
) -> None:
    log.write_events(300)
    expected = kept(log.lines, policy)
    agent = start()
    agent.wait_for(len(expected))
    before = agent.filters()
    policy.write_text(MINIMAL.read_text())
    agent.until(lambda: agent.filter_said("a new policy is in use"))
    assert agent.filters() == before

    log.write_events(300)
    expected += kept(log.lines[300:], policy)
    agent.wait_for(len(expected))
    agent.stop()
    assert [record for _, _, record in agent.emitted()] == expected
    assert len(expected) > len(kept(log.lines, RECOMMENDED))


def test_records_wait_in_fluentd_until_there_is_a_policy_that_can_be_used(
    start: Callable[[], Fluentd], log: AuditLog, policy: Path
) -> None:
    policy.write_text("kind: Policy\n")
    log.write_events(2000)
    agent = start()
    agent.until(lambda: agent.filter_said("nothing is read until there is a policy"))
    agent.until(agent.chunks)
    log.write_events(300)
    assert agent.emitted() == []
    policy.write_text(RECOMMENDED.read_text())
    expected = kept(log.lines, policy)
    agent.wait_for(len(expected))
    agent.stop()
    assert [record for _, _, record in agent.emitted()] == expected


def test_of_two_workers_one_reads_and_filters(
    start: Callable[..., Fluentd], log: AuditLog, policy: Path, tmp_path: Path
) -> None:
    text = CONFIGURATION.read_text()
    source, label, outputs = text.partition("<label @FILTERED>")
    configuration = tmp_path / "two-workers.conf"
    configuration.write_text(
        f"<system>\n  workers 2\n</system>\n<worker 0>\n{source}</worker>\n{label}{outputs}"
    )
    log.write_events(300)
    expected = kept(log.lines, policy)
    agent = start(configuration)
    agent.wait_for(len(expected))
    assert len(agent.filters()) == 1
    agent.stop()
    assert [record for _, _, record in agent.emitted()] == expected


def run_command(
    tmp_path: Path, records: bytes, **environment: str
) -> tuple[subprocess.CompletedProcess[bytes], str]:
    """Run the configuration's command as Fluentd does. Returns what became of it and the filter's log."""
    (command,) = re.findall(r"^ *command (.+)$", CONFIGURATION.read_text(), re.MULTILINE)
    filter_log = tmp_path / "a log"
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        input=records,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": path_with_filter(), "AUDIT_FILTER_LOG": str(filter_log), **environment},
        timeout=60,
        check=False,
    )
    return result, filter_log.read_text()


def test_the_command_filters_with_its_defaults_and_logs(tmp_path: Path) -> None:
    names = {"__tag": "kube.audit", "__time": "1800000000.123456789"}
    kept_record = msgpack.packb({**KEPT, "verb": "delete", **names})
    dropped_record = msgpack.packb({**DROPPED, **names})
    result, filter_log = run_command(tmp_path, dropped_record + kept_record)
    assert (result.returncode, result.stdout) == (0, kept_record)
    assert "records in=2 kept=1 dropped=1 " in filter_log


def test_the_command_logs_why_it_can_not_filter(tmp_path: Path) -> None:
    policy = tmp_path / "a policy.yaml"
    policy.write_text("kind: Policy\n")
    record = msgpack.packb(DROPPED)
    result, filter_log = run_command(tmp_path, record, AUDIT_POLICY=str(policy))
    assert (result.returncode, result.stdout) == (0, record)
    assert f"{policy} is not used" in filter_log
    assert "(no_policy=1)" in filter_log


def test_the_command_takes_more_options_and_logs_a_wrong_one(tmp_path: Path) -> None:
    result, filter_log = run_command(tmp_path, b"", AUDIT_FILTER_OPTIONS="--log-format json --memo-size 1M")
    assert result.returncode == 0
    assert json.loads(filter_log)["message"].startswith("records in=0")
    result, filter_log = run_command(tmp_path, b"", AUDIT_FILTER_OPTIONS="--memo-sise 1M")
    assert result.returncode == 1
    assert "--memo-sise" in filter_log
