"""Chores that are done at intervals, in a thread of their own, so that they never hold up a record."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .diagnostics import Diagnostics

# Why the thread wakes up.
Reason = Literal["due", "asked", "stop"]


@dataclass
class Chore:
    """Something that is done again and again.

    Attributes:
        do: does it. The argument is True if SIGHUP asked for it, and False if it was only due.
        interval: seconds from one time to the next; None if it is done only when SIGHUP asks for it.
        at_start: whether it is done at the start too.
    """

    do: Callable[[bool], None]
    interval: float | None
    at_start: bool = False
    due: float = field(default=0.0, init=False)


class Housekeeper:
    """Does chores. If one fails, that is reported, and the chore is done again next time.

    Args:
        chores: what to do.
        diagnostics: where failures are reported.
    """

    def __init__(self, chores: Sequence[Chore], diagnostics: Diagnostics) -> None:
        self._chores = chores
        self._diagnostics = diagnostics
        # A SimpleQueue, because a signal handler may put something into it at any moment.
        self._asked: queue.SimpleQueue[Reason] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread. Signals keep going to the thread that calls this."""
        start_without_signals(self._thread)

    def ask(self) -> None:
        """Have all chores done now. A signal handler may call this."""
        self._asked.put("asked")

    def stop(self, timeout: float = 0.2) -> None:
        """End the thread, and wait for its end for at most ``timeout`` seconds."""
        self._asked.put("stop")
        self._thread.join(timeout)

    def _run(self) -> None:
        now = time.monotonic()
        for chore in self._chores:
            chore.due = now if chore.at_start else now + (chore.interval or 0)
        while (reason := self._wait()) != "stop":
            now = time.monotonic()
            for chore in self._chores:
                if reason == "asked" or (chore.interval is not None and chore.due <= now):
                    chore.due = now + (chore.interval or 0)
                    self._do(chore, reason == "asked")

    def _wait(self) -> Reason:
        """Wait until there is something to do. Returns why the wait ended."""
        due = min((chore.due for chore in self._chores if chore.interval is not None), default=None)
        reason: Reason = "due"
        with contextlib.suppress(queue.Empty):
            # In Python 3.10, get() waits for ever if its timeout is over just after it took the queue's lock.
            # get_nowait() before it takes the lock, so that this can't happen.
            with contextlib.suppress(queue.Empty):
                reason = self._asked.get_nowait()
            if reason == "due":
                reason = self._asked.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            while reason != "stop":  # several requests count as one
                reason = self._asked.get_nowait()
        return reason

    def _do(self, chore: Chore, asked: bool) -> None:
        try:
            chore.do(asked)
        except Exception as error:  # the thread has to live on, for the other chores
            self._diagnostics.rarely("error", "housekeeping", f"internal error: {error!r}")


def start_without_signals(thread: threading.Thread) -> None:
    """Start a thread that gets no signals, so that all signals interrupt the main thread's waits."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
