"""What the filter has to say, and where it says it."""

import fcntl
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.service.diagnostics import MAX_LINE, MAX_LINES, Diagnostics
from tests.support import EXEC, run_exec
from tests.support.agents import until
from tests.support.processes import DEADLINE, DROPPED_RECORD, KEPT_RECORD, filtering, read_exactly

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def pass_one(child):
    """Have the filter do something, so that it is known to run."""
    child.stdin.write(KEPT_RECORD)
    assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD


def test_the_log_file_takes_everything_with_time_level_and_process(policy_file, tmp_path):
    log = tmp_path / "filter.log"
    log.write_text("what was there before\n")
    result = run_exec(b"\x07" + DROPPED_RECORD, "--policy", policy_file, "--log-file", str(log))
    assert (result.returncode, result.stderr) == (0, b"")
    before, *lines = log.read_text().splitlines()
    assert before == "what was there before"
    assert re.fullmatch(
        rf"{STAMP} WARNING kube-audit-filter\[\d+\]: records went on undecided so far: not_a_record=1",
        lines[0],
    )
    assert re.fullmatch(rf"{STAMP} INFO    kube-audit-filter\[\d+\]: records in=2 .*", lines[-1])


def test_json_messages_are_one_object_each(policy_file):
    result = run_exec(b"\x07" + DROPPED_RECORD, "--policy", policy_file, "--log-format", "json")
    first, last = map(json.loads, result.stderr.splitlines())
    assert first.keys() == {"time", "level", "pid", "message"}
    assert re.fullmatch(STAMP, first["time"])
    assert (first["level"], last["level"]) == ("warning", "info")
    assert last["message"].startswith("events dropped by rule: 0=1\nrecords in=2 ")


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("info", ["undecided so far", "malformed MessagePack", "records in="]),
        ("warning", ["undecided so far", "malformed MessagePack"]),
        ("error", ["malformed MessagePack"]),
    ],
)
def test_messages_below_the_level_are_left_out(policy_file, level, said):
    result = run_exec(KEPT_RECORD + b"\x07\xc1", "--policy", policy_file, "--log-level", level)
    lines = result.stderr.decode().splitlines()
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_errors_that_end_the_filter_are_in_the_log_file_too(tmp_path):
    policy, log = tmp_path / "policy.yaml", tmp_path / "filter.log"
    arguments = ["--policy", str(policy), "--log-file", str(log)]
    assert run_exec(b"", *arguments).returncode == 1
    policy.write_text("kind: Policy\n")
    assert run_exec(b"", *arguments).returncode == 2
    assert "No such file or directory" in log.read_text()
    assert "is not used" in log.read_text()


@pytest.mark.parametrize("signals", [[], [signal.SIGHUP]], ids=["by itself", "at SIGHUP"])
def test_a_rotated_log_file_is_opened_again(policy_file, tmp_path, signals):
    log, old = tmp_path / "filter.log", tmp_path / "filter.log.1"
    with filtering(policy_file, "--log-file", str(log), "--reload-interval", "0") as child:
        pass_one(child)
        child.send_signal(signal.SIGHUP)
        until(lambda: log.exists() and "in use already" in log.read_text(), lambda: "nothing was said")
        log.rename(old)
        for number in signals:
            child.send_signal(number)
            until(log.exists, lambda: "it was not opened again")
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
        assert child.stderr.read() == b""
    assert "records in=1" in log.read_text()
    assert "records in=1" not in old.read_text()


def test_a_log_file_that_can_not_be_opened_is_said_on_stderr_and_retried(policy_file, tmp_path):
    log = tmp_path / "missing" / "filter.log"
    with filtering(policy_file, "--log-file", str(log), "--reload-interval", "0") as child:
        pass_one(child)
        child.stdin.write(b"\x07")
        said = b""
        while b"undecided" not in said:
            said += os.read(child.stderr.fileno(), 4096)
        first, second = said.decode().splitlines()
        assert first.startswith(f"kube-audit-filter: {log}: No such file or directory; messages go to stderr")
        assert second.startswith("kube-audit-filter: warning: records went on undecided")
        log.parent.mkdir()
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
        assert child.stderr.read() == b""
    assert "records in=2" in log.read_text()


def test_a_stderr_that_nobody_reads_does_not_hold_up_records(policy_file):
    reader, full = os.pipe()
    os.write(full, b"x" * fcntl.fcntl(full, fcntl.F_GETPIPE_SZ))
    command = [*EXEC, "--policy", policy_file]
    result = subprocess.run(
        command,
        input=b"\x07" + KEPT_RECORD,
        stdout=subprocess.PIPE,
        stderr=full,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout == b"\x07" + KEPT_RECORD
    os.close(reader)
    os.close(full)


@pytest.fixture
def said(monkeypatch):
    """Diagnostics with a clock that stands still; what it writes to stderr."""
    lines = []
    clock = [1000.0]
    monkeypatch.setattr("plugin.service.diagnostics.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "plugin.service.diagnostics._write_now",
        lambda _, data: lines.extend(data.decode().splitlines()) or True,
    )
    return Diagnostics(interval=60), lines, clock


def test_what_is_repeated_is_said_once_in_a_while_with_a_count(said):
    diagnostics, lines, clock = said
    for number in range(5):
        diagnostics.rarely("error", "thing", f"message {number}")
        diagnostics.rarely("error", "other", f"another {number}")
    assert lines == ["kube-audit-filter: message 0", "kube-audit-filter: another 0"]
    lines.clear()
    clock[0] += 60
    diagnostics.rarely("error", "thing", "message 5")
    assert lines == ["kube-audit-filter: message 5 (4 messages like this were withheld)"]


def test_what_was_withheld_is_said_when_its_time_has_come_or_at_the_end(said):
    diagnostics, lines, clock = said
    for number in range(4):
        diagnostics.rarely("error", "thing", f"message {number}")
    lines.clear()
    diagnostics.flush()
    assert lines == []
    clock[0] += 60
    diagnostics.flush()
    assert lines == ["kube-audit-filter: message 3 (2 messages like this were withheld)"]
    diagnostics.rarely("error", "thing", "message 4")
    diagnostics.flush(final=True)
    assert lines[1:] == ["kube-audit-filter: message 4"]
    diagnostics.flush(final=True)
    assert len(lines) == 2


def written(say, *, as_json=False):
    """What diagnostics write to a file, when they are told to say something."""
    with tempfile.NamedTemporaryFile(mode="r") as log:
        diagnostics = Diagnostics()
        diagnostics.configure(path=log.name, level="info", as_json=as_json)
        say(diagnostics)
        diagnostics.configure(path=None, level="info", as_json=False)
        return Path(log.name).read_bytes().decode()


NASTY = "refused\nkube-audit-filter: all is well\r\x1b[2J\x1b]0;title\x07 \u202eesrever\u2028next\x85 \udcff"


def test_text_from_outside_stays_on_its_line_and_can_not_steer_a_terminal():
    (line,) = written(lambda diagnostics: diagnostics.error(f"it says: {NASTY}")).splitlines()
    assert line.isprintable()
    assert line.endswith(
        r"it says: refused\nkube-audit-filter: all is well\r\x1b[2J\x1b]0;title\x07"
        r" \u202eesrever\u2028next\x85 \udcff"
    )
    entry = json.loads(written(lambda diagnostics: diagnostics.error(f"it says: {NASTY}"), as_json=True))
    assert line.endswith(entry["message"])
    assert entry["message"].isprintable()


def test_messages_of_several_lines_stay_so():
    text = written(lambda diagnostics: diagnostics.rarely("warning", "thing", "one", "two\n", "three"))
    assert [line.partition("]: ")[2] for line in text.splitlines()] == ["one", r"two\n", "three"]
    entry = json.loads(written(lambda diagnostics: diagnostics.info("one", "two\n"), as_json=True))
    assert entry["message"] == "one\ntwo\\n"


def test_messages_have_an_end():
    text = written(lambda diagnostics: diagnostics.error("x" * (10 * MAX_LINE), *["y"] * (2 * MAX_LINES)))
    first, *_, last = text.splitlines()
    assert len(first) < MAX_LINE + 200
    assert first.endswith(f"x … ({10 * MAX_LINE:,} characters)")
    assert last.endswith(f"({MAX_LINES + 1} more lines)")
    assert len(text.splitlines()) == MAX_LINES + 1
    escaped = written(lambda diagnostics: diagnostics.error("\x1b" * (10 * MAX_LINE)))
    assert len(escaped) < MAX_LINE + 200


@given(st.lists(st.text(st.characters(exclude_categories=[])), min_size=1, max_size=4))
def test_whatever_is_said_is_printable_and_has_as_many_lines(lines):
    text = written(lambda diagnostics: diagnostics.error(*lines))
    assert text.replace("\n", "").isprintable()
    assert text.count("\n") == len(lines)
    entry = json.loads(written(lambda diagnostics: diagnostics.error(*lines), as_json=True))
    assert entry["message"].count("\n") == len(lines) - 1


def test_a_policy_can_not_write_lines_of_its_own_into_the_log(tmp_path):
    policy, log = tmp_path / "policy.yaml", tmp_path / "filter.log"
    policy.write_text(
        'apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n"forged\\nkube-audit-filter: \\e[31mline": 1\n'
    )
    for arguments in ([], ["--log-file", str(log)]):
        result = run_exec(b"", "--policy", str(policy), *arguments)
        assert result.returncode == 2
        said = (result.stderr.decode() or log.read_text()).splitlines()
        assert all(line.isprintable() for line in said)
        assert not any(line.endswith("line") and "forged" not in line for line in said)
        assert sum("forged" in line for line in said) == 1
