"""Signals that a filter has a meaning for. Imported before anything else: it imports little itself."""

from __future__ import annotations

import signal

# They may come at any time after the start.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_back() -> None:
    """Let them wait until somebody handles them. Threads that are started later inherit that.

    SIGALRM, which only a timer of the filter's own gives a meaning, is ignored.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def is_told_to_end() -> bool:
    """Whether a signal to end is being held back."""
    return not signal.sigpending().isdisjoint((signal.SIGTERM, signal.SIGINT))


def let_through() -> None:
    """Deliver them, now and in future."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
