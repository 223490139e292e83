"""The exec filter: a child of the agent that reads records on stdin and writes retained ones to stdout.

This module owns the descriptors and the signals; what happens to the bytes is in
:mod:`plugin.stream`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from plugin.diagnostics import STDERR, Diagnostics
from plugin.stream import FilterStream

STDIN, STDOUT = 0, 1
READ_SIZE = 65536
# How long after the grace period a write that nobody takes may still block.
HARD_STOP_AFTER = 1.0


def take_stdout() -> int:
    """Take the stream to the agent away from descriptor 1, so that nothing else can write into it.

    Returns:
        A private descriptor of it. Descriptor 1 now leads to stderr.

    Raises:
        OSError: stdin or stdout is closed.
    """
    # A closed standard descriptor would be the next one that the system gives out.
    for descriptor, name in ((STDIN, "standard input"), (STDOUT, "standard output")):
        try:
            os.fstat(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
    try:
        os.fstat(STDERR)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != STDERR:
            os.dup2(null, STDERR)
    stream = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    return stream


def run(stream: FilterStream, out: int, diagnostics: Diagnostics, shutdown_grace: float) -> int:
    """Filter stdin until it ends.

    Everything decided on is written before the next read. SIGTERM and SIGINT do not stop the
    filter: agents send them while records are still on their way, and those would be lost. They
    start a grace period, in which the input is expected to end.

    Args:
        stream: what to put the bytes through.
        out: descriptor of the stream to the agent.
        diagnostics: where to complain.
        shutdown_grace: seconds from a signal to the end of the filter, at most.

    Returns:
        The exit status: 0, or 1 where records were not written or the input could not be read.
    """
    # What is there now stays, and a record leaves no cycles behind: look for them seldom.
    gc.freeze()
    gc.set_threshold(100_000)
    with _Shutdown(shutdown_grace, diagnostics) as shutdown:
        try:
            ended = _pump(stream, out, shutdown, diagnostics)
            _write(out, stream.finish())
        except BrokenPipeError:
            return 0  # the reader is gone: there is nobody to filter for
        except OSError as error:
            diagnostics.say(f"input or output failed: {error.strerror}; the agent may have lost records")
            return 1
    if not ended:
        diagnostics.say("the grace period is over and the input goes on: what is left of it is not read")
    if stream.error is not None:
        diagnostics.say(f"{stream.error}; everything before that has been written")
    return 0 if ended and stream.error is None else 1


def _pump(stream: FilterStream, out: int, shutdown: _Shutdown, diagnostics: Diagnostics) -> bool:
    """Filter until the input ends, or can't be read, or the grace period is over.

    Returns:
        False where there is input left.
    """
    poll = select.poll()
    poll.register(STDIN, select.POLLIN)
    poll.register(shutdown.wakeup, select.POLLIN)
    undecided = 0
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(shutdown.remaining_ms())]
        if shutdown.wakeup in ready:
            shutdown.acknowledge()
        if shutdown.is_over():
            return STDIN not in ready
        if STDIN not in ready:
            continue
        data = os.read(STDIN, READ_SIZE)
        if not data:
            return True
        _write(out, stream.feed(data))
        if stream.error is not None:
            return True
        if stream.undecided != undecided:
            undecided = stream.undecided
            diagnostics.rarely(
                "undecided", f"records passed on undecided so far: {stream.describe_undecided()}"
            )


def _write(out: int, buffers: Sequence[memoryview | bytes]) -> None:
    """Write buffers whole, in as few calls as the system allows."""
    at = 0
    while at < len(buffers):
        try:
            written = os.writev(out, buffers[at : at + _IOV_MAX])
        except BlockingIOError:  # a descriptor that somebody else made non-blocking
            _wait_until_writable(out)
            continue
        while at < len(buffers) and written >= len(buffers[at]):
            written -= len(buffers[at])
            at += 1
        if written:
            buffers = [memoryview(buffers[at])[written:], *buffers[at + 1 :]]
            at = 0


_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024) if os.sysconf("SC_IOV_MAX") > 0 else 16


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class _Shutdown:
    """What SIGTERM and SIGINT start: a grace period, and its end.

    ``wakeup`` becomes readable when a signal arrives, so that a wait for input notices. A write
    that nobody takes can't notice, so a timer ends the process a moment after the period.
    """

    def __init__(self, grace: float, diagnostics: Diagnostics) -> None:
        self._grace = grace
        self._diagnostics = diagnostics
        self._deadline: float | None = None

    def __enter__(self) -> _Shutdown:
        self.wakeup, self._waker = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._begin)
        signal.signal(signal.SIGINT, self._begin)
        signal.signal(signal.SIGALRM, self._stop_hard)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def remaining_ms(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) * 1000

    def acknowledge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, 4096)

    def _begin(self, signum: int, _: FrameType | None) -> None:
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + self._grace
        signal.setitimer(signal.ITIMER_REAL, self._grace + HARD_STOP_AFTER)
        name = signal.Signals(signum).name
        self._diagnostics.say(f"{name}: going on until the input ends, for at most {self._grace:g} s")

    def _stop_hard(self, *_: object) -> NoReturn:
        self._diagnostics.say("the grace period is over before all output was taken: records are lost")
        os._exit(1)
