"""What each way to filter costs with a real Fluent Bit, beside other filters and beside none.

``python -m benchmarks.fluent_bit`` generates one audit log and has Fluent Bit read it to its end each way,
several times in turn. It needs a Fluent Bit: on the PATH, or named by FLUENT_BIT. README.md says how to
read the figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
from rich.console import Console

from benchmarks import fluent_bit_proxy
from benchmarks.audit_log import events, json_lines
from benchmarks.measure import ROOT, Cost, events_option, program_option, run
from benchmarks.tables import print_whole, table
from filter_engine import Policy, PolicyEvaluator, reduce_event
from plugin.compiler.lua.compiler import LuaOptions, compile_policy

POLICY = ROOT / "conf/policies/gce.yaml"
EXEC_FILTER = ROOT / "conf/fluent-bit/exec_filter.lua"
# What the compiled policy is measured against: the least that a Lua filter can do.
REFERENCE = "c"
MOST = 1.5
# What most ways have to let through.
POLICY_KEPT = "d"
# What the filters by verb drop.
READS = ("get", "list", "watch")

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
    Tag               kube.audit
    Path              {log}
    {parser}
    Read_from_Head    true
    Exit_On_Eof       {ends}
    Buffer_Chunk_Size 1M
    Buffer_Max_Size   8M

{filter}

[OUTPUT]
    {output}
    Match   {match}
"""
NOWHERE = "Name    null"


@dataclass
class Contender:
    """Fluent Bit with one of the ways to filter that are compared.

    Attributes:
        key: the letter that the text calls it.
        name: what the way is.
        filter: its section of the configuration.
        parsed: whether records are the events' fields; else they are lines of text.
        is_proxied: whether records go through the forward proxy and come back.
        kept: how many records it let through.
        costs: what it took, a value for each round.
    """

    key: str
    name: str
    filter: str = ""
    parsed: bool = True
    is_proxied: bool = False
    kept: int = 0
    costs: list[Cost] = field(default_factory=list)


def lua(script: str, call: str) -> str:
    """The section of a Lua filter."""
    return f"[FILTER]\n    Name    lua\n    Match   *\n    Script  {script}\n    Call    {call}"


GREP = "[FILTER]\n    Name    grep\n    Match   *\n    Exclude verb ^(get|list|watch)$"


@click.command(context_settings={"show_default": True})
@events_option
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, envvar="ROUNDS", help="How often each way runs."
)
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
@program_option
def main(count: int, rounds: int, seed: int, program: Path) -> None:
    """Measure each way to filter with a Fluent Bit, beside other filters and beside none."""
    agent = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    if agent is None:
        raise click.ClickException("there is no fluent-bit on the PATH; name one in FLUENT_BIT")
    console = Console(highlight=False)
    # For the exec filter's child.
    os.environ["AUDIT_POLICY"] = str(POLICY)
    os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name, console.status("Writing the log ...") as status:
        directory = Path(name)
        log = directory / "audit.log"
        with log.open("wb") as file:
            file.writelines(json_lines(events(count, seed)))
        bench = Bench(agent, program, directory, log, count)
        contenders = prepare(directory)
        expected = expected_events(count, seed)
        for contender in contenders:
            status.update(f"Looking what ({contender.key}) keeps ...")
            bench.check(contender, expected.get(contender.key, expected[POLICY_KEPT]))
        for number in range(rounds):
            status.update(f"Round {number + 1} of {rounds} ...")
            for contender in contenders:
                contender.costs.append(bench.run(contender, NOWHERE))
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
        Contender("a", "no filter"),
        Contender("b", "filter_grep by verb", GREP),
        Contender("c", "Lua by verb", lua("verb.lua", "filter")),
        Contender("d", "compiled policy", compiled),
        Contender("e", "compiled, --reduce", lua("reduce.lua", "kube_audit_filter")),
        Contender("f", "no filter, lines of text", parsed=False),
        Contender("g", "compiled, lines of text", compiled, parsed=False),
        Contender("h", "exec filter", exec_filter),
        Contender("i", "exec filter, lines of text", exec_filter, parsed=False),
        Contender("j", "forward proxy", is_proxied=True),
        Contender("k", "forward proxy, lines of text", parsed=False, is_proxied=True),
    ]


class Bench:
    """Runs Fluent Bit.

    Args:
        agent: the program.
        program: the filter.
        directory: for files that are needed for a while; the scripts are there.
        log: what Fluent Bit reads.
        count: how many events are in it.
    """

    def __init__(self, agent: str, program: Path, directory: Path, log: Path, count: int) -> None:
        self._agent = agent
        self._program = program
        self._directory = directory
        self._log = log
        self._count = count

    def run(self, contender: Contender, output: str) -> Cost:
        """Have the log read to its end.

        Args:
            contender: the way.
            output: what the section of the configuration says of where records go.
        """
        path = self._directory / f"{contender.key}.conf"
        path.write_text(self._configuration(contender, output))
        command = [self._agent, "-c", str(path)]
        if not contender.is_proxied:
            return run(command, self._log)
        return fluent_bit_proxy.run(command, self._program, POLICY, self._directory, self._count)

    def check(self, contender: Contender, expected: Counter[bytes]) -> None:
        """Look what comes out, in a run that is not measured.

        Args:
            contender: the way.
            expected: fingerprints of the events that have to come out.

        Raises:
            click.ClickException: these are not the events that have come out.
        """
        out = self._directory / "out.json"
        out.unlink(missing_ok=True)
        output = f"Name    file\n    Format  plain\n    Path    {out.parent}\n    File    {out.name}"
        self.run(contender, output)
        out.touch()
        with out.open("rb") as file:
            records = map(json.loads, file)
            found = Counter(
                fingerprint(record if contender.parsed else json.loads(record["log"])) for record in records
            )
        contender.kept = found.total()
        if found != expected:
            raise click.ClickException(
                f"({contender.key}) does not let through what it should:"
                f" {(expected - found).total():,} events are missing or changed,"
                f" and {(found - expected).total():,} are there that should not be"
            )

    def _configuration(self, contender: Contender, output: str) -> str:
        between = fluent_bit_proxy.loop(self._directory) if contender.is_proxied else contender.filter
        return CONFIGURATION.format(
            log=self._log,
            parser="Parser            json" if contender.parsed else "Key               log",
            ends="false" if contender.is_proxied else "true",
            filter=between,
            output=output,
            match=f"{fluent_bit_proxy.PREFIX}*" if contender.is_proxied else "*",
        )


def expected_events(count: int, seed: int) -> dict[str, Counter[bytes]]:
    """Fingerprints of the events that have to come out, by the key of the way.

    Ways without a key here let through what the policy keeps: POLICY_KEPT.
    """
    evaluator = PolicyEvaluator(Policy.from_file(POLICY))
    everything, by_verb, kept, reduced = (Counter[bytes]() for _ in range(4))
    for event in events(count, seed):
        own = fingerprint(event)
        everything[own] += 1
        by_verb[own] += event["verb"] not in READS
        decision = evaluator.evaluate(event)
        kept[own] += decision.keep
        if decision.keep:
            reduced[fingerprint(reduce_event(event, decision))] += 1
    return {"a": everything, "b": by_verb, "c": by_verb, "e": reduced, "f": everything, POLICY_KEPT: kept}


def fingerprint(event: Mapping[str, object]) -> bytes:
    """An event by its contents, for ways may differ in the order of keys."""
    return hashlib.sha256(json.dumps(event, sort_keys=True).encode()).digest()


def report(console: Console, contenders: list[Contender], count: int, size: int) -> None:
    """Print the figures."""
    console.print(
        f"{count:,} audit events, {size / count:,.0f} bytes each on average as JSON. Policy: {POLICY.name}."
        f" {len(contenders[0].costs)} rounds, whole processes.\n{platform.machine()}, {os.cpu_count()} CPUs.",
        soft_wrap=True,
    )
    by_key = {contender.key: contender for contender in contenders}
    headings = ("CPU s", "µs each", "records/CPU s", "records/s", f"x ({REFERENCE})", "kept")
    made = table("", headings)
    for each in contenders:
        cpu = [cost.cpu for cost in each.costs]
        made.add_row(
            f"({each.key}) {each.name}",
            f"{median(cpu):.2f}",
            f"{median(cpu) / count * 1e6:.1f}",
            f"{count / median(cpu):,.0f}",
            f"{count / median(cost.wall for cost in each.costs):,.0f}",
            f"{ratio(each, by_key[REFERENCE]):.2f}",
            f"{each.kept:,}",
            style="bold" if each.key == "d" else None,
        )
    print_whole(console, made)
    for own, other in (("d", REFERENCE), ("j", "h"), ("k", "i")):
        factor = ratio(by_key[own], by_key[other])
        console.print(f"({own}) costs [bold]{factor:.2f} times[/] the CPU time of ({other}).")
    console.print(f"({REFERENCE}) is the least that a Lua filter can do; (d) may cost {MOST} times.")


def ratio(contender: Contender, reference: Contender) -> float:
    """How many times the CPU time of a reference: the median of the rounds' ratios."""
    pairs = zip(contender.costs, reference.costs, strict=True)
    return median(own.cpu / other.cpu for own, other in pairs)


if __name__ == "__main__":
    main()
