"""The filter as a real process, and patience with it."""

import os
import re
import select
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack

from tests.support import DROPPED, EXEC, KEPT

KEPT_RECORD, DROPPED_RECORD = msgpack.packb(KEPT), msgpack.packb(DROPPED)
# Seconds after which something that a test waits for is said not to happen, on a machine however busy.
DEADLINE = 60


@contextmanager
def filtering(policy_file, *arguments, **options):
    """A running filter, killed if the test leaves it behind."""
    child = subprocess.Popen(
        [*options.pop("command", EXEC), "--policy", policy_file, *arguments],
        stdin=subprocess.PIPE,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        bufsize=0,
        **options,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def read_exactly(descriptor, size, *, deadline=DEADLINE):
    """Wait for as many bytes."""
    data = b""
    end = time.monotonic() + deadline
    while len(data) < size:
        ready, _, _ = select.select([descriptor], [], [], max(0, end - time.monotonic()))
        assert ready, f"{len(data)} of {size} bytes came within {deadline} s"
        piece = os.read(descriptor, size - len(data))
        assert piece, f"the output ended after {len(data)} of {size} bytes"
        data += piece
    return data


def wait_for_line(stream, text):
    """Wait until the child says something on stderr."""
    said = b""
    while text not in said:
        ready, _, _ = select.select([stream], [], [], DEADLINE)
        assert ready, said
        piece = os.read(stream.fileno(), 4096)
        assert piece, said
        said += piece
    return said


def has_room(pipe):
    """Whether something can be written into a pipe at once."""
    return bool(select.select([], [pipe], [], 0)[1])


def is_full(pipe):
    """Whether there is no room left in a pipe that this process reads."""
    writer = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not has_room(writer)
    finally:
        os.close(writer)


def sleeps(child):
    """Whether the main thread of a process waits for something."""
    stat = Path(f"/proc/{child.pid}/task/{child.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def is_blocked(child):
    """Whether both pipes are full and the filter waits for its reader."""
    return is_full(child.stdout) and sleeps(child) and not has_room(child.stdin)


def wait_for_room(child):
    """Wait until the filter takes more. Returns False as soon as it can't: it is blocked."""
    wait_until(lambda: has_room(child.stdin) or is_blocked(child), "the filter reads, or is blocked")
    return has_room(child.stdin)


def fill(child, record):
    """Write records until the filter is blocked.

    Returns:
        How many were written whole, and what is missing of the last one where that was not.
    """
    os.set_blocking(child.stdin.fileno(), False)
    written, pending = 0, record
    while wait_for_room(child):
        with suppress(BlockingIOError):
            sent = os.write(child.stdin.fileno(), pending)
            written += sent
            pending = pending[sent:] or record
    return written // len(record), pending if pending != record else b""


def cpu_ticks(child):
    """The time that a process has computed for, in the system's ticks, of which a second has 100."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_until(condition, what):
    """Wait until something holds; returns what the condition returned."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        select.select([], [], [], 0.005)
    return value


def status_of(child, field):
    """A number that /proc/PID/status has; sizes in KiB, masks of signals in hexadecimal digits."""
    text = Path(f"/proc/{child.pid}/status").read_text()
    value = re.search(rf"^{field}:\s+(\w+)", text, re.MULTILINE)[1]
    return int(value, 16 if field.startswith("Sig") else 10)


def samples(exposition):
    """The samples of a Prometheus exposition, without what all of their names begin with."""
    rows = [row.rpartition(" ") for row in exposition.splitlines() if not row.startswith("#")]
    return {name.removeprefix("kube_audit_filter_"): float(value) for name, _, value in rows}


@contextmanager
def observed(policy_file, directory, *arguments, **options):
    """A running filter that writes to ``filter.log`` in a directory, and a function that scrapes it."""
    log = directory / "filter.log"
    arguments = ("--log-file", str(log), "--metrics-listen", "127.0.0.1:0", *arguments)

    def address():
        return log.exists() and re.search(r"metrics: (http:[^ \n]+)", log.read_text())

    with filtering(policy_file, *arguments, **options) as child:
        url = wait_until(address, "metrics are served")[1]

        def scrape():
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return samples(answer.read().decode())

        scrape.url = url
        yield child, scrape


class Reading(threading.Thread):
    """Reads a descriptor to its end, beside the test."""

    def __init__(self, descriptor):
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._data = bytearray()
        self.start()

    def run(self):
        while piece := os.read(self._descriptor, 1 << 16):
            self._data += piece

    def result(self):
        self.join(DEADLINE)
        assert not self.is_alive(), f"{len(self._data)} bytes came, and no end"
        return bytes(self._data)
