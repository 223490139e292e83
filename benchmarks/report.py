"""The tables of ``bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import Figures, least_ratio, ratio, running, whole
from benchmarks.measure import BUSY_WARNING
from benchmarks.rows import LOOP, REFERENCE
from benchmarks.tables import print_whole, table


def show(console: Console, measured: Sequence[Figures], data: Mapping[str, Any]) -> None:
    """Print a table of all rows, and one for each version that was run beside.

    Args:
        console: where to.
        measured: the figures, in the order of the tables.
        data: how they came about, as ``bench`` writes it in JSON.
    """
    new, *others = data["programs"]
    count, sizes = data["events"], data["log_bytes"]
    bytes_each = " and ".join(
        f"{sizes[shape] / count:,.0f} bytes each in {name}"
        for shape, name in (("events", "MessagePack"), ("json", "JSON"))
        if shape in sizes
    )
    _say(
        console,
        f"{count:,} audit events, {bytes_each}. Policy: {data['policy']}. {data['rounds']} rounds."
        f" Python {data['python']} on {data['machine']}, {data['cpus']} CPUs.",
    )
    for name, program in data["programs"].items():
        _say(console, f"{name}: {program}")
    print_whole(console, _rows([each for each in measured if each.version in ("", new)]))
    for other in others:
        print_whole(console, _comparison(measured, new, other))
        _differences(console, measured, new, other)
    for name, reason in data["skipped"].items():
        _say(console, f"{name} was left out: {reason}.")
    _verdict(console, measured)
    if any(each.waited for each in measured if each.costs and each.row.name in (REFERENCE, LOOP)):
        _say(console, BUSY_WARNING)
    if data["metrics"]:
        _say(console, data["metrics"])


def _rows(measured: Sequence[Figures]) -> Table:
    reference = next(each for each in measured if each.row.name == REFERENCE)
    loop = next((each for each in measured if each.row.name == LOOP), None)
    headings = ("CPU µs", "least", "without start", "least", f"x {REFERENCE}", f"{LOOP} x", "wall µs", "kept")
    made = table("row", ["", *headings])
    for each in measured:
        made.add_row(
            each.row.name,
            escape(each.row.text),
            *_columns(each),
            _times(ratio(each, reference, running), 2),
            "" if loop is None else _times(ratio(loop, each, running), 1),
            f"{median(each.wall):.2f}",
            "" if each.kept is None else f"{each.kept:,}",
            style="bold" if each is reference else None,
        )
    made.columns[1].justify = "left"
    return made


def _columns(figures: Figures) -> list[str]:
    return [
        f"{value:.2f}"
        for values in (figures.whole, figures.running)
        for value in (median(values), min(values))
    ]


def _comparison(measured: Sequence[Figures], new: str, other: str) -> Table:
    headings = (f"CPU µs {new}", other, f"{new}/{other}", "least", f"without start {new}", other)
    made = table("row", [*headings, f"{new}/{other}", "least"])
    by_version = {(each.row.name, each.version): each for each in measured}
    for this in (each for each in measured if each.version == new):
        that = by_version[this.row.name, other]
        if that.failure:
            made.add_row(
                this.row.name, f"{median(this.whole):.2f}", "not there", "", "", f"{median(this.running):.2f}"
            )
            continue
        made.add_row(
            this.row.name,
            *(
                text
                for quantity in (whole, running)
                for text in (
                    f"{median(quantity(this)):.2f}",
                    f"{median(quantity(that)):.2f}",
                    _times(ratio(this, that, quantity), 3),
                    _times(least_ratio(this, that, quantity), 3),
                )
            ),
        )
    return made


def _times(factor: float, digits: int) -> str:
    """A ratio; nothing where a process took no longer with its input than without."""
    return f"{factor:.{digits}f}" if factor > 0 else ""


def _differences(console: Console, measured: Sequence[Figures], new: str, other: str) -> None:
    """Say in which rows the two versions do not write the same bytes."""
    digests = {each.row.name: each.digest for each in measured if each.version == new}
    others = [each for each in measured if each.version == other]
    for each in others:
        if each.failure:
            _say(console, f"{each.row.name}: {other} does not run with these options: {each.failure}")
    differing = [
        each.row.name for each in others if not each.failure and each.digest != digests[each.row.name]
    ]
    _say(
        console,
        f"{new} and {other} write different bytes in these rows: {', '.join(differing)}."
        if differing
        else f"{new} and {other} write the same bytes in all rows that both have.",
    )


def _verdict(console: Console, measured: Sequence[Figures]) -> None:
    by_name = {each.row.name: each for each in reversed(measured)}
    loop, product = by_name.get(LOOP), by_name[REFERENCE]
    if loop is None:
        return
    starts = [median(start.cpu for start in each.starts) * 1e3 for each in (product, loop)]
    _say(
        console,
        f"{LOOP} takes {ratio(loop, product, running):.1f} times the CPU time of {REFERENCE}; as whole"
        f" processes, {ratio(loop, product, whole):.1f} times. To start and to end, {REFERENCE} takes"
        f" {starts[0]:.0f} ms of CPU time, and {LOOP} {starts[1]:.0f} ms.",
    )


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
