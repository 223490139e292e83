"""How fast the filter is, beside ``cat`` and beside a filter written as a loop in Python.

``python -m benchmarks.bench`` generates one audit log and has every contender read it, several
times in turn. Each is a process of its own, with a file as stdin and a pipe as stdout that is
read as fast as it is written. README.md says how to read the figures.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click
from msgpack import OutOfData, Unpacker
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import metrics_cost
from benchmarks.audit_log import events, fluentd_stream, json_lines
from benchmarks.measure import Cost, python, run

POLICY = Path("conf/policies/gce.yaml")
# A process that waits for longer than this fraction of its CPU time did not have a CPU for itself.
BUSY = 0.25


@dataclass
class Contender:
    """One of the processes that are compared.

    Attributes:
        key: the letter that the text calls it.
        name: what it is.
        command: how it is run.
        source: the log that it reads.
        kept: how many records it wrote.
        costs: what it took, a value for each round.
        starts: the same, without any input.
    """

    key: str
    name: str
    command: Sequence[str]
    source: Path
    kept: int = 0
    costs: list[Cost] = field(default_factory=list)
    starts: list[Cost] = field(default_factory=list)


@click.command(context_settings={"show_default": True})
@click.option("--events", "count", type=click.IntRange(min=1), default=300_000, help="Events in the log.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="How often each process runs.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
def main(count: int, rounds: int, seed: int) -> None:
    """Measure the filter beside cat and beside a filter written as a loop in Python."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as directory, console.status("Writing the log ...") as status:
        contenders = _contenders(Path(directory), count, seed)
        empty = Path(directory, "empty")
        empty.touch()
        for contender in contenders:
            status.update(f"Counting what ({contender.key}) keeps ...")
            contender.kept = _count_kept(contender, Path(directory, "kept"))
        _check(contenders, count)
        for number in range(rounds):
            status.update(f"Round {number + 1} of {rounds} ...")
            for contender in contenders:
                contender.starts.append(run(contender.command, empty))
                contender.costs.append(run(contender.command, contender.source))
        sizes = {contender.key: contender.source.stat().st_size for contender in contenders}
        status.update("Measuring what metrics cost ...")
        metrics = metrics_cost.measure(contenders[0].source)
    _report(console, contenders, sizes, count)
    console.print(metrics)


def _contenders(directory: Path, count: int, seed: int) -> list[Contender]:
    msgpack_log, json_log = directory / "log.msgpack", directory / "log.jsonl"
    for path, encode in ((msgpack_log, fluentd_stream), (json_log, json_lines)):
        with path.open("wb") as file:
            file.writelines(encode(events(count, seed)))
    execute = python("kube_audit_filter", "exec", "--policy", str(POLICY))
    contenders = [
        Contender("a", "cat", ["cat"], msgpack_log),
        Contender("b", "exec", execute, msgpack_log),
        Contender("c", "exec, JSON lines", [*execute, "--format", "json"], json_log),
    ]
    if find_spec("k8s_audit_filter") is not None:
        command = python("benchmarks.baseline", str(POLICY))
        contenders.append(Contender("d", "k8s-audit-filter", command, msgpack_log))
    contenders.append(Contender("e", "no policy", python("benchmarks.baseline"), msgpack_log))
    return contenders


def _count_kept(contender: Contender, path: Path) -> int:
    """How many records a contender lets through, in a run that does not count."""
    with path.open("wb") as target:
        run(contender.command, contender.source, target)
    with path.open("rb") as output:
        if contender.source.suffix == ".jsonl":
            return sum(1 for _ in output)
        unpacker, records = Unpacker(output), 0
        while True:
            try:
                unpacker.skip()
            except OutOfData:
                return records
            records += 1


def _check(contenders: Sequence[Contender], count: int) -> None:
    kept = {contender.key: contender.kept for contender in contenders}
    if kept["b"] != kept["c"]:
        raise click.ClickException(f"(b) kept {kept['b']:,} records and (c) {kept['c']:,}: one of them errs")
    if kept["a"] != count or kept["e"] != count:
        raise click.ClickException(f"records got lost in a copy: {kept} of {count:,}")


def _report(console: Console, contenders: Sequence[Contender], sizes: dict[str, int], count: int) -> None:
    reference = next((contender for contender in contenders if contender.key == "d"), None)
    console.print(
        f"{count:,} audit events, {sizes['a'] / count:,.0f} bytes each on average ({sizes['c'] / count:,.0f}"
        f" as JSON). Policy: {POLICY}. Medians of {len(contenders[0].costs)} rounds, whole processes.\n"
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs."
    )
    console.print(_table(contenders, reference, sizes, count))
    if reference is None:
        console.print(
            "(d) was left out: k8s-audit-filter is not installed (pip install -e '.[bench]').", markup=False
        )
    else:
        product = next(each for each in contenders if each.key == "b")
        console.print(_verdict(product, reference))
        if _waited(product) > BUSY or _waited(reference) > BUSY:
            console.print(
                "The processes often had to wait for a CPU: other programs were running. Measure again on"
                " an idle machine, or go by the CPU times."
            )


def _table(
    contenders: Sequence[Contender], reference: Contender | None, sizes: dict[str, int], count: int
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for heading in ("records/s", "MB/s", "µs each", "CPU µs", "x (d)", "x CPU", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in contenders:
        wall = median(cost.wall for cost in each.costs)
        cpu = median(cost.cpu for cost in each.costs)
        ratios = ["", ""]
        if reference is not None:
            ratios = [f"{_ratio(each, reference, seconds):.1f}" for seconds in (_wall, _cpu)]
        table.add_row(
            f"({each.key}) {each.name}",
            f"{count / wall:,.0f}",
            f"{sizes[each.key] / wall / 1e6:,.0f}",
            f"{wall / count * 1e6:.2f}",
            f"{cpu / count * 1e6:.2f}",
            *ratios,
            f"{each.kept:,}",
            style="bold" if each.key == "b" else None,
        )
    return table


def _verdict(product: Contender, reference: Contender) -> str:
    wall, cpu, running = (_ratio(product, reference, seconds) for seconds in (_wall, _cpu, _running))
    starts = [median(cost.wall for cost in each.starts) * 1e3 for each in (product, reference)]
    return (
        f"(b) is [bold]{wall:.1f} times as fast as (d)[/] by the clock and {cpu:.1f} times by CPU time;"
        f" without starting up ({starts[0]:.0f} and {starts[1]:.0f} ms) {running:.1f} times."
    )


def _wall(contender: Contender, number: int) -> float:
    """Seconds by the clock, from start to end of the process."""
    return contender.costs[number].wall


def _cpu(contender: Contender, number: int) -> float:
    """Seconds of CPU time, from start to end of the process."""
    return contender.costs[number].cpu


def _running(contender: Contender, number: int) -> float:
    """Seconds by the clock without what starting and ending takes."""
    return contender.costs[number].wall - contender.starts[number].wall


def _waited(contender: Contender) -> float:
    """How much longer it took by the clock than by CPU time, as a fraction."""
    return median(cost.wall / cost.cpu for cost in contender.costs) - 1


def _ratio(contender: Contender, reference: Contender, seconds: Callable[[Contender, int], float]) -> float:
    """How many times as fast as the reference a contender is: the median of the rounds' ratios."""
    rounds = range(len(contender.costs))
    return median(seconds(reference, number) / seconds(contender, number) for number in rounds)


if __name__ == "__main__":
    main()
