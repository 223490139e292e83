"""The filter at work on the audit log of a busy cluster: ``python -m benchmarks.demo``.

It runs ``kube-audit-filter exec`` as a log agent does, checks that every byte that comes back is
one that the policy keeps, and shows what each rule of the policy did. The exit status is 1 if the
output is not what it must be.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from benchmarks.audit_log import events, fluentd_stream
from benchmarks.measure import ROOT, python
from filter_engine import Decision, Level, Policy, PolicyEvaluator
from plugin import policies

POLICY = "recommended"
_WIDEST = 100


@dataclass
class Tally:
    """Events, and their size in bytes as they go over the wire."""

    events: int = 0
    kept: int = 0
    size: int = 0
    size_kept: int = 0

    def count(self, size: int, *, keep: bool) -> None:
        """Count one event."""
        self.events += 1
        self.size += size
        if keep:
            self.kept += 1
            self.size_kept += size


@click.command(context_settings={"show_default": True})
@click.option("--events", "count", type=click.IntRange(min=1), default=5000, help="Events in the log.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
def main(count: int, seed: int) -> None:
    """Filter a made-up audit log with the recommended policy, and show what each rule did."""
    log = list(events(count, seed))
    records = list(fluentd_stream(log))
    policy = Policy.from_file(policies.path(POLICY))
    evaluator = PolicyEvaluator(policy)
    decisions = [evaluator.evaluate(event) for event in log]

    started = time.perf_counter()
    output, said = run_filter(b"".join(records))
    seconds = time.perf_counter() - started
    check(output, [record for record, decision in zip(records, decisions, strict=True) if decision.keep])

    show(policy, zip(decisions, map(len, records), strict=True), seconds, said)


def run_filter(stream: bytes) -> tuple[bytes, str]:
    """Run the filter as an agent does.

    Returns:
        What it wrote to stdout, and the last line that it wrote to stderr.
    """
    command = python("kube_audit_filter", "exec", "--policy", f"{policies.PREFIX}{POLICY}")
    done = subprocess.run(command, input=stream, capture_output=True, cwd=ROOT, check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        raise click.ClickException(f"the filter ended with exit status {done.returncode}\n{said}")
    return done.stdout, said.rpartition("\n")[2]


def check(output: bytes, expected: Sequence[bytes]) -> None:
    """Make sure that just the records that the policy keeps came back, in order and unchanged."""
    at = 0
    for number, record in enumerate(expected, start=1):
        if not output.startswith(record, at):
            raise click.ClickException(
                f"the output is wrong from byte {at} on, where kept record {number} must be"
            )
        at += len(record)
    if at != len(output):
        raise click.ClickException(f"{len(output) - at} bytes too many came back, from byte {at} on")


def show(policy: Policy, decided: Iterable[tuple[Decision, int]], seconds: float, said: str) -> None:
    """Print what each rule did, and what that adds up to."""
    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    tallies: defaultdict[int | None, Tally] = defaultdict(Tally)
    total = Tally()
    for decision, size in decided:
        for tally in (tallies[decision.rule], total):
            tally.count(size, keep=decision.keep)

    console.print(f"\n[bold]{total.events:,} audit events, and the rule that decided on each[/]")
    console.print(_table(policy, tallies, total))
    for note in _notes(policy, tallies):
        console.print(note, style="dim")
    console.print()
    console.print(_bars(total))
    console.print(
        f"\n[bold]kube-audit-filter exec[/] read these {total.events:,} records"
        f" ({total.size / 1e6:.1f} MB) as Fluentd sends them and handed back the {total.kept:,} that"
        f" {policies.PREFIX}{POLICY} keeps, each as the very bytes that came in, in order"
        f" ([green]checked[/]). It took {seconds:.2f} s, start-up included.\n"
    )
    console.print(said, style="dim", soft_wrap=True)


def _table(policy: Policy, tallies: Mapping[int | None, Tally], total: Tally) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=True
    )
    table.add_column("#", justify="right", style="dim")
    table.add_column("level", no_wrap=True)
    table.add_column("rule", "all", ratio=1, overflow="fold")
    figures = _figures(total)
    for heading, figure in zip(("events", "kept", "dropped", "kB", "saved"), figures, strict=True):
        table.add_column(heading, figure, justify="right", no_wrap=True)
    for index, rule in enumerate(policy.rules):
        if index in tallies:
            level = "[red]None[/]" if rule.level is Level.NONE else f"[green]{rule.level}[/]"
            table.add_row(str(index), level, escape(policy.rule_name(index)), *_figures(tallies[index]))
    if None in tallies:
        table.add_row("", "[red]None[/]", "no rule", *_figures(tallies[None]))
    return table


def _figures(tally: Tally) -> tuple[str, str, str, str, str]:
    kilobytes, kilobytes_kept = round(tally.size / 1000), round(tally.size_kept / 1000)
    numbers = (
        tally.events,
        tally.kept,
        tally.events - tally.kept,
        kilobytes,
        kilobytes - kilobytes_kept,
    )
    events, kept, dropped, size, saved = (f"{number:,}" if number else "-" for number in numbers)
    return events, kept, dropped, size, saved


def _notes(policy: Policy, tallies: Mapping[int | None, Tally]) -> Iterator[str]:
    of_rules = [stage for rule in policy.rules for stage in rule.omit_stages]
    stages = dict.fromkeys([*policy.omit_stages, *of_rules])
    if stages:
        names = ", ".join(stages)
        yield f"What keeping rules drop was recorded at a stage that the policy omits: {names}."
    idle = [str(index) for index in range(len(policy.rules)) if index not in tallies]
    if idle:
        rules = "1 rule" if len(idle) == 1 else f"{len(idle)} rules"
        yield f"{rules} matched nothing here: {', '.join(idle)}."


def _bars(total: Tally) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, dropped, everything in (
        ("records dropped", total.events - total.kept, total.events),
        ("bytes saved", total.size - total.size_kept, total.size),
    ):
        bar = ProgressBar(total=everything, completed=dropped, width=40, complete_style="green")
        table.add_row(name, bar, f"[bold]{dropped / everything:.0%}[/]")
    return table


if __name__ == "__main__":
    main()
