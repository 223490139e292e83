"""What has to be done at intervals, in a thread of its own so that it never holds up a record."""

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

# Why chores are done.
Reason = Literal["due", "asked", "stop"]


@dataclass
class Chore:
    """Something to be done again and again.

    Attributes:
        do: called with whether it was asked for, by SIGHUP, or was only due.
        interval: seconds between two times; None: only when it is asked for.
        at_start: do it at the start too.
    """

    do: Callable[[bool], None]
    interval: float | None
    at_start: bool = False
    due: float = field(default=0.0, init=False)


class Housekeeper:
    """Does chores. One that fails is complained of and done again next time.

    Args:
        chores: what to do.
        diagnostics: where to complain.
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
        """End the thread, but do not wait for longer than a timeout in seconds."""
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
        """Wait until there is something to do; returns why."""
        due = min((chore.due for chore in self._chores if chore.interval is not None), default=None)
        reason: Reason = "due"
        with contextlib.suppress(queue.Empty):
            # Python 3.10: where get() takes the queue's lock at once and then finds its timeout over, it
            # waits for ever. Having looked for something before, it has the lock already.
            with contextlib.suppress(queue.Empty):
                reason = self._asked.get_nowait()
            if reason == "due":
                reason = self._asked.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            while reason != "stop":  # asked several times is asked once
                reason = self._asked.get_nowait()
        return reason

    def _do(self, chore: Chore, asked: bool) -> None:
        try:
            chore.do(asked)
        except Exception as error:  # the thread has to live on, for the other chores
            self._diagnostics.rarely("error", "housekeeping", f"internal error: {error!r}")


def start_without_signals(thread: threading.Thread) -> None:
    """Start a thread to which no signal is delivered, so that the main thread's waits notice them all."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
