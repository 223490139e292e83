"""What a compiled policy and the exec filter cost in a real Fluent Bit, beside other filters and beside none.

``python -m benchmarks.fluent_bit`` generates one audit log and has Fluent Bit read it to its end with
each filter, several times in turn. It needs a Fluent Bit: on the PATH, or named by FLUENT_BIT.
README.md says how to read the figures.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.audit_log import events, json_lines
from benchmarks.measure import ROOT, Cost, run
from filter_engine import Policy
from plugin.compiler.lua.compiler import LuaOptions, compile_policy

POLICY = ROOT / "conf/policies/gce.yaml"
EXEC_FILTER = ROOT / "conf/fluent-bit/exec_filter.lua"
# What the compiled policy is measured against: the least that a Lua filter can do.
REFERENCE = "c"
MOST = 1.5

BY_VERB = """\
local reads = { get = true, list = true, watch = true }

function filter(tag, timestamp, record)
  if reads[record.verb] then
    return -1, 0, 0
  end
  return 0, 0, 0
end
"""

PARSERS = """\
[PARSER]
    Name    json
    Format  json
"""

CONFIGURATION = """\
[SERVICE]
    Flush         0.2
    Grace         1
    Log_Level     error
    Parsers_File  parsers.conf

[INPUT]
    Name              tail
    Path              {log}
    {parser}
    Read_from_Head    true
    Exit_On_Eof       true
    Buffer_Chunk_Size 1M
    Buffer_Max_Size   8M

{filter}

[OUTPUT]
    {output}
    Match   *
"""


@dataclass
class Contender:
    """Fluent Bit with one of the filters that are compared.

    Attributes:
        key: the letter that the text calls it.
        name: what the filter is.
        filter: its section of the configuration.
        parsed: whether records are the events' fields; else they are lines of text.
        kept: how many records it let through.
        costs: what it took, a value for each round.
    """

    key: str
    name: str
    filter: str
    parsed: bool = True
    kept: int = 0
    costs: list[Cost] = field(default_factory=list)


def lua(script: str, call: str) -> str:
    """The section of a Lua filter."""
    return f"[FILTER]\n    Name    lua\n    Match   *\n    Script  {script}\n    Call    {call}"


GREP = "[FILTER]\n    Name    grep\n    Match   *\n    Exclude verb ^(get|list|watch)$"


@click.command(context_settings={"show_default": True})
@click.option("--events", "count", type=click.IntRange(min=1), default=100_000, help="Events in the log.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="How often each filter runs.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
def main(count: int, rounds: int, seed: int) -> None:
    """Measure a compiled policy and the exec filter in Fluent Bit, beside other filters and beside none."""
    program = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    if program is None:
        raise click.ClickException("there is no fluent-bit on the PATH; name one in FLUENT_BIT")
    console = Console(highlight=False)
    # For the exec filter: its child is that of this environment.
    os.environ["AUDIT_POLICY"] = str(POLICY)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name, console.status("Writing the log ...") as status:
        directory = Path(name)
        log = directory / "audit.log"
        with log.open("wb") as file:
            file.writelines(json_lines(events(count, seed)))
        contenders = prepare(directory)
        for contender in contenders:
            status.update(f"Counting what ({contender.key}) keeps ...")
            contender.kept = count_kept(program, contender, directory, log)
        check(contenders, count)
        for number in range(rounds):
            status.update(f"Round {number + 1} of {rounds} ...")
            for contender in contenders:
                output = "Name    null"
                contender.costs.append(
                    run([program, "-c", configure(contender, directory, log, output)], log)
                )
        size = log.stat().st_size
    report(console, contenders, count, size)


def prepare(directory: Path) -> list[Contender]:
    """Write the scripts, and say who takes part."""
    source = POLICY.read_bytes()
    policy = Policy.from_yaml(source)
    for script, options in (("policy", LuaOptions()), ("reduce", LuaOptions(reduce=True))):
        text = compile_policy(policy, source=source, name=POLICY.name, version="benchmark", options=options)
        (directory / f"{script}.lua").write_text(text)
    (directory / "verb.lua").write_text(BY_VERB)
    (directory / "parsers.conf").write_text(PARSERS)
    compiled = lua("policy.lua", "kube_audit_filter")
    exec_filter = lua(str(EXEC_FILTER), "kube_audit_filter")
    return [
        Contender("a", "no filter", ""),
        Contender("b", "filter_grep by verb", GREP),
        Contender("c", "Lua by verb", lua("verb.lua", "filter")),
        Contender("d", "compiled policy", compiled),
        Contender("e", "compiled, --reduce", lua("reduce.lua", "kube_audit_filter")),
        Contender("f", "no filter, lines of text", "", parsed=False),
        Contender("g", "compiled, lines of text", compiled, parsed=False),
        Contender("h", "exec filter", exec_filter),
        Contender("i", "exec filter, lines of text", exec_filter, parsed=False),
    ]


def configure(contender: Contender, directory: Path, log: Path, output: str) -> str:
    """Write the configuration; return its path."""
    path = directory / f"{contender.key}.conf"
    parser = "Parser            json" if contender.parsed else "Key               log"
    path.write_text(CONFIGURATION.format(log=log, parser=parser, filter=contender.filter, output=output))
    return str(path)


def count_kept(program: str, contender: Contender, directory: Path, log: Path) -> int:
    """How many records a filter lets through, in a run that does not count."""
    out = directory / "out.json"
    out.unlink(missing_ok=True)
    output = f"Name    file\n    Format  plain\n    Path    {directory}\n    File    {out.name}"
    run([program, "-c", configure(contender, directory, log, output)], log)
    if not out.exists():
        return 0
    with out.open("rb") as file:
        return sum(1 for _ in file)


def check(contenders: list[Contender], count: int) -> None:
    """Refuse to measure what loses records."""
    kept = {contender.key: contender.kept for contender in contenders}
    if {kept["a"], kept["f"]} != {count} or len({kept[key] for key in "deghi"}) != 1:
        raise click.ClickException(f"records were lost, of {count:,}: {kept}")


def report(console: Console, contenders: list[Contender], count: int, size: int) -> None:
    """Print the figures."""
    console.print(
        f"{count:,} audit events, {size / count:,.0f} bytes each on average as JSON. Policy: {POLICY.name}."
        f" {len(contenders[0].costs)} rounds, whole processes.\n{platform.machine()}, {os.cpu_count()} CPUs."
    )
    by_key = {contender.key: contender for contender in contenders}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    headings = ("CPU s", "µs each", "records/CPU s", "records/s", f"x ({REFERENCE})", "kept")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in contenders:
        cpu = [cost.cpu for cost in each.costs]
        table.add_row(
            f"({each.key}) {each.name}",
            f"{median(cpu):.2f}",
            f"{median(cpu) / count * 1e6:.1f}",
            f"{count / median(cpu):,.0f}",
            f"{count / median(cost.wall for cost in each.costs):,.0f}",
            f"{ratio(each, by_key[REFERENCE]):.2f}",
            f"{each.kept:,}",
            style="bold" if each.key == "d" else None,
        )
    console.print(table)
    factor = ratio(by_key["d"], by_key[REFERENCE])
    console.print(
        f"(d) costs [bold]{factor:.2f} times[/] the CPU time of ({REFERENCE}). It may cost {MOST} times."
    )


def ratio(contender: Contender, reference: Contender) -> float:
    """How many times the CPU time of a reference: the median of the rounds' ratios."""
    pairs = zip(contender.costs, reference.costs, strict=True)
    return median(own.cpu / other.cpu for own, other in pairs)


if __name__ == "__main__":
    main()
