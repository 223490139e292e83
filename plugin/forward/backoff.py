"""Pauses between attempts: each about twice as long as the one before, and none like another's."""

from __future__ import annotations

import random

# Seconds.
SHORTEST, LONGEST = 0.1, 15.0


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row, of which there is at least one.

    Half of it is chance: many that failed together don't come back together.
    """
    longest: float = min(LONGEST, SHORTEST * 2 ** min(failures, 16))
    return longest * random.uniform(0.5, 1.0)
