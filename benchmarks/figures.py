"""What ``bench`` has measured: figures for an event, and ratios of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import BUSY, Cost
from benchmarks.rows import Row


@dataclass
class Figures:
    """What one row took with one version of the filter, or with another program.

    Attributes:
        row: what ran.
        version: the filter's; empty for another program.
        events: how many it read.
        kept: how many it let through; None where its output is not the log.
        digest: SHA-256 of its output, hexadecimal.
        costs: what it took, a value for each round.
        starts: the same, without any input.
        failure: why there are no figures; empty where there are.
    """

    row: Row
    version: str
    events: int
    kept: int | None = None
    digest: str = ""
    costs: list[Cost] = field(default_factory=list)
    starts: list[Cost] = field(default_factory=list)
    failure: str = ""

    @property
    def whole(self) -> list[float]:
        """Microseconds of CPU time for an event in each round, the whole process."""
        return [cost.cpu / self.events * 1e6 for cost in self.costs]

    @property
    def running(self) -> list[float]:
        """The same, without what the process takes to start and to end."""
        pairs = zip(self.costs, self.starts, strict=True)
        return [(cost.cpu - start.cpu) / self.events * 1e6 for cost, start in pairs]

    @property
    def wall(self) -> list[float]:
        """Microseconds by the clock for an event in each round, the whole process."""
        return [cost.wall / self.events * 1e6 for cost in self.costs]

    @property
    def wall_running(self) -> list[float]:
        """The same, without what the process takes to start and to end."""
        pairs = zip(self.costs, self.starts, strict=True)
        return [(cost.wall - start.wall) / self.events * 1e6 for cost, start in pairs]

    @property
    def waited(self) -> bool:
        """Whether other programs often had the CPU that this one needed."""
        return median(cost.wall / cost.cpu for cost in self.costs) - 1 > BUSY

    def as_data(self) -> dict[str, Any]:
        """All of it, to be written as JSON."""
        data: dict[str, Any] = {
            "row": self.row.name,
            "text": self.row.text.strip(),
            "version": self.version or None,
            "command": list(self.row.command),
            "events": self.events,
            "failure": self.failure or None,
        }
        if self.failure:
            return data
        return {
            **data,
            "events_kept": self.kept,
            "output_sha256": self.digest,
            "microseconds_per_event": {
                "cpu": _summary(self.whole),
                "cpu_without_start": _summary(self.running),
                "wall": _summary(self.wall),
                "wall_without_start": _summary(self.wall_running),
            },
            "start_seconds": {
                "cpu": _summary([start.cpu for start in self.starts]),
                "wall": _summary([start.wall for start in self.starts]),
            },
        }


# What a ratio is made of: Figures.whole, or another of its lists.
Quantity = Callable[[Figures], list[float]]


def whole(figures: Figures) -> list[float]:
    """``Figures.whole``."""
    return figures.whole


def running(figures: Figures) -> list[float]:
    """``Figures.running``."""
    return figures.running


def ratio(these: Figures, those: Figures, quantity: Quantity) -> float:
    """How many times as much: the median of the rounds' own ratios.

    A machine that is busy for a while slows all processes of a round alike.
    """
    pairs = zip(quantity(these), quantity(those), strict=True)
    return median(_quotient(one, other) for one, other in pairs)


def least_ratio(these: Figures, those: Figures, quantity: Quantity) -> float:
    """How many times as much, by the best round of each: what disturbs a process only adds to its time."""
    return _quotient(min(quantity(these)), min(quantity(those)))


def _quotient(one: float, other: float) -> float:
    """What is less than nothing, because starting took longer in another run, has no ratio: 0."""
    return one / other if one > 0 and other > 0 else 0.0


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "rounds": list(values)}
