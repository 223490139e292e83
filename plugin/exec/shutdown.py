"""What signals mean: going on until the input ends, for a while; stopping; and reloading."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable
from types import FrameType

from ..service.diagnostics import Diagnostics
from ..service.signals import hold_back, let_through

# Seconds after the grace period for which a write may still block because nobody takes the output.
HARD_STOP_AFTER = 1.0
# Two signals within these seconds are one request to end: timeout(1) sends its signal to the process, and
# then to the whole group.
_TOGETHER = 0.1


def can_be_left(stdin: int, stdout: int) -> bool:
    """Whether the filter may stop before the end of its input, because nothing is lost or somebody watches.

    Records in a pipe or a socket come from an agent, and nobody else has them. A file can be read
    again. At a terminal, whoever presses Ctrl-C wants the filter to stop.

    Raises:
        OSError: stdin is closed.
    """
    mode = os.fstat(stdin).st_mode
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or os.isatty(stdout)


class Shutdown:
    """Handles signals, as a context manager.

    SIGTERM and SIGINT do not stop the filter: agents send them while records are still in the pipe,
    and these would be lost. The signals start a grace period in which the input is expected to end. The
    period begins anew whenever input comes or output is taken. Agents send signals more than once (Fluentd
    to its child, and a terminal or supervisor to the whole group, in either order and with any time
    between), so a further signal changes nothing.

    If the input can be left, SIGINT asks to stop at the end of a record. A second signal of either kind
    asks to stop at once, after what has been read is written.

    SIGHUP asks for a reload.

    Args:
        grace: the period's length in seconds.
        diagnostics: where messages go.
        can_leave: whether the input can be left before its end, see :func:`can_be_left`.

    Attributes:
        wakeup: a descriptor that becomes readable when a signal arrives or :meth:`wake` is called.
        stopped_by: the signal that asked to stop; None if there was none.
        is_urgent: whether a second signal came.
        writing_since: when the write that may block began, by time.monotonic(). The writer sets it, and sets
            it to None behind the write.
    """

    def __init__(self, grace: float, diagnostics: Diagnostics, *, can_leave: bool) -> None:
        self.stopped_by: signal.Signals | None = None
        self.is_urgent = False
        self.writing_since: float | None = None
        self._grace = grace
        self._diagnostics = diagnostics
        self._can_leave = can_leave
        self._began_at: float | None = None
        self._deadline: float | None = None
        self._interrupted_at: float | None = None  # when the write that blocks was interrupted
        self._signal: int | None = None  # until a message about it is written
        self._reload: Callable[[], None] | None = None
        self._is_reload_due = False

    def __enter__(self) -> Shutdown:
        self.wakeup, self._waker = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._begin)
        signal.signal(signal.SIGINT, self._begin)
        signal.signal(signal.SIGHUP, self._ask_for_reload)
        signal.signal(signal.SIGALRM, self._look_at_write)
        # Signals were blocked since the start of the program, so that none could end it before this.
        let_through()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # The interpreter restores the default handlers before it ends. A signal that came then would replace
        # the filter's exit status.
        hold_back()

    @property
    def has_begun(self) -> bool:
        """Whether the filter was told to end."""
        return self._began_at is not None

    def reload_with(self, reload: Callable[[], None]) -> None:
        """Call a function at each SIGHUP, and now if there was a SIGHUP already."""
        self._reload = reload
        if self._is_reload_due:
            reload()

    def wake(self) -> None:
        """Make ``wakeup`` readable. Any thread may call this."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"\0")

    def notice(self) -> None:
        """Empty ``wakeup``, and write the message about a signal that came."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, 4096)
        if self._signal is not None:
            name, self._signal = signal.Signals(self._signal).name, None
            more = "; another signal ends at once" if self._can_leave else ""
            self._diagnostics.info(
                f"{name}: going on until the input ends, or nothing moves for {self._grace:g} s{more}"
            )

    def postpone(self) -> None:
        """Begin the grace period anew if it has begun: something has moved."""
        if self._deadline is not None and not self.is_urgent:
            self._set_deadline(self._grace)
            if self.is_urgent:  # the second signal came just now
                self._set_deadline(0)

    def is_over(self) -> bool:
        """Whether the grace period is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def remaining_ms(self) -> float | None:
        """Milliseconds until the grace period is over; None if it has not begun."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000

    def _begin(self, signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
            if self._can_leave and signum == signal.SIGINT:
                self.stopped_by = signal.SIGINT
            else:
                self._signal = signum
            self._set_deadline(self._grace)
        elif self._can_leave and not self.is_urgent and now - self._began_at >= _TOGETHER:
            self.stopped_by = signal.Signals(signum)
            self.is_urgent = True
            self._set_deadline(0)

    def _ask_for_reload(self, *_: object) -> None:
        if self._reload is None:
            self._is_reload_due = True
        else:
            self._reload()

    def _set_deadline(self, after: float) -> None:
        self._deadline = time.monotonic() + after
        self._interrupted_at = None
        # A wait for input has a timeout of its own. A write that nobody takes has to be interrupted.
        signal.setitimer(signal.ITIMER_REAL, max(after, 0.001))

    def _look_at_write(self, *_: object) -> None:
        """End the program if the output is not taken in time. SIGALRM may also come from outside."""
        if self._deadline is None:
            return
        now = time.monotonic()
        if now < self._deadline:
            next_look = self._deadline - now
        elif self.writing_since is None:
            self._interrupted_at = None
            next_look = HARD_STOP_AFTER
        elif self._interrupted_at is None:
            # The signal has interrupted the write. If part of the output was taken, the write returns, and
            # the period begins anew.
            self._interrupted_at = now
            next_look = HARD_STOP_AFTER
        else:
            next_look = self._interrupted_at + HARD_STOP_AFTER - now
            if next_look <= 0:
                why = "a second signal came" if self.is_urgent else "the grace period is over"
                self._diagnostics.error(f"{why} before all output was taken: records are lost")
                os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, max(next_look, 0.001))
