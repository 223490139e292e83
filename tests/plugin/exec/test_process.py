"""The real process: pipes, signals, exit codes."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgpack
import pytest

from tests.support import DROPPED, EXEC, KEPT, event, line, run_exec
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    fill,
    filtering,
    read_exactly,
    status_of,
    wait_for_line,
    wait_until,
)


def test_kept_records_come_out_and_the_last_line_sums_up(policy_file):
    result = run_exec(KEPT_RECORD + DROPPED_RECORD + b"\x07" + KEPT_RECORD, "--policy", policy_file)
    assert result.stdout == KEPT_RECORD + b"\x07" + KEPT_RECORD
    assert result.returncode == 0
    rules, totals = result.stderr.decode().splitlines()[-2:]
    assert rules == "kube-audit-filter: events dropped by rule: 0=1"
    assert totals == (
        "kube-audit-filter: records in=4 kept=2 dropped=1 undecided=1 (not_a_record=1)"
        " rewritten=0 reduced=0"
        f" bytes in={3 * len(KEPT_RECORD) + len(DROPPED_RECORD) - len(KEPT_RECORD) + 1}"
        f" out={2 * len(KEPT_RECORD) + 1}"
    )


def test_json_lines_and_the_installed_command(policy_file):
    command = Path(sys.executable).with_name("kube-audit-filter")
    result = subprocess.run(
        [command, "exec", "--format", "json", "--policy", policy_file],
        input=line(KEPT) + line(DROPPED) + b"text\n" + line(KEPT).rstrip(),
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout == line(KEPT) + b"text\n" + line(KEPT).rstrip()


def test_level_match_exact_reads_codes_and_compares_levels(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata, codes: [403]}]\n")
    refused = event(responseStatus={"code": 403})
    sent = line(refused) + line({**refused, "level": "Request"}) + line(event(responseStatus={"code": 200}))
    arguments = ["--format", "json", "--policy", str(path)]
    assert run_exec(sent, *arguments, "--level-match", "exact").stdout == line(refused)
    plain = run_exec(sent, *arguments)
    assert (plain.stdout, plain.returncode) == (b"", 2)
    assert b"extension of k8s-audit-filter" in plain.stderr


def test_lenient_accepts_what_kube_apiserver_only_warns_of(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("apiVersion: audit.k8s.io/v1\nrules:\n- level: Metadata\n  nonResourceUrls: [/x]\n")
    strict = run_exec(KEPT_RECORD, "--policy", str(path))
    assert (strict.returncode, strict.stdout) == (2, b"")
    assert f'{path}:4: unknown field "rules[0].nonResourceUrls"'.encode() in strict.stderr
    assert b'did you mean "nonResourceURLs"?' in strict.stderr
    assert b"--lenient accepts it" in strict.stderr
    lenient = run_exec(KEPT_RECORD, "--policy", str(path), "--lenient")
    assert (lenient.returncode, lenient.stdout) == (0, KEPT_RECORD)
    assert b"warning: " in lenient.stderr


@pytest.mark.parametrize("tail", [b"\xc1", KEPT_RECORD[:-1]])
def test_what_cannot_be_read_ends_the_filter_after_everything_before_it(policy_file, tail):
    result = run_exec(DROPPED_RECORD + KEPT_RECORD + tail, "--policy", policy_file)
    assert (result.returncode, result.stdout) == (1, KEPT_RECORD)
    assert f"offset {len(DROPPED_RECORD + KEPT_RECORD)}".encode() in result.stderr
    assert b"everything before that has been written" in result.stderr
    assert b"records in=2" in result.stderr


def test_200_000_records_in_order_in_little_memory(policy_file):
    count = 200_000
    padding = {"responseObject": {"data": "x" * 700}}
    bodies = [msgpack.packb({**base, **padding})[1:] for base in (KEPT, DROPPED, KEPT)]
    size = len({**KEPT, **padding}) + 1
    assert size < 16  # a fixmap: its header is one byte

    def records(index):
        return bytes([0x80 | size]) + msgpack.packb("seq") + msgpack.packb(index) + bodies[index % 3]

    with filtering(policy_file) as child:

        def feed():
            for start in range(0, count, 100):
                child.stdin.write(b"".join(map(records, range(start, start + 100))))

        writer = threading.Thread(target=feed)
        writer.start()
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 24)
        expected = (index for index in range(count) if index % 3 != 1)
        last = max(index for index in range(count) if index % 3 != 1)
        seen = -1
        while seen != last:
            unpacker.feed(os.read(child.stdout.fileno(), 1 << 16))
            for record in unpacker:
                seen = record["seq"]
                assert seen == next(expected)
        writer.join()
        peak = status_of(child, "VmHWM")
        assert peak < 80 * 1024, f"peak memory was {peak} KiB"
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def test_a_record_comes_out_while_the_pipe_stays_open(policy_file):
    """And at once: the quickest answer is nowhere near what waiting for something else would take."""
    copy = [sys.executable, "-c", "import os\nwhile data := os.read(0, 65536): os.write(1, data)"]
    delays = {}
    with filtering(policy_file) as child, filtering(policy_file, command=copy) as other:
        for process in [child, other] * 50:
            start = time.monotonic()
            os.write(process.stdin.fileno(), DROPPED_RECORD + KEPT_RECORD + DROPPED_RECORD[:50])
            if process is child:
                assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
            else:
                read_exactly(other.stdout.fileno(), len(DROPPED_RECORD + KEPT_RECORD) + 50)
            delays.setdefault(process, []).append(time.monotonic() - start)
            os.write(process.stdin.fileno(), DROPPED_RECORD[50:])
            if process is other:
                read_exactly(other.stdout.fileno(), len(DROPPED_RECORD) - 50)
        assert min(delays[child]) < 100 * min(delays[other])


def cpu_time(command):
    """Seconds that a command computes for which is given a record: the least of several times."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=KEPT_RECORD, stdout=subprocess.DEVNULL, timeout=DEADLINE, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_the_first_decision_comes_soon_after_the_start():
    """The start of the filter costs little more than the libraries that it can't do without."""
    libraries = cpu_time([sys.executable, "-c", "import click, msgpack, msgspec, yaml"])
    assert cpu_time([*EXEC, "--policy", "builtin:recommended", "--log-level", "error"]) < 3 * libraries


def test_what_only_others_need_is_not_imported(policy_file):
    """Metrics, for one, where there are none: each of these takes a good part of the start again."""
    command = [sys.executable, "-X", "importtime", *EXEC[1:], "--policy", policy_file]
    result = subprocess.run(command, input=KEPT_RECORD, capture_output=True, timeout=DEADLINE, check=True)
    imported = {row.rpartition("|")[2].strip() for row in result.stderr.decode().splitlines()}
    assert "msgspec" in imported
    assert imported.isdisjoint({"asyncio", "http.server", "prometheus_client", "rich", "ssl", "uvloop"})


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM] * 3])
def test_a_signal_does_not_stop_the_filter_before_its_input_ends(policy_file, signals):
    with filtering(policy_file) as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        for number in signals:
            child.send_signal(number)
        wait_for_line(child.stderr, b"going on until the input ends, or nothing moves for 8 s")
        for _ in range(1000):
            child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def test_the_grace_period_ends_a_filter_whose_input_does_not(policy_file):
    with filtering(policy_file, "--shutdown-grace", "0.2") as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        start = time.monotonic()
        child.terminate()
        assert child.wait(DEADLINE) == 0
        assert time.monotonic() - start >= 0.2
        assert b"records in=1" in child.stderr.read()


def test_input_that_flows_for_longer_than_the_grace_period_is_all_filtered(policy_file):
    with filtering(policy_file, "--shutdown-grace", "2") as child:
        child.stdin.write(KEPT_RECORD)
        read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
        child.terminate()
        wait_for_line(child.stderr, b"or nothing moves for 2 s")
        end = time.monotonic() + 3

        def flows_for_longer():
            child.stdin.write(DROPPED_RECORD)
            return time.monotonic() >= end

        wait_until(flows_for_longer, "the grace period is over")
        child.stdin.write(KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


def test_signals_are_held_back_while_the_program_is_being_imported():
    program = """
import signal, sys, types

seen = types.ModuleType("plugin.cli.main")
seen.main = lambda: print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
sys.modules["plugin.cli.main"] = seen
from plugin.__main__ import main

main()
"""
    for command, blocked in (("exec", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]), ("--help", [])):
        result = subprocess.run([sys.executable, "-c", program, command], capture_output=True, check=True)
        assert result.stdout.decode() == f"{blocked}\n"


def test_the_grace_period_ends_a_filter_that_nobody_reads_from(policy_file):
    with filtering(policy_file, "--shutdown-grace", "0.2") as child:
        fill(child, KEPT_RECORD)
        child.terminate()
        assert child.wait(DEADLINE) == 1
        assert b"before all output was taken" in child.stderr.read()


def test_a_slow_reader_slows_the_filter_down_and_loses_nothing(policy_file):
    with filtering(policy_file) as child:
        whole, rest = fill(child, KEPT_RECORD)
        os.set_blocking(child.stdin.fileno(), True)
        writer = threading.Thread(target=lambda: (child.stdin.write(rest), child.stdin.close()))
        writer.start()
        out = b""
        while piece := os.read(child.stdout.fileno(), 1000):
            out += piece
        writer.join()
        assert child.wait(DEADLINE) == 0
        assert out == KEPT_RECORD * (whole + bool(rest))
        assert whole > 10


def test_an_output_that_somebody_made_non_blocking_gets_everything(policy_file):
    """A full pipe then takes a part of what is written, or nothing."""
    reader, output = os.pipe()
    os.set_blocking(output, False)
    count = 3000
    with filtering(policy_file, stdout=output) as child:
        os.close(output)
        writer = threading.Thread(
            target=lambda: (child.stdin.write((KEPT_RECORD + DROPPED_RECORD) * count), child.stdin.close())
        )
        writer.start()
        out = b""
        while piece := os.read(reader, 777):
            out += piece
        os.close(reader)
        writer.join()
        assert child.wait(DEADLINE) == 0
        assert out == KEPT_RECORD * count


def test_a_closed_output_ends_the_filter_and_is_spoken_of(policy_file):
    with filtering(policy_file) as child:
        child.stdout.close()
        try:
            while child.poll() is None:
                child.stdin.write(KEPT_RECORD)
        except BrokenPipeError:
            pass
        assert child.wait(DEADLINE) == 0
        said = child.stderr.read().decode().splitlines()
        assert len(said) == 2
        assert "warning: the reader of the output has gone" in said[0]
        assert "records in=" in said[1]


def test_a_full_disk_is_an_error(policy_file):
    with Path("/dev/full").open("wb") as full, filtering(policy_file, stdout=full) as child:
        child.stdin.write(KEPT_RECORD)
        assert child.wait(DEADLINE) == 1
        assert b"No space left on device" in child.stderr.read()


def test_nothing_but_records_can_reach_the_output(policy_file):
    program = """
import os, sys
import plugin.exec.stream
from plugin.__main__ import main

feed = plugin.exec.stream.FilterStream.feed

def noisy(self, data):
    print("stray", flush=True)
    os.write(1, b"stray")
    os.system("echo stray")
    return feed(self, data)

plugin.exec.stream.FilterStream.feed = noisy
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, "exec", "--policy", policy_file],
        input=KEPT_RECORD,
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout == KEPT_RECORD
    assert result.stderr.count(b"stray") == 3


def test_records_that_the_engine_fails_on_pass_and_are_reported_once_and_at_the_end(policy_file):
    program = """
import filter_engine
from plugin.__main__ import main

def fail(self, event):
    raise TypeError("broken on purpose")

filter_engine.PolicyEvaluator.evaluate = fail
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, "exec", "--policy", policy_file],
        input=DROPPED_RECORD * 50,
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout == DROPPED_RECORD * 50
    assert result.stderr.count(b"broken on purpose") == 2
    assert b"(49 messages like this were withheld)" in result.stderr
    assert b"undecided=50 (internal_error=50)" in result.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_cannot_be_written_to_does_not_matter(policy_file, redirection):
    command = f'exec "$0" -m kube_audit_filter exec --policy "$1" {redirection}'
    result = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, policy_file],
        input=KEPT_RECORD + DROPPED_RECORD + b"\x07",
        stdout=subprocess.PIPE,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout == KEPT_RECORD + b"\x07"


@pytest.mark.parametrize("redirection", [">&-", "<&-"])
def test_a_missing_stdin_or_stdout_is_explained(policy_file, redirection):
    command = f'exec "$0" -m kube_audit_filter exec --policy "$1" {redirection}'
    result = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, policy_file],
        input=b"",
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert b"Bad file descriptor" in result.stderr


def test_the_summary_names_events_that_no_rule_matched(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: None, users: [system:kube-proxy]}]\n")
    result = run_exec(KEPT_RECORD * 2 + DROPPED_RECORD, "--policy", str(path))
    assert result.stderr.decode().splitlines()[1:3] == [
        "kube-audit-filter: events dropped by rule: 0=1",
        "kube-audit-filter: events dropped because no rule matched: 2",
    ]
