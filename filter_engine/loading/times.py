"""Which texts Go accepts as a point in time."""

from __future__ import annotations

import re

_ZONE = r"(?:Z|[-+](?P<zone>[0-9]{2}:[0-9]{2}))"
# time.RFC3339 as Go parses it: an hour may have one digit, and a fraction of a second may follow.
_RFC3339 = re.compile(
    rf"([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})T(?P<clock>[0-9]{{1,2}}:[0-9]{{2}}:[0-9]{{2}})(?:[.,][0-9]+)?{_ZONE}"
)
# The four forms of go-yaml v2's parseTimestamp.
_CLOCK = r"[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}"
_YAML = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    rf"(?:[Tt](?P<clock>{_CLOCK})(?:[.,][0-9]+)?{_ZONE}| +(?P<local>{_CLOCK})(?:[.,][0-9]+)?)?"
)


def is_rfc3339(text: str) -> bool:
    """Whether Go's ``time.Parse(time.RFC3339, text)`` succeeds."""
    match = _RFC3339.fullmatch(text)
    return match is not None and _is_in_range(match, match["clock"])


def is_yaml_timestamp(text: str) -> bool:
    """Whether go-yaml v2 accepts a text as a ``!!timestamp``."""
    match = _YAML.fullmatch(text)
    return match is not None and _is_in_range(match, match["clock"] or match["local"])


def _is_in_range(match: re.Match[str], clock: str | None) -> bool:
    year, month, day = (int(match[i]) for i in (1, 2, 3))
    return (
        1 <= month <= 12
        and 1 <= day <= _days(year, month)
        and (clock is None or _fits(clock, (24, 60, 60)))
        and (match["zone"] is None or _fits(match["zone"], (25, 61)))
    )


def _fits(clock: str, limits: tuple[int, ...]) -> bool:
    return all(int(part) < limit for part, limit in zip(clock.split(":"), limits, strict=True))


def _days(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
