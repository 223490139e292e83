"""What signals mean: going on until the input ends, for a while, and reloading."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from ..service.diagnostics import Diagnostics
from ..service.signals import hold_back, let_through

# Seconds after the grace period for which a write that nobody takes may still block.
HARD_STOP_AFTER = 1.0


class Shutdown:
    """Handles signals, as a context manager.

    SIGTERM and SIGINT do not stop the filter: agents send them while records are still on their way,
    and those would be lost. They start a grace period in which the input is expected to end, and
    which begins anew whenever something of it moves. SIGHUP asks for a reload.

    Args:
        grace: the period's length in seconds.
        diagnostics: where to say what happens.

    Attributes:
        wakeup: a descriptor that becomes readable when a signal arrives or :meth:`wake` is called.
        writing_since: to be set while a write may block: when it began, by time.monotonic().
    """

    def __init__(self, grace: float, diagnostics: Diagnostics) -> None:
        self._grace = grace
        self._diagnostics = diagnostics
        self._deadline: float | None = None
        self._is_last_call = False
        self._signal: int | None = None  # until it has been spoken of
        self._reload: Callable[[], None] | None = None
        self._is_reload_due = False
        self.writing_since: float | None = None

    def __enter__(self) -> Shutdown:
        self.wakeup, self._waker = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._begin)
        signal.signal(signal.SIGINT, self._begin)
        signal.signal(signal.SIGHUP, self._ask_for_reload)
        signal.signal(signal.SIGALRM, self._end_a_write)
        # Blocked since the start of the program, so that none could end it before this.
        let_through()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # The interpreter gives signals their usual effect back before it ends, and with one that comes
        # then, the exit status would no longer be the filter's.
        hold_back()

    @property
    def has_begun(self) -> bool:
        """Whether the filter was told to end."""
        return self._deadline is not None

    def reload_with(self, reload: Callable[[], None]) -> None:
        """Have something called at each SIGHUP, and now if there was one already."""
        self._reload = reload
        if self._is_reload_due:
            reload()

    def wake(self) -> None:
        """Make ``wakeup`` readable. Any thread may call this."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"\0")

    def notice(self) -> None:
        """Take note of what ``wakeup`` was readable for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, 4096)
        if self._signal is not None:
            name, self._signal = signal.Signals(self._signal).name, None
            self._diagnostics.info(
                f"{name}: going on until the input ends, or nothing moves for {self._grace:g} s"
            )

    def postpone(self) -> None:
        """Begin the grace period anew if it has begun: something has moved."""
        if self._deadline is not None:
            self._set_deadline()

    def is_over(self) -> bool:
        """Whether the grace period is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def remaining_ms(self) -> float | None:
        """How long the grace period lasts; None: it has not begun."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000

    def _begin(self, signum: int, _: FrameType | None) -> None:
        if self._deadline is None:
            self._signal = signum
            self._set_deadline()

    def _ask_for_reload(self, *_: object) -> None:
        if self._reload is None:
            self._is_reload_due = True
        else:
            self._reload()

    def _set_deadline(self) -> None:
        self._deadline = time.monotonic() + self._grace
        self._is_last_call = False
        # A wait for input ends in time by itself; a write that nobody takes has to be ended.
        signal.setitimer(signal.ITIMER_REAL, max(self._grace, 0.001))

    def _end_a_write(self, *_: object) -> None:
        if self.writing_since is not None and self._is_last_call:
            self._diagnostics.error("the grace period is over before all output was taken: records are lost")
            os._exit(1)
        # A write has now been interrupted. If part of it was taken, it says so, and the period begins anew.
        self._is_last_call = self.writing_since is not None
        signal.setitimer(signal.ITIMER_REAL, HARD_STOP_AFTER)
