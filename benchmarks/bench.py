"""How fast the filter is: on each kind of input, beside other programs, and beside other versions of itself.

``python -m benchmarks.bench`` generates one audit log in several shapes and has every row read its shape,
several times in turn. Each is a process of its own, with a file as stdin and a pipe as stdout that is
read as fast as it is written. README.md says what the rows are and how to read the figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console

from benchmarks import logs, metrics_cost, report
from benchmarks.figures import Figures
from benchmarks.measure import Cost, ProcessError, events_option, program_option, run
from benchmarks.rows import LOOP, POLICY, REFERENCE, Row, make_rows

# Of this version in tables and data.
NEW = "new"
# Bytes of an event in a log, at most: events of some 1.5 KB, and as JSON text.
_EVENT_SIZE = 2000


class Version(NamedTuple):
    """An installed version of the filter."""

    name: str
    program: Path


@dataclass(frozen=True)
class Settings:
    """What to measure, and what to do with the figures.

    Attributes:
        count: events in the log.
        rounds: how often each process runs.
        names: of rows, with commas; empty: all.
        baselines: other versions, as ``[NAME=]PROGRAM``.
        program: the version that is measured.
        seed: of the log.
        output: what to write to stdout, ``text`` or ``json``.
        save: a file for JSON; None: there is none.
    """

    count: int
    rounds: int
    names: str
    baselines: tuple[str, ...]
    program: Path
    seed: int
    output: str
    save: Path | None


@click.command(context_settings={"show_default": True})
@events_option
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, envvar="ROUNDS", help="How often each process runs."
)
@click.option("--rows", "names", default="", envvar="ROWS", help="Names of rows, with commas. [default: all]")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    envvar="BASELINE",
    metavar="[NAME=]PROGRAM",
    help="Another installed kube-audit-filter to run side by side; may be repeated.",
)
@program_option
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="OUTPUT",
    help="What to write to stdout.",
)
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), envvar="SAVE", help="Write JSON to a file too."
)
def main(**options: Any) -> None:
    """Measure the filter on each kind of input, beside other programs and other versions of itself.

    Options can be given as variables to make too: make bench EVENTS=60000 ROUNDS=3
    ROWS=exec,json BASELINE=before=/path/to/bin/kube-audit-filter
    """
    settings = Settings(**options)
    versions = [Version(NEW, settings.program), *map(_version, settings.baselines)]
    _check_names(versions)
    console = Console(highlight=False, stderr=settings.output == "json")
    with tempfile.TemporaryDirectory() as name, console.status("Writing the log ...") as status:
        directory = Path(name)
        rows = _choose(make_rows(settings.program, directory), settings.names)
        skipped = {row.name: f"{row.missing} is not installed" for row in rows if row.missing}
        rows = [row for row in rows if not row.missing]
        shapes = {row.shape for row in rows}
        _check_space(directory, len(shapes) + 1, settings.count)
        paths = logs.write(directory, sorted(shapes), settings.count, settings.seed)
        bench = Bench(versions, paths, directory, settings.count)
        table = [figures for row in rows for figures in bench.figures(row)]
        for figures in table:
            status.update(f"Looking what {figures.row.name} {figures.version} writes ...")
            bench.look(figures)
        bench.check(table)
        for number in range(settings.rounds):
            status.update(f"Round {number + 1} of {settings.rounds} ...")
            bench.round(table, number)
        metrics = ""
        if not settings.names:
            status.update("Measuring what metrics cost ...")
            metrics = metrics_cost.measure(paths["events"], settings.program)
        sizes = {shape: path.stat().st_size for shape, path in paths.items()}
    data = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "programs": {version.name: str(version.program) for version in versions},
        "policy": POLICY.name,
        "events": settings.count,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "log_bytes": sizes,
        "rows": [figures.as_data() for figures in table],
        "skipped": skipped,
        "metrics": metrics or None,
    }
    text = json.dumps(data, indent=1) + "\n"
    if settings.save is not None:
        settings.save.write_text(text)
    if settings.output == "json":
        click.echo(text, nl=False)
        return
    report.show(console, table, data)


class Bench:
    """Runs rows.

    Args:
        versions: of the filter; the first is the one that is measured, and the others are there to compare.
        paths: the log, by shape.
        directory: for files that are needed for a while.
        count: how many events each log holds.
    """

    def __init__(
        self, versions: Sequence[Version], paths: Mapping[str, Path], directory: Path, count: int
    ) -> None:
        self._programs = {version.name: str(version.program) for version in versions}
        self._paths = paths
        self._count = count
        self._output = directory / "output"
        self._empty = directory / "empty"
        self._empty.touch()
        self._sizes = array("q")

    def figures(self, row: Row) -> list[Figures]:
        """Where a row's figures go: for each version, or one for another program."""
        if row.one_by_one and not self._sizes:
            with self._paths[row.shape].open("rb") as file:
                self._sizes.extend(logs.record_sizes(file))
        names = self._programs if row.is_filter else [""]
        return [Figures(row, name, self._count) for name in names]

    def look(self, figures: Figures) -> None:
        """Find out what comes out, in a run that is not measured; a failure is put down."""
        row = figures.row
        try:
            self._start(figures)
            with self._output.open("wb") as target:
                self._run(figures, target)
        except ProcessError as error:
            if figures.version in ("", NEW):
                raise
            figures.failure = error.said.strip().rpartition("\n")[2]
            return
        with self._output.open("rb") as output:
            figures.digest = _sha256(output.fileno())
        if row.counts_events:
            figures.kept = logs.count_events(self._output, logs.SHAPES[row.shape])
        self._output.unlink()

    def check(self, table: Sequence[Figures]) -> None:
        """Refuse to measure what loses events.

        Raises:
            click.ClickException: a copy is not whole, or rows that read the same events keep other numbers.
        """
        same = {}
        for each in table:
            if each.row.all_kept and each.kept != self._count:
                raise click.ClickException(
                    f"{each.row.name} let {each.kept:,} of {self._count:,} events through"
                )
            if each.row.is_filter and each.version == NEW and logs.SHAPES[each.row.shape].is_plain:
                same[each.row.name] = each.kept
        if len(set(same.values())) > 1:
            raise click.ClickException(f"rows that read the same events keep other numbers of them: {same}")

    def round(self, table: Sequence[Figures], number: int) -> None:
        """Run everything once. Versions take turns in being first."""
        starts: dict[tuple[str, ...], Cost] = {}
        for row in dict.fromkeys(figures.row for figures in table):
            versions = [each for each in table if each.row is row and not each.failure]
            for each in reversed(versions) if number % 2 else versions:
                command = self._command(each)
                if command not in starts:
                    starts[command] = self._start(each)
                each.starts.append(starts[command])
                each.costs.append(self._run(each))

    def _command(self, figures: Figures) -> tuple[str, ...]:
        command = figures.row.command
        return (self._programs[figures.version], *command) if figures.row.is_filter else command

    def _start(self, figures: Figures) -> Cost:
        return run(self._command(figures), self._empty, statuses=figures.row.statuses)

    def _run(self, figures: Figures, target: Any = None) -> Cost:
        row = figures.row
        return run(
            self._command(figures),
            self._paths[row.shape],
            target,
            sizes=self._sizes if row.one_by_one else None,
            statuses=row.statuses,
        )


def _sha256(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, 1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _version(text: str) -> Version:
    """``name=program``, or a program, which is called after its virtual environment."""
    name, separator, path = text.rpartition("=")
    program = Path(path)
    if not os.access(program, os.X_OK) or program.is_dir():
        raise click.BadParameter(f"{path}: there is no such program", param_hint="--baseline")
    program = program.absolute()
    return Version(name if separator else program.parents[1].name, program)


def _check_names(versions: Sequence[Version]) -> None:
    names = [version.name for version in versions]
    if "" in names or len(set(names)) < len(names):
        raise click.BadParameter(
            f"versions need different names, not {', '.join(map(repr, names))}: write NAME=PROGRAM",
            param_hint="--baseline",
        )


def _choose(rows: Sequence[Row], names: str) -> list[Row]:
    """The rows that are asked for, and those that they are compared with."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if not wanted:
        return list(rows)
    if unknown := wanted - {row.name for row in rows}:
        known = ", ".join(row.name for row in rows)
        raise click.BadParameter(
            f"no such row: {', '.join(sorted(unknown))}; there are {known}", param_hint="--rows"
        )
    return [row for row in rows if row.name in wanted | {REFERENCE, LOOP}]


def _check_space(directory: Path, count: int, events: int) -> None:
    needed, free = count * events * _EVENT_SIZE, shutil.disk_usage(directory).free
    if needed > free:
        raise click.ClickException(
            f"{directory.parent}: the logs need up to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are"
            " free. Name another directory in TMPDIR, or take fewer --events or --rows."
        )


if __name__ == "__main__":
    main()
