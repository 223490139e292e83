"""What signals do to the exec filter: an agent's pipe is read to its end, a file may be left."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import DROPPED, EXEC, KEPT, line
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    Reading,
    filtering,
    read_exactly,
    status_of,
    wait_for_line,
    wait_until,
)

BOTH = [signal.SIGINT, signal.SIGTERM]
STOPPED = re.compile(rb"the input was read up to byte ([0-9]+), and not to its end")


@pytest.fixture
def endless(tmp_path):
    """A regular file that nobody lives to see the end of: each zero byte is a record, which passes."""
    path = tmp_path / "endless"
    path.touch()
    os.truncate(path, 1 << 40)
    return path


@contextmanager
def reading(path, policy_file, *arguments, **options):
    """A filter with a file as its input."""
    with path.open("rb") as file:
        child = subprocess.Popen(
            [*EXEC, "--policy", policy_file, *arguments],
            stdin=file,
            stdout=options.pop("stdout", subprocess.DEVNULL),
            stderr=subprocess.PIPE,
            bufsize=0,
            **options,
        )
    with child:
        try:
            yield child
        finally:
            child.kill()


def position(pid):
    """How far a process has read its input."""
    return int(re.search(r"pos:\s+([0-9]+)", Path(f"/proc/{pid}/fdinfo/0").read_text())[1])


def wait_until_it_reads_on(pid):
    before = position(pid)
    wait_until(lambda: position(pid) > before + (1 << 18), "more of the input is read")


def wait_a_moment(seconds):
    """Long enough for two signals to be two requests."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the time has come")


def wait_until_it_handles_signals(child):
    wait_until(lambda: status_of(child, "SigCgt") & 1, "the filter handles SIGHUP")


def waiting_in(pipe):
    """How many bytes are in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def test_ctrl_c_ends_the_reading_of_a_file(policy_file, endless):
    with reading(endless, policy_file) as child:
        wait_until_it_reads_on(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.wait(DEADLINE) == -signal.SIGINT
        said = child.stderr.read()
    assert b"warning: SIGINT: the input was read up to byte" in said
    assert b"going on" not in said
    count = int(STOPPED.search(said)[1])
    assert b"records in=%d " % count in said


@pytest.mark.parametrize(
    ("start", "said", "status"),
    [("", b"run\n", -signal.SIGINT), ("trap : INT; ", b"run\nstatus=130\n", 0)],
    ids=["a shell's loop ends too", "a shell that goes on is told 130"],
)
def test_ctrl_c_is_seen_by_a_shell(policy_file, endless, start, said, status):
    command = " ".join([*EXEC, "--policy", policy_file])
    script = (
        f"{start}for i in 1 2 3; do echo run; {command} < {endless} > /dev/null; echo status=$?; break; done"
    )
    with subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as shell:

        def is_reading():
            found = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
            return found and position(found[0]) > 1 << 18

        try:
            wait_until(is_reading, "the filter reads")
            os.killpg(shell.pid, signal.SIGINT)
            assert shell.wait(DEADLINE) == status
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        assert shell.stdout.read() == said


def test_the_first_sigterm_lets_a_file_be_read_on_and_a_second_signal_ends_at_once(policy_file, endless):
    for second in BOTH:
        with reading(endless, policy_file) as child:
            wait_until_it_reads_on(child.pid)
            child.send_signal(signal.SIGTERM)
            wait_for_line(child.stderr, b"SIGTERM: going on until the input ends")
            wait_until_it_reads_on(child.pid)
            wait_a_moment(0.1)
            child.send_signal(second)
            assert child.wait(DEADLINE) == 1
            said = child.stderr.read()
        assert b"%s, the second signal: the input was read up to" % second.name.encode() in said


def test_a_file_that_ends_after_sigterm_is_filtered_whole(policy_file, tmp_path):
    path = tmp_path / "input"
    path.write_bytes((DROPPED_RECORD + KEPT_RECORD) * 5000)
    with reading(path, policy_file, stdout=subprocess.PIPE) as child:
        wait_until(lambda: waiting_in(child.stdout) > 50_000, "the output is full")
        child.send_signal(signal.SIGTERM)
        assert Reading(child.stdout.fileno()).result() == KEPT_RECORD * 5000
        assert child.wait(DEADLINE) == 0


def test_timeout_sends_its_signal_twice_and_means_it_once(policy_file, endless):
    with endless.open("rb") as file:
        command = ["timeout", "2", *EXEC, "--policy", policy_file]
        run = subprocess.Popen(
            command, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
        )
    with run:
        try:
            wait_for_line(run.stderr, b"SIGTERM: going on until the input ends")
            child = int(Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text())
            wait_until_it_reads_on(child)
            wait_a_moment(0.3)
            os.kill(child, signal.SIGTERM)
            assert run.wait(DEADLINE) == 124
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
        assert STOPPED.search(run.stderr.read())


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_what_was_decided_is_written_as_whole_records(policy_file, tmp_path, signals, reply):
    record = DROPPED_RECORD + KEPT_RECORD
    path = tmp_path / "input"
    path.write_bytes(record * 50_000)
    arguments = ["--reply"] if reply else []
    with reading(path, policy_file, *arguments, stdout=subprocess.PIPE) as child:
        wait_until(lambda: waiting_in(child.stdout) > 10_000, "there is output")
        for number in signals:
            child.send_signal(number)
            wait_a_moment(0.2)
        out = Reading(child.stdout.fileno()).result()
        assert child.wait(DEADLINE) == (-signal.SIGINT if len(signals) == 1 else 1)
        offset = int(STOPPED.search(child.stderr.read())[1])
    assert 0 < offset < len(record) * 50_000
    pairs, rest = divmod(offset, len(record))
    assert rest in (0, len(DROPPED_RECORD))
    answers, dropped = (b"\xc2\xc3", b"\xc2") if reply else (KEPT_RECORD, b"")
    assert out == answers * pairs + (dropped if rest else b"")


def test_a_record_that_is_too_large_to_hold_is_not_cut_off_by_the_first_signal(policy_file, tmp_path):
    large = line({**KEPT, "responseObject": "x" * (4 << 20)})
    data = (large + line(DROPPED)) * 20
    path = tmp_path / "input"
    path.write_bytes(data)
    arguments = ["--format", "json", "--max-record-size", "64K"]
    with reading(path, policy_file, *arguments, stdout=subprocess.PIPE) as child:
        wait_until(lambda: waiting_in(child.stdout) > 50_000, "the record passes")
        child.send_signal(signal.SIGINT)
        out = Reading(child.stdout.fileno()).result()
        assert child.wait(DEADLINE) == -signal.SIGINT
        said = child.stderr.read()
    assert out == large
    assert b"cut off" not in said


def test_output_that_nobody_takes_does_not_hold_up_the_second_signal(policy_file, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(KEPT_RECORD * 5000)
    with reading(path, policy_file, "--shutdown-grace", "600", stdout=subprocess.PIPE) as child:
        wait_until(lambda: waiting_in(child.stdout) > 50_000, "the output is full")
        for _ in range(2):
            child.send_signal(signal.SIGTERM)
            wait_a_moment(0.2)
        assert child.wait(DEADLINE) == 1
        assert b"a second signal came before all output was taken: records are lost" in child.stderr.read()


@contextmanager
def terminal():
    master, slave = os.openpty()
    try:
        yield slave
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("which", ["stdin", "stdout"])
def test_ctrl_c_ends_a_filter_at_a_terminal(policy_file, which):
    reader, writer = os.pipe()
    with terminal() as end:
        ends = {"stdin": reader, "stdout": subprocess.DEVNULL, which: end}
        child = subprocess.Popen(
            [*EXEC, "--policy", policy_file, "--format", "json"], stderr=subprocess.PIPE, bufsize=0, **ends
        )
        with child:
            wait_until_it_handles_signals(child)
            child.send_signal(signal.SIGINT)
            assert child.wait(DEADLINE) == -signal.SIGINT
            assert STOPPED.search(child.stderr.read())
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("signals", [[signal.SIGTERM] * 3, [signal.SIGINT, signal.SIGTERM, signal.SIGINT]])
def test_no_number_of_signals_ends_the_reading_of_a_pipe(policy_file, signals):
    with filtering(policy_file) as child:
        wait_until_it_handles_signals(child)
        for index, number in enumerate(signals):
            child.send_signal(number)
            if index == 0:
                wait_for_line(child.stderr, b"going on until the input ends, or nothing moves for 8 s\n")
            wait_a_moment(0.2)
            child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def test_records_in_the_pipe_survive_the_signal_that_fluentd_sends_after_closing_it(policy_file):
    """A signal to the whole group, a flush, the end of the pipe, and at once a signal to the child."""
    with filtering(policy_file) as child:
        wait_until_it_handles_signals(child)
        child.send_signal(signal.SIGTERM)
        wait_for_line(child.stderr, b"going on until the input ends")
        wait_a_moment(0.2)
        count = 65536 // len(KEPT_RECORD)
        child.send_signal(signal.SIGSTOP)
        child.stdin.write(KEPT_RECORD * count)
        child.stdin.close()
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGCONT)
        assert Reading(child.stdout.fileno()).result() == KEPT_RECORD * count
        assert child.wait(DEADLINE) == 0


@pytest.mark.parametrize("in_grace_period", [False, True])
def test_sigalrm_from_outside_does_nothing(policy_file, in_grace_period):
    with filtering(policy_file) as child:
        os.set_blocking(child.stdin.fileno(), False)
        sent = 0
        while select.select([], [child.stdin], [], 1)[1]:  # until both pipes are full
            sent += child.stdin.write(KEPT_RECORD * 8) or 0
        if in_grace_period:
            child.send_signal(signal.SIGTERM)
        for _ in range(8):
            child.send_signal(signal.SIGALRM)
            wait_a_moment(0.2)
        assert child.poll() is None
        rest = -sent % len(KEPT_RECORD)
        out = Reading(child.stdout.fileno())
        os.set_blocking(child.stdin.fileno(), True)
        child.stdin.write(KEPT_RECORD[len(KEPT_RECORD) - rest :])
        child.stdin.close()
        assert out.result() == KEPT_RECORD * ((sent + rest) // len(KEPT_RECORD))
        assert child.wait(DEADLINE) == 0


def test_sigalrm_while_the_program_starts_does_nothing(policy_file):
    with filtering(policy_file) as child:

        def is_ignored():
            return (status_of(child, "SigIgn") | status_of(child, "SigCgt")) & 1 << (signal.SIGALRM - 1)

        wait_until(is_ignored, "SIGALRM has no effect")
        child.send_signal(signal.SIGALRM)
        child.stdin.write(KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


@pytest.mark.parametrize("command", ["exec", "forward"])
def test_signals_are_held_back_before_anything_else_is_imported(command):
    program = """
import json, signal, sys

early = set()
def note(event, arguments):
    if event == "import" and signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        early.add(arguments[0])
sys.addaudithook(note)
import kube_audit_filter.__main__
print(json.dumps(sorted(early)))
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""
    result = subprocess.run(
        [sys.executable, "-c", program, command], capture_output=True, check=True, text=True
    )
    package = "kube_audit_filter"
    names = [package, f"{package}.__main__", f"{package}.service", f"{package}.service.signals"]
    found = [name for name in json.loads(result.stdout) if name.startswith(package) or name == "typing"]
    assert found == names
