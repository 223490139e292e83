"""The exec filter: a child of the agent that reads records on stdin and writes kept ones to stdout.

This module owns the descriptors; what happens to the bytes is in ``stream``.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections import deque
from collections.abc import Sequence

from ..records.event_filter import EventFilter
from ..records.record_filter import RecordFilter
from ..service.diagnostics import STDERR, Diagnostics
from ..service.recognition import Recognition
from ..service.summary import describe_undecided
from .shutdown import Shutdown
from .stream import FilterStream

STDIN, STDOUT = 0, 1
# The exit status that shells give to a process which SIGINT has ended.
INTERRUPTED = 128 + signal.SIGINT
READ_SIZE = 65536
# Seconds to wait for the rest of a record. Then its first part is checked: it may claim an impossible size.
PATIENCE = 1.0
# Seconds that the records of one read may take. After that, the health check says that the filter is stuck.
STUCK_AFTER = 60.0


def take_stdout() -> int:
    """Move the stream to the agent away from descriptor 1, so that nothing else can write into it.

    Returns:
        A private descriptor of the stream. Descriptor 1 now leads to stderr.

    Raises:
        OSError: stdin or stdout is closed.
    """
    # If a standard descriptor were closed, the next file that is opened would get its number.
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


class ExecFilter:
    """Filters stdin until it ends.

    Args:
        stream: filters the bytes.
        records: the part of the stream that has the policy. While it has none, nothing is read.
        out: descriptor of the stream to the agent.
        shutdown: handles signals.
        diagnostics: where problems are reported.

    Attributes:
        last_read: when input last came, in seconds since the epoch; 0 before the first input.
    """

    def __init__(
        self,
        stream: FilterStream,
        records: RecordFilter,
        out: int,
        shutdown: Shutdown,
        diagnostics: Diagnostics,
    ) -> None:
        self.last_read = 0.0
        self._stream = stream
        self._records = records
        self._out = out
        self._shutdown = shutdown
        self._diagnostics = diagnostics
        self._recognition = Recognition(records.counters, records.format)
        self._next: deque[EventFilter] = deque(maxlen=1)
        self._busy_since: float | None = None
        self._has_ended = False

    @property
    def blocked_for(self) -> float:
        """For how many seconds the agent has not taken the output that waits for it."""
        since = self._shutdown.writing_since
        return 0.0 if since is None else time.monotonic() - since

    def use(self, events: EventFilter) -> None:
        """Use another policy for all records that are read from now on. Any thread may call this."""
        self._next.append(events)
        self._shutdown.wake()

    def trouble(self) -> str | None:
        """Why the filter does not work at all; None if it works, or waits for others."""
        since = self._busy_since
        stuck = 0.0 if since is None else time.monotonic() - since
        return f"the same records have been decided on for {stuck:.0f} s" if stuck > STUCK_AFTER else None

    def unready(self) -> str | None:
        """Why no records are decided on; None while they are."""
        if not self._records.has_policy:
            return "there is no policy that can be used"
        if self._shutdown.has_begun:
            return "the filter is about to end"
        return self.trouble()

    def run(self) -> int:
        """Filter until the input ends, or until a signal asks to stop where the input can be left.

        Everything decided on is written before the next read.

        Returns:
            The exit status: 0; 1 if records were not written, or the input was not read to its end;
            INTERRUPTED if SIGINT stopped the filter.
        """
        # Objects that exist now stay, and records leave no cycles behind: garbage is seldom collected.
        gc.freeze()
        gc.set_threshold(100_000)
        try:
            if not self._wait_for_policy():
                self._diagnostics.error("there was no policy until the end: the input has not been read")
                return 1
            self._pump()
            is_done = self._has_ended or self._stream.error is not None
            if self._shutdown.stopped_by is not None and not is_done:
                self._write(self._stream.leave())
                return self._say_stopped(self._shutdown.stopped_by)
            self._write(self._stream.finish())
            self._recognize(b"", is_end=True)
        except BrokenPipeError:
            self._diagnostics.warning(
                "the reader of the output has gone: the filter ends; records that it read last may be lost"
            )
            return 0  # there is nobody to filter for
        except OSError as error:
            self._diagnostics.error(f"{error.strerror}; the agent may have lost records")
            return 1
        if self._stream.error is not None:
            self._diagnostics.error(f"{self._stream.error}; everything before that has been written")
            return 1
        return 0

    def _say_stopped(self, number: signal.Signals) -> int:
        """Say how far the input was read; returns the exit status."""
        is_urgent, offset = self._shutdown.is_urgent, self._stream.whole_until
        message = f"the input was read up to byte {offset}, and not to its end"
        if not self._stream.is_between_records:
            message += "; the last record is cut off"
        if is_urgent:
            self._diagnostics.error(f"{number.name}, the second signal: {message}")
            return 1
        self._diagnostics.warning(f"{number.name}: {message}")
        return INTERRUPTED

    def _wait_for_policy(self) -> bool:
        """Wait, without reading, until there is a policy or the last writer of the input has gone.

        Returns:
            False if the grace period ended first, or a signal asked to stop.
        """
        poll = select.poll()
        poll.register(STDIN, select.POLLRDHUP)  # only the end of the input
        poll.register(self._shutdown.wakeup, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(self._shutdown.remaining_ms())]
            if self._shutdown.wakeup in ready:
                self._shutdown.notice()
            self._take_policy()
            if self._records.has_policy:
                return True
            if STDIN in ready:
                self._diagnostics.error(
                    "the input ended before there was a policy: all records go on undecided"
                )
                return True
            if self._shutdown.is_over() or self._shutdown.stopped_by is not None:
                return False

    def _pump(self) -> None:
        """Filter until the input ends or can't be read, the grace period ends, or a signal asks to stop."""
        stream, shutdown = self._stream, self._shutdown
        poll = select.poll()
        poll.register(STDIN, select.POLLIN)
        poll.register(shutdown.wakeup, select.POLLIN)
        patience = _Patience(stream)
        undecided = 0
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(_shorter(shutdown, patience))]
            if shutdown.wakeup in ready:
                shutdown.notice()
            self._take_policy()
            if patience.is_over():
                self._write(stream.give_up())
                patience.note()
            if shutdown.is_urgent or (shutdown.stopped_by is not None and stream.is_between_records):
                return
            if STDIN not in ready:
                if shutdown.is_over():
                    return
                continue
            try:
                data = os.read(STDIN, READ_SIZE)
            except OSError as error:
                raise OSError(error.errno, f"the input can't be read: {error.strerror}") from None
            if not data:
                self._has_ended = True
                return
            self.last_read = time.time()
            shutdown.postpone()
            self._busy_since = time.monotonic()
            out = stream.feed(data)
            self._busy_since = None
            self._write(out)
            patience.note()
            self._recognize(data)
            if stream.counters.undecided_records != undecided:
                undecided = stream.counters.undecided_records
                self._diagnostics.rarely(
                    "warning",
                    "undecided",
                    f"records went on undecided so far: {describe_undecided(stream.counters)}",
                )
            if stream.error is not None:
                return

    def _recognize(self, data: bytes, *, is_end: bool = False) -> None:
        if (warning := self._recognition.warning(data, is_end=is_end)) is not None:
            self._diagnostics.warning(warning)

    def _take_policy(self) -> None:
        if not self._next:
            return
        is_first = not self._records.has_policy
        self._records.use(self._next.popleft())
        if not is_first:
            gc.collect()  # the old policy leaves classes in cycles, and collections are seldom

    def _write(self, buffers: Sequence[memoryview | bytes]) -> None:
        """Write buffers whole, in as few calls as the system allows."""
        at = 0
        try:
            while at < len(buffers):
                self._shutdown.writing_since = time.monotonic()
                try:
                    written = os.writev(self._out, buffers[at : at + _IOV_MAX])
                except BlockingIOError:  # a descriptor that somebody else made non-blocking
                    _wait_until_writable(self._out)
                    continue
                self._shutdown.postpone()
                while at < len(buffers) and written >= len(buffers[at]):
                    written -= len(buffers[at])
                    at += 1
                if written:
                    buffers = [memoryview(buffers[at])[written:], *buffers[at + 1 :]]
                    at = 0
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"the output can't be written: {error.strerror}") from None
        finally:
            self._shutdown.writing_since = None


_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024) if os.sysconf("SC_IOV_MAX") > 0 else 16


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class _Patience:
    """Measures how long the filter has waited for the rest of a record."""

    def __init__(self, stream: FilterStream) -> None:
        self._stream = stream
        self._record: int | None = None
        self._until: float | None = None

    def note(self) -> None:
        """Look which record is held now, and start anew if it is another one."""
        held_from = self._stream.held_from
        if held_from != self._record:
            self._record = held_from
            self._until = None if held_from is None else time.monotonic() + PATIENCE

    def is_over(self) -> bool:
        """Whether the patience is over. If so, it begins anew."""
        if self._until is None or time.monotonic() < self._until:
            return False
        self._until = time.monotonic() + PATIENCE
        return True

    def remaining_ms(self) -> float | None:
        """Milliseconds until the patience is over; None if no record is held."""
        return None if self._until is None else max(0.0, self._until - time.monotonic()) * 1000


def _shorter(shutdown: Shutdown, patience: _Patience) -> float | None:
    times = [time for time in (shutdown.remaining_ms(), patience.remaining_ms()) if time is not None]
    return min(times, default=None)
