"""The filter as a real process, and patience with it."""

import os
import select
import subprocess
import time
from contextlib import contextmanager

import msgpack

from tests.support import DROPPED, EXEC, KEPT

KEPT_RECORD, DROPPED_RECORD = msgpack.packb(KEPT), msgpack.packb(DROPPED)
DEADLINE = 30


@contextmanager
def filtering(policy_file, *arguments, **options):
    """A running filter, killed if the test leaves it behind."""
    child = subprocess.Popen(
        [*EXEC, "--policy", policy_file, *arguments],
        stdin=subprocess.PIPE,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
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


def fill(child, record):
    """Write records until both pipes are full and the filter blocks; returns how many."""
    os.set_blocking(child.stdin.fileno(), False)
    written = 0
    pending = b""
    while True:
        pending = pending or record
        _, ready, _ = select.select([], [child.stdin], [], 0.5)
        if not ready:
            return written // len(record), pending if pending != record else b""
        try:
            sent = os.write(child.stdin.fileno(), pending)
        except BlockingIOError:
            continue
        written += sent
        pending = pending[sent:]
