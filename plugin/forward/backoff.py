"""Pauses between attempts: each is about twice as long as the one before, with a random part."""

from __future__ import annotations

import random

# Seconds.
SHORTEST, LONGEST = 0.1, 15.0


def pause(failures: int) -> float:
    """Seconds to wait after a number of failures in a row (at least 1).

    Up to half of the pause is random, so that those who failed together do not try again together.
    """
    longest: float = min(LONGEST, SHORTEST * 2 ** min(failures, 16))
    return longest * random.uniform(0.5, 1.0)
