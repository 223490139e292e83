"""The signals that a filter handles. This is imported before anything else, so it imports little itself."""

from __future__ import annotations

import signal

# Agents may send these at any time after the start.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_back() -> None:
    """Block the signals until handlers are installed. Threads that are started later inherit the mask.

    SIGALRM is ignored; only a timer of the filter itself uses it later.
    """
    block()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def block() -> None:
    """Block the signals in this thread, and in those that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def is_told_to_end() -> bool:
    """Whether a signal to end is being held back."""
    return not signal.sigpending().isdisjoint((signal.SIGTERM, signal.SIGINT))


def let_through() -> None:
    """Deliver the signals, those that have come and all later ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
