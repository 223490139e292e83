"""Signals that a filter has a meaning for. Imported before anything else: it imports little itself."""

from __future__ import annotations

import signal

# They may come at any time after the start.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_back() -> None:
    """Let them wait until somebody handles them. Threads that are started later inherit that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def let_through() -> None:
    """Deliver them, now and in future."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
