"""How fast the forward proxy is, and what it costs beside the exec filter.

``python -m benchmarks.forward`` generates one audit log and sends it, as messages of each kind, to a
receiver: directly and through the proxy, several times in turn. Sender, proxy and receiver are processes
of their own. README.md says how to read the figures.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
from msgpack import Unpacker
from rich.console import Console
from rich.table import Table

from benchmarks import forward_load
from benchmarks.audit_log import events
from benchmarks.logs import record_sizes
from benchmarks.measure import (
    BUSY,
    BUSY_WARNING,
    Cost,
    cpu_of,
    events_option,
    has_module,
    interpreter,
    program_option,
    python,
    run,
)
from benchmarks.processes import Process
from benchmarks.tables import print_whole, table

POLICY = "conf/policies/gce.yaml"
PEER = "benchmarks.forward_load"
_BEST = "proxy"

# What has the filter run without finding uvloop.
_WITHOUT_UVLOOP = (
    "import runpy, sys; sys.modules['uvloop'] = None; sys.argv.pop(0);"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass
class Load:
    """The log, as messages.

    Attributes:
        name: what the text calls them.
        mode: what kind of messages they are.
        acks: whether they ask for an acknowledgement.
        path: the sender's file.
        size: their bytes.
    """

    name: str
    mode: forward_load.Mode
    acks: bool
    path: Path
    size: int = 0


class Passage(NamedTuple):
    """What it took to send the log once.

    Attributes:
        wall: seconds by the clock, from the sender's first byte to its last acknowledgement or, where
            there are none, to the receiver's last byte.
        peers: seconds of CPU time of sender and receiver.
        proxy: seconds of CPU time of the proxy, from when it was ready.
        memory: MiB that the proxy held at most.
    """

    wall: float
    peers: float
    proxy: float
    memory: float


@dataclass
class Contender:
    """One way for one kind of messages.

    Attributes:
        load: the messages.
        name: what the way is.
        proxy: the proxy's command; None: there is none.
        kept: how many records came to the receiver.
        passages: a value for each round.
    """

    load: Load
    name: str
    proxy: Sequence[str] | None
    kept: int = 0
    passages: list[Passage] = field(default_factory=list)


@dataclass
class Exec:
    """The exec filter on the same entries.

    Attributes:
        kept: how many records it wrote.
        costs: what it took, a value for each round.
        starts: the same, without any input.
    """

    kept: int = 0
    costs: list[Cost] = field(default_factory=list)
    starts: list[Cost] = field(default_factory=list)

    def cpu(self, number: int) -> float:
        """Seconds of CPU time in a round, without starting up."""
        return self.costs[number].cpu - self.starts[number].cpu

    def wall(self, number: int) -> float:
        """Seconds by the clock, likewise."""
        return self.costs[number].wall - self.starts[number].wall


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        count: events in the log.
        rounds: how often each way is measured.
        connections: of the sender.
        chunk: bytes of a message's entries.
        seed: of the log.
        program: the filter.
    """

    count: int
    rounds: int
    connections: int
    chunk: int
    seed: int
    program: Path


@click.command(context_settings={"show_default": True})
@events_option
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, envvar="ROUNDS", help="How often each is measured."
)
@click.option("--connections", type=click.IntRange(min=1), default=2, help="Of the sender.")
@click.option("--chunk", type=click.IntRange(min=1), default=1 << 20, help="Bytes of a message's entries.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
@program_option
def main(**options: Any) -> None:
    """Measure the forward proxy between a sender and a receiver, beside none and beside the exec filter."""
    settings = Settings(**options)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name, console.status("Writing the log ...") as status:
        directory = Path(name)
        entries = [
            forward_load.entry(event, number)
            for number, event in enumerate(events(settings.count, settings.seed))
        ]
        log, empty = directory / "log", directory / "empty"
        log.write_bytes(b"".join(entries))
        empty.touch()
        loads = _loads(directory)
        for load in loads:
            status.update(f"Writing {load.name} ...")
            frames = forward_load.messages(entries, load.mode, settings.chunk, acks=load.acks)
            load.size = forward_load.write(load.path, frames)
        del entries
        contenders = [contender for load in loads for contender in _contenders(load, settings.program)]
        execute = [str(settings.program), "exec", "--policy", POLICY]
        reference = Exec(kept=_count_exec(execute, log, directory / "kept"))
        for contender in contenders:
            status.update(f"Counting what comes of {contender.load.name}, {contender.name} ...")
            _send(contender, 1, directory / "kept")
            contender.kept = _count(directory / "kept")
        _check(contenders, reference, settings.count)
        for number in range(settings.rounds):
            status.update(f"Round {number + 1} of {settings.rounds} ...")
            reference.starts.append(run(execute, empty))
            reference.costs.append(run(execute, log))
            for contender in contenders:
                contender.passages.append(_send(contender, settings.connections))
        size = log.stat().st_size
    console.print(
        f"{settings.count:,} audit events, {size / settings.count:,.0f} bytes each on average, in messages of"
        f" {settings.chunk / 1e6:.2g} MB, over {settings.connections} connections."
        f" Policy: {Path(POLICY).name}. Medians of {settings.rounds} rounds.\n"
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs, which sender,"
        f" proxy and receiver share. {reference.kept:,} events are kept.",
        soft_wrap=True,
    )
    print_whole(console, _table(contenders, reference, size, settings.count))
    _comment(console, contenders, reference, size, settings.count)


def _loads(directory: Path) -> list[Load]:
    return [
        Load("Forward", "forward", True, directory / "forward"),
        Load("PackedForward", "packed", True, directory / "packed"),
        Load("PackedForward, gzip", "gzip", True, directory / "gzip"),
        Load("PackedForward, no acks", "packed", False, directory / "no-acks"),
    ]


def _contenders(load: Load, program: Path) -> list[Contender]:
    ways: list[tuple[str, Sequence[str] | None]] = [
        ("direct", None),
        (
            "proxy without uvloop",
            # Isolated: the directory of sources is not looked into for modules.
            [interpreter(program), "-I", "-c", _WITHOUT_UVLOOP, str(program)],
        ),
    ]
    if has_module(program, "uvloop"):
        ways.append((_BEST, [str(program)]))
    return [Contender(load, name, command) for name, command in ways]


def _send(contender: Contender, connections: int, save: Path | None = None) -> Passage:
    """Send the log once.

    Args:
        contender: its messages and their way.
        connections: of the sender.
        save: where the receiver writes what it gets; needs a single connection.
    """
    with Process(python(PEER, "receive", *([] if save is None else [str(save)]))) as receiver:
        port = int(receiver.stdout.readline())
        if contender.proxy is None:
            sent = _run_sender(contender.load, port, connections)
            used = memory = 0.0
        else:
            ways = ["--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{port}"]
            with Process([*contender.proxy, "forward", "--policy", POLICY, *ways]) as proxy:
                port = proxy.said_port(rb"listening on \S+:(\d+)")
                before = cpu_of(proxy.pid)
                sent = _run_sender(contender.load, port, connections)
                memory = proxy.most_memory()
                used = proxy.end(signal.SIGTERM) - before
        receiver.stdin.close()
        got = json.loads(receiver.stdout.readline())
        receiver.end()
    ended = sent["ended"] if contender.load.acks else got["ended"]
    return Passage(ended - sent["started"], sent["cpu"] + got["cpu"], used, memory)


def _run_sender(load: Load, port: int, connections: int) -> dict[str, float]:
    with Process(python(PEER, "send", str(port), str(load.path), str(connections))) as sender:
        line = sender.stdout.readline()
        sender.end()
    sent: dict[str, float] = json.loads(line)
    return sent


def _count_exec(command: Sequence[str], log: Path, target: Path) -> int:
    """How many records the exec filter lets through, in a run that does not count."""
    with target.open("wb") as file:
        run(command, log, file)
    return _count_values(target.read_bytes())


def _count_values(data: bytes) -> int:
    return sum(1 for _ in record_sizes(BytesIO(data)))


def _count(path: Path) -> int:
    """How many records are in messages, which have to say so themselves."""
    records = 0
    with path.open("rb") as file:
        for _, body, option in Unpacker(file, raw=True, strict_map_key=False, max_buffer_size=1 << 30):
            found = len(body) if isinstance(body, list) else _count_values(_plain(body))
            if found != option[b"size"]:
                raise click.ClickException(f"a message of {found} records says: {option[b'size']}")
            records += found
    return records


def _plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def _check(contenders: Sequence[Contender], reference: Exec, count: int) -> None:
    """Refuse to measure what loses records."""
    for each in contenders:
        expected = count if each.proxy is None else reference.kept
        if each.kept != expected:
            raise click.ClickException(
                f"of {each.load.name}, {each.name}, {each.kept:,} records came, not {expected:,}"
            )


def _table(contenders: Sequence[Contender], reference: Exec, size: int, count: int) -> Table:
    made = table("", ("records/s", "MB/s", "x direct", "CPU µs", "x exec", "MiB"))
    wall, cpu = (
        median(map(seconds, range(len(reference.costs)))) for seconds in (reference.wall, reference.cpu)
    )
    made.add_row("exec", *_speed(wall, size, count), "", _micro(cpu, count))
    direct = contenders[0]
    for each in contenders:
        if each.proxy is None:
            direct = each
            made.add_section()
            made.add_row(each.load.name)
        wall, _, cpu, memory = (median(values) for values in zip(*each.passages, strict=True))
        ratios = [one.wall / other.wall for one, other in zip(direct.passages, each.passages, strict=True)]
        costs = [passage.proxy / reference.cpu(number) for number, passage in enumerate(each.passages)]
        own = (f"{median(ratios):.2f}", _micro(cpu, count), f"{median(costs):.2f}", f"{memory:.0f}")
        made.add_row(
            f"  {each.name}",
            *_speed(wall, size, count),
            *(own if each.proxy is not None else [""] * len(own)),
            style="bold" if each.name == _BEST else None,
        )
    return made


def _speed(wall: float, size: int, count: int) -> tuple[str, str]:
    """Records and megabytes of the log a second."""
    return f"{count / wall:,.0f}", f"{size / wall / 1e6:,.0f}"


def _micro(seconds: float, count: int) -> str:
    """Microseconds for each record."""
    return f"{seconds / count * 1e6:.2f}"


def _comment(
    console: Console, contenders: Sequence[Contender], reference: Exec, size: int, count: int
) -> None:
    gzipped = next(each.load.size for each in contenders if each.load.mode == "gzip")
    peers = max(median(passage.peers for passage in each.passages) for each in contenders)
    console.print(
        f"Messages with gzip are {gzipped / size:.0%} of the log, and packed: the protocol has no compressed"
        f" Forward. Sender and receiver take up to {_micro(peers, count)} CPU µs for a record.",
        soft_wrap=True,
    )
    if all(each.name != _BEST for each in contenders):
        console.print("uvloop is not installed: the proxy was not measured with it.")
    if median(cost.wall / cost.cpu for cost in reference.costs) - 1 > BUSY:
        console.print(BUSY_WARNING, soft_wrap=True)


if __name__ == "__main__":
    main()
