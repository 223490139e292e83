"""Tables that are whole wherever they are printed."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def table(first: str, headings: Iterable[str]) -> Table:
    """A table of figures: a column of names, and the others aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    made.add_column(first, no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def print_whole(console: Console, made: Table) -> None:
    """Print a table with all its columns, also where nobody knows how wide a line may be, as in a pipe."""
    options = console.options.update(width=1000)
    console.width = max(console.width, Measurement.get(console, options, made).maximum)
    console.print(made)
