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
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
from msgpack import OutOfData, Unpacker
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import forward_load
from benchmarks.audit_log import events
from benchmarks.measure import ROOT, Cost, cpu_of, python, run, wait

POLICY = "conf/policies/gce.yaml"
# A process that waits for longer than this fraction of its CPU time did not have a CPU for itself.
BUSY = 0.25
_DEADLINE = 30.0
PEER = "benchmarks.forward_load"

# The proxy's command, and one of a proxy that does not find uvloop.
PROXY = python("kube_audit_filter")
WITHOUT_UVLOOP = [
    sys.executable,
    "-c",
    "import sys; sys.modules['uvloop'] = None; from plugin.__main__ import main; main()",
]


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


@click.command(context_settings={"show_default": True})
@click.option("--events", "count", type=click.IntRange(min=1), default=100_000, help="Events in the log.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="How often each is measured.")
@click.option("--connections", type=click.IntRange(min=1), default=2, help="Of the sender.")
@click.option("--chunk", type=click.IntRange(min=1), default=1 << 20, help="Bytes of a message's entries.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
def main(count: int, rounds: int, connections: int, chunk: int, seed: int) -> None:
    """Measure the forward proxy between a sender and a receiver, beside none and beside the exec filter."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name, console.status("Writing the log ...") as status:
        directory = Path(name)
        entries = [forward_load.entry(event, number) for number, event in enumerate(events(count, seed))]
        log, empty = directory / "log", directory / "empty"
        log.write_bytes(b"".join(entries))
        empty.touch()
        loads = _loads(directory)
        for load in loads:
            status.update(f"Writing {load.name} ...")
            frames = forward_load.messages(entries, load.mode, chunk, acks=load.acks)
            load.size = forward_load.write(load.path, frames)
        del entries
        contenders = [contender for load in loads for contender in _contenders(load)]
        execute = python("kube_audit_filter", "exec", "--policy", POLICY)
        reference = Exec(kept=_count_exec(execute, log, directory / "kept"))
        for contender in contenders:
            status.update(f"Counting what comes of {contender.load.name}, {contender.name} ...")
            _send(contender, 1, directory / "kept")
            contender.kept = _count(directory / "kept")
        _check(contenders, reference, count)
        for number in range(rounds):
            status.update(f"Round {number + 1} of {rounds} ...")
            reference.starts.append(run(execute, empty))
            reference.costs.append(run(execute, log))
            for contender in contenders:
                contender.passages.append(_send(contender, connections))
        size = log.stat().st_size
    console.print(
        f"{count:,} audit events, {size / count:,.0f} bytes each on average, in messages of"
        f" {chunk / 1e6:.2g} MB, over {connections} connections. Policy: {Path(POLICY).name}."
        f" Medians of {rounds} rounds.\n"
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs, which sender,"
        f" proxy and receiver share. {reference.kept:,} events are kept.",
        soft_wrap=True,
    )
    console.print(_table(contenders, reference, size, count))
    _comment(console, contenders, reference, size, count)


def _loads(directory: Path) -> list[Load]:
    return [
        Load("Forward", "forward", True, directory / "forward"),
        Load("PackedForward", "packed", True, directory / "packed"),
        Load("PackedForward, gzip", "gzip", True, directory / "gzip"),
        Load("PackedForward, no acks", "packed", False, directory / "no-acks"),
    ]


def _contenders(load: Load) -> list[Contender]:
    ways: list[tuple[str, Sequence[str] | None]] = [
        ("direct", None),
        ("proxy without uvloop", WITHOUT_UVLOOP),
    ]
    if find_spec("uvloop") is not None:
        ways.append(("proxy", PROXY))
    return [Contender(load, name, command) for name, command in ways]


class _Process:
    """A process that is done with when its block is left."""

    def __init__(self, command: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=ROOT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def listening_port(self) -> int:
        """Wait until a proxy says on which port it listens."""
        end = time.monotonic() + _DEADLINE
        while True:
            found = re.search(rb"listening on \S+:(\d+)", os.pread(self._stderr.fileno(), 1 << 16, 0))
            if found is not None:
                return int(found[1])
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                self.end()
                raise click.ClickException("the proxy does not listen")
            time.sleep(0.01)

    def most_memory(self) -> float:
        """MiB that it has held at most."""
        # wait4() would tell no less than what this process held when it began that one.
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found is not None else 0.0

    def end(self, number: signal.Signals | None = None) -> float:
        """Wait for its end, or have a signal end it; returns the seconds of CPU time that it used.

        Raises:
            RuntimeError: it failed.
        """
        if number is not None:
            self._process.send_signal(number)
        usage = wait(self._process, self._stderr)
        return usage.ru_utime + usage.ru_stime

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for file in (self.stdin, self.stdout, self._stderr):
            file.close()


def _send(contender: Contender, connections: int, save: Path | None = None) -> Passage:
    """Send the log once.

    Args:
        contender: its messages and their way.
        connections: of the sender.
        save: where the receiver writes what it gets; needs a single connection.
    """
    with _Process(python(PEER, "receive", *([] if save is None else [str(save)]))) as receiver:
        port = int(receiver.stdout.readline())
        if contender.proxy is None:
            sent = _run_sender(contender.load, port, connections)
            used = memory = 0.0
        else:
            ways = ["--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{port}"]
            with _Process([*contender.proxy, "forward", "--policy", POLICY, *ways]) as proxy:
                port = proxy.listening_port()
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
    with _Process(python(PEER, "send", str(port), str(load.path), str(connections))) as sender:
        line = sender.stdout.readline()
        sender.end()
    sent: dict[str, float] = json.loads(line)
    return sent


def _count_exec(command: Sequence[str], log: Path, target: Path) -> int:
    """How many records the exec filter lets through, in a run that does not count."""
    with target.open("wb") as file:
        run(command, log, file)
    return _count_values(target.read_bytes())


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


def _count_values(data: bytes) -> int:
    unpacker, values = Unpacker(max_buffer_size=0), 0
    unpacker.feed(data)
    while True:
        try:
            unpacker.skip()
        except OutOfData:
            return values
        values += 1


def _check(contenders: Sequence[Contender], reference: Exec, count: int) -> None:
    """Refuse to measure what loses records."""
    for each in contenders:
        expected = count if each.proxy is None else reference.kept
        if each.kept != expected:
            raise click.ClickException(
                f"of {each.load.name}, {each.name}, {each.kept:,} records came, not {expected:,}"
            )


def _table(contenders: Sequence[Contender], reference: Exec, size: int, count: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("records/s", "MB/s", "x direct", "CPU µs", "x exec", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    wall, cpu = (
        median(map(seconds, range(len(reference.costs)))) for seconds in (reference.wall, reference.cpu)
    )
    table.add_row("exec", *_speed(wall, size, count), "", _micro(cpu, count))
    direct = contenders[0]
    for each in contenders:
        if each.proxy is None:
            direct = each
            table.add_section()
            table.add_row(each.load.name)
        wall, _, cpu, memory = (median(values) for values in zip(*each.passages, strict=True))
        ratios = [one.wall / other.wall for one, other in zip(direct.passages, each.passages, strict=True)]
        costs = [passage.proxy / reference.cpu(number) for number, passage in enumerate(each.passages)]
        own = (f"{median(ratios):.2f}", _micro(cpu, count), f"{median(costs):.2f}", f"{memory:.0f}")
        table.add_row(
            f"  {each.name}",
            *_speed(wall, size, count),
            *(own if each.proxy is not None else [""] * len(own)),
            style="bold" if each.proxy is PROXY else None,
        )
    return table


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
    if all(each.proxy is not PROXY for each in contenders):
        console.print("uvloop is not installed: the proxy was not measured with it.")
    if median(cost.wall / cost.cpu for cost in reference.costs) - 1 > BUSY:
        console.print(
            "The processes often had to wait for a CPU: other programs were running. Measure again on an idle"
            " machine, or go by the CPU times."
        )


if __name__ == "__main__":
    main()
