"""What goes wrong around the real process: readers, disks, kills and signals."""

import itertools
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import msgpack
import pytest

from tests.support import EXEC, KEPT, line
from tests.support.processes import (
    DEADLINE,
    DROPPED_RECORD,
    KEPT_RECORD,
    Reading,
    cpu_ticks,
    filtering,
    is_blocked,
    read_exactly,
    samples,
    sleeps,
    status_of,
    wait_for_line,
    wait_for_room,
    wait_until,
)

PIPE = READ = 65536
LATER = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def numbered(index):
    return msgpack.packb({"seq": index, **KEPT})


class Pusher:
    """Writes numbered records into a pipe for as long as it takes them, as an agent's thread does."""

    def __init__(self, child, encode=numbered):
        self.sent = 0
        self._child = child
        self._numbers = itertools.count()
        self._encode = encode
        self._pending = b""
        os.set_blocking(child.stdin.fileno(), False)

    def push_until_blocked(self):
        while wait_for_room(self._child):
            self._pending = self._pending or b"".join(map(self._encode, itertools.islice(self._numbers, 50)))
            with suppress(BlockingIOError):
                count = os.write(self._child.stdin.fileno(), self._pending)
                self.sent += count
                self._pending = self._pending[count:]


def beginning(size, encode=numbered):
    """The first bytes of what a Pusher writes."""
    data = bytearray()
    for index in itertools.count():
        if len(data) >= size:
            return bytes(data[:size])
        data += encode(index)
    return None


def whole_records(data):
    """How many bytes of some output are whole records."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    end = 0
    with suppress(msgpack.OutOfData):
        while True:
            unpacker.skip()
            end = unpacker.tell()
    return end


def test_a_reader_that_stops_now_and_then_blocks_the_filter_in_flat_memory(policy_file):
    with filtering(policy_file) as child:
        pusher, taken, memory = Pusher(child), b"", []
        for _ in range(4):
            pusher.push_until_blocked()
            # Two pipes, what was read last, and a record that had not ended then.
            assert pusher.sent - len(taken) <= 2 * PIPE + READ + len(numbered(0)) + 8
            memory.append(status_of(child, "VmRSS"))
            taken += read_exactly(child.stdout.fileno(), (pusher.sent - len(taken)) // 2)
        assert max(memory) - min(memory) <= 1024
        assert status_of(child, "VmHWM") < 80 * 1024
        reading = Reading(child.stdout.fileno())
        child.stdin.close()
        rest = whole_records(beginning(pusher.sent))
        assert taken + reading.result() == beginning(rest)
        assert child.wait(DEADLINE) == (0 if rest == pusher.sent else 1)


@contextmanager
def unusable_log(kind, directory):
    """A path at which no log can be written."""
    path = directory / "log"
    holder = None
    if kind == "full disk":
        path.symlink_to("/dev/full")
    elif kind == "directory":
        path.mkdir()
    elif kind == "missing directory":
        path = directory / "missing" / "log"
    elif kind == "below a file":
        path = directory / "policy.yaml" / "log"
    elif kind == "symbolic links in a circle":
        path.symlink_to(path)
    else:
        os.mkfifo(path)
        if kind == "full pipe":
            holder = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            fill_up(holder)
    yield str(path)
    if holder is not None:
        os.close(holder)


def fill_up(descriptor):
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, bytes(4096))


CAN_BE_OPENED = ["full disk", "full pipe"]


@pytest.mark.parametrize(
    "kind",
    [
        *CAN_BE_OPENED,
        "pipe without reader",
        "directory",
        "missing directory",
        "below a file",
        "symbolic links in a circle",
    ],
)
def test_a_log_that_cannot_be_written_holds_up_no_record(policy_file, tmp_path, kind):
    metrics = tmp_path / "kube-audit-filter-0.prom"
    with (
        unusable_log(kind, tmp_path) as path,
        filtering(policy_file, "--log-file", path, "--metrics-textfile", str(tmp_path)) as child,
    ):
        wait_until(metrics.exists, "metrics are written")
        for _ in range(20):
            child.send_signal(signal.SIGHUP)  # each is answered with a message
            child.stdin.write(b"\x07" + DROPPED_RECORD + KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), 1 + len(KEPT_RECORD)) == b"\x07" + KEPT_RECORD

        def counts():
            found = samples(metrics.read_text())
            said = sum(value for name, value in found.items() if name.startswith("log_messages_total"))
            return said >= 2 and (said, found['log_messages_unwritten_total{child="0"}'])

        said, unwritten = wait_until(counts, "messages are counted")
        assert unwritten == (said if kind in CAN_BE_OPENED else 0)
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
        on_stderr = child.stderr.read()
    if kind in CAN_BE_OPENED:
        assert on_stderr == b""
    else:
        assert on_stderr.count(b"messages go to stderr until it can be opened") == 1
        assert b"records in=60" in on_stderr


def test_messages_go_to_the_log_as_soon_as_it_can_be_opened(policy_file, tmp_path):
    log = tmp_path / "later" / "log"
    with filtering(policy_file, "--log-file", str(log)) as child:
        child.stdin.write(b"\x07")  # complained of
        wait_for_line(child.stderr, b"went on undecided")
        log.parent.mkdir()
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
        assert b"records in=" not in child.stderr.read()
    assert "records in=1" in log.read_text()


def test_a_full_stderr_that_nobody_reads_holds_up_no_record(policy_file, tmp_path):
    reader, stderr = os.pipe()
    os.set_blocking(stderr, False)
    fill_up(stderr)
    os.set_blocking(stderr, True)
    with filtering(policy_file, "--metrics-textfile", str(tmp_path), stderr=stderr) as child:
        for _ in range(20):
            child.stdin.write(b"\x07" + KEPT_RECORD)
            assert read_exactly(child.stdout.fileno(), 1 + len(KEPT_RECORD)) == b"\x07" + KEPT_RECORD
        child.terminate()
        child.stdin.close()
        assert child.wait(DEADLINE) == 0
    os.close(reader)
    os.close(stderr)


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_what_was_in_the_pipe_and_what_was_read_last(policy_file, seed):
    """And a new filter on new pipes, as Fluentd starts one, goes on with the next record."""
    chance = random.Random(seed)
    with filtering(policy_file) as child:
        pusher, taken = Pusher(child), b""
        for _ in range(seed):
            pusher.push_until_blocked()
            taken += read_exactly(child.stdout.fileno(), chance.randrange(1, pusher.sent - len(taken)))
        pusher.push_until_blocked()
        child.kill()
        # What the filter had written is still in the pipe: the agent reads it to the end.
        taken += Reading(child.stdout.fileno()).result()
        assert taken == beginning(len(taken))
        assert pusher.sent - len(taken) <= PIPE + READ + len(numbered(0)) + 8
        # Killed while it waited for a reader: the last record may be there in part.
        torn = len(taken) - whole_records(taken)
        assert 0 <= torn < len(numbered(0)) + 8


def test_a_kill_while_the_agent_keeps_up_tears_no_record(policy_file):
    """What fits into the pipe is written in one piece."""
    with filtering(policy_file) as child:
        for index in range(200):
            child.stdin.write(numbered(index) * 10)
            read_exactly(child.stdout.fileno(), len(numbered(index)) * 10)
        child.stdin.write(numbered(200) * 10)
        child.kill()
        left = Reading(child.stdout.fileno()).result()
        assert left in (b"", numbered(200) * 10)


def test_a_kill_leaves_lines_in_a_pipe_that_outlives_the_filter_to_the_next_one(policy_file):
    """A shell that starts the filter again and again keeps the pipe: only what was read is lost."""

    def encode(index):
        return line({"seq": index, **KEPT})

    source, target = os.pipe()
    command = [*EXEC, "--policy", policy_file, "--format", "json"]
    with open(target, "wb", buffering=0) as stdin:  # noqa: PTH123
        first = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        first.stdin = stdin
        pusher = Pusher(first, encode)
        pusher.push_until_blocked()
        first.kill()
        written = Reading(first.stdout.fileno()).result()
        assert first.wait(DEADLINE) == -signal.SIGKILL
        first.stdout.close()
        second = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        os.close(source)
    rest = Reading(second.stdout.fileno()).result()
    second.wait(DEADLINE)
    second.stdout.close()
    everything = beginning(pusher.sent, encode)
    assert everything.startswith(written)
    # The second filter begins in the middle of a line, which is none and passes; the last one is cut off.
    tail = everything[everything.index(rest[: rest.index(b"\n") + 200]) :]
    assert tail.startswith(rest)
    assert len(tail) - len(rest) < len(encode(9999))
    assert len(everything) - len(written) - len(tail) <= READ + len(encode(9999))


def test_sigterm_while_the_output_is_full_waits_for_a_reader_that_comes_back(policy_file):
    with filtering(policy_file, "--shutdown-grace", "30") as child:
        pusher = Pusher(child)
        pusher.push_until_blocked()
        child.terminate()
        wait_until(lambda: not is_pending(child, signal.SIGTERM) and sleeps(child), "it has noticed")
        assert is_blocked(child)
        assert not select.select([child.stderr], [], [], 0)[0]
        reading = Reading(child.stdout.fileno())
        child.stdin.close()
        whole = whole_records(beginning(pusher.sent))
        assert child.wait(DEADLINE) == (0 if whole == pusher.sent else 1)
        assert reading.result() == beginning(whole)


def test_sigterm_waits_for_a_large_record_that_is_taken_slowly(policy_file):
    """Each part that is taken is movement, though one write takes longer than the grace period."""
    record = msgpack.packb({**KEPT, "responseObject": {"data": "x" * (1 << 20)}})
    with filtering(policy_file, "--shutdown-grace", "1") as child:
        writer = threading.Thread(
            target=lambda: (child.stdin.write(record), child.stdin.close()), daemon=True
        )
        writer.start()
        out = read_exactly(child.stdout.fileno(), 4096)
        child.terminate()
        with suppress(AssertionError):
            while len(out) < len(record):
                select.select([], [], [], 0.1)
                out += read_exactly(child.stdout.fileno(), min(32768, len(record) - len(out)))
        assert len(out) == len(record), child.stderr.read().decode()
        assert out == record
        assert child.wait(DEADLINE) == 0


AGENT = """
import os, select, signal, subprocess, sys

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
record = bytes.fromhex(sys.argv[1])
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, bufsize=0)
while not told:
    child.stdin.write(record)
    select.select([], [], [], 0.01)
for _ in range(40):  # its backlog
    child.stdin.write(record * 20)
    select.select([], [], [], 0.1)
child.stdin.write(b"\\x07")
child.stdin.close()
sys.exit(child.wait())
"""


def test_sigterm_to_the_whole_group_waits_for_a_backlog_longer_than_the_grace_period(policy_file):
    command = [*EXEC, "--policy", policy_file, "--shutdown-grace", "1.5"]
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, KEPT_RECORD.hex(), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with agent:
        out = read_exactly(agent.stdout.fileno(), len(KEPT_RECORD))
        start = time.monotonic()
        os.killpg(agent.pid, signal.SIGTERM)
        out += Reading(agent.stdout.fileno()).result()
        assert agent.wait(DEADLINE) == 0
        assert time.monotonic() - start > 2 * 1.5
        assert b"or nothing moves for 1.5 s" in agent.stderr.read()
    count = len(out) // len(KEPT_RECORD)
    assert count > 800
    assert out == KEPT_RECORD * count + b"\x07"


def test_sighup_under_load_loses_nothing(policy_file):
    count = 40_000
    with filtering(policy_file) as child:
        sent = beginning(count * len(numbered(9999)))
        sent = sent[: whole_records(sent)]
        writer = threading.Thread(target=lambda: (child.stdin.write(sent), child.stdin.close()), daemon=True)
        reading, said = Reading(child.stdout.fileno()), Reading(child.stderr.fileno())
        wait_until(lambda: status_of(child, "SigCgt") & 1, "the filter handles SIGHUP")
        writer.start()
        times = 0
        while not child.stdin.closed:
            child.send_signal(signal.SIGHUP)
            times += 1
            select.select([], [], [], 0.001)
        assert child.wait(DEADLINE) == 0
        assert reading.result() == sent
        assert said.result().count(b"this policy is in use already") > 1
        assert times > 10


def is_pending(child, number):
    """Whether a signal was sent to a process and has not reached it."""
    return (status_of(child, "SigPnd") | status_of(child, "ShdPnd")) & (1 << (number - 1))


def is_deaf(child):
    """Whether signals no longer have their usual effect: blocked first, then handled."""
    wanted = sum(1 << (number - 1) for number in LATER)
    return (status_of(child, "SigBlk") | status_of(child, "SigCgt")) & wanted == wanted


@pytest.mark.parametrize("late", range(6))
def test_signals_right_after_the_start_do_not_end_the_filter(policy_file, late):
    """Only the start of the interpreter is before that: there is nothing to block them with yet.

    ``late`` is in ticks of the time that the filter has computed for until it waits for its input.
    """
    with filtering(policy_file) as child:
        wait_until(lambda: is_deaf(child), "signals are blocked or handled")
        at_first = cpu_ticks(child)
        wait_until(lambda: cpu_ticks(child) - at_first >= late or sleeps(child), "the time has come")
        for number in LATER:
            child.send_signal(number)
        child.stdin.write(DROPPED_RECORD + KEPT_RECORD)
        assert read_exactly(child.stdout.fileno(), len(KEPT_RECORD)) == KEPT_RECORD
        child.stdin.close()
        assert child.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", sorted(LATER))
def test_signals_at_the_end_do_not_change_the_exit_status(policy_file, number):
    """An agent whose children are told to end several times sees no crash."""
    statuses = []
    for _ in range(5):
        with filtering(policy_file) as child:
            child.stdin.write(KEPT_RECORD)
            read_exactly(child.stdout.fileno(), len(KEPT_RECORD))
            child.stdin.close()
            while child.poll() is None:
                child.send_signal(number)
                select.select([], [], [], 0.0005)
            statuses.append(child.returncode)
    assert statuses == [0] * 5
