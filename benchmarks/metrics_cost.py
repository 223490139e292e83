"""What it costs to serve metrics: ``python -m benchmarks.metrics_cost``.

The filter reads one log in turn with ``--metrics-listen``, scraped each second, and without. What comes
once is not measured: starting up and the first scrape are over when the log begins. The comparison of
``benchmarks.bench`` ends with the line that this prints.
"""

from __future__ import annotations

import array
import fcntl
import os
import subprocess
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import click
from rich.console import Console

from benchmarks.audit_log import events, fluentd_stream
from benchmarks.measure import ROOT, Cost, cpu_of, free_port, program_option

POLICY = Path("conf/policies/gce.yaml")
ROUNDS = 7
_CHUNK = 1 << 20
# Seconds: a log of 300,000 events takes less than one, so the first scrape comes early.
_FIRST_SCRAPE, _INTERVAL = 0.3, 1.0
_DEADLINE = 30.0
# How many scrapes it takes to see what one costs.
_SCRAPES = 20


@click.command(context_settings={"show_default": True})
@click.option("--events", "count", type=click.IntRange(min=1), default=300_000, help="Events in the log.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, help="How often each process runs.")
@click.option("--seed", type=int, default=0, help="Another seed, another log.")
@program_option
def main(count: int, rounds: int, seed: int, program: Path) -> None:
    """Measure what serving metrics takes from the filter's throughput."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log.msgpack")
        with log.open("wb") as file:
            file.writelines(fluentd_stream(events(count, seed)))
        Console(highlight=False).print(measure(log, program, rounds), soft_wrap=True)


def measure(log: Path, program: Path, rounds: int = ROUNDS) -> str:
    """Run a filter on a log, in turn with and without metrics; returns what that has shown."""
    without: list[Cost] = []
    scraped: list[Cost] = []
    each: list[float] = []
    scrapes = 0
    for number in range(rounds):
        # In turn first, as the second one may find the machine in another state.
        for is_scraped in (number % 2 == 0, number % 2 == 1):
            cost, count = _run(program, log, each, free_port() if is_scraped else None)
            (scraped if is_scraped else without).append(cost)
            scrapes += count
    seconds = sum(cost.wall for cost in scraped)
    return (
        f"Metrics cost {_more(scraped, without, _cpu)} by CPU time and {_more(scraped, without, _wall)} by"
        f" the clock, with {scrapes / seconds:.1f} scrapes a second. Medians of {rounds} rounds, starting"
        f" up left out; the best rounds differ by {_least(scraped, without, _cpu)} and"
        f" {_least(scraped, without, _wall)}. One scrape takes {median(each) * 1e3:.1f} ms of CPU time."
    )


def _cpu(cost: Cost) -> float:
    return cost.cpu


def _wall(cost: Cost) -> float:
    return cost.wall


def _more(these: Sequence[Cost], those: Sequence[Cost], seconds: Callable[[Cost], float]) -> str:
    """The median of the rounds' own ratios: a busy machine slows both processes of a round alike."""
    ratio = median(seconds(this) / seconds(that) for this, that in zip(these, those, strict=True))
    return f"{ratio - 1:+.1%}"


def _least(these: Sequence[Cost], those: Sequence[Cost], seconds: Callable[[Cost], float]) -> str:
    return f"{min(map(seconds, these)) / min(map(seconds, those)) - 1:+.1%}"


def _run(program: Path, log: Path, each: list[float], port: int | None) -> tuple[Cost, int]:
    """Run the filter; returns what the log cost, and how often metrics were scraped meanwhile.

    ``each`` gets the CPU time of one scrape.
    """
    options = [] if port is None else ["--metrics-listen", f"127.0.0.1:{port}"]
    command = [str(program), "exec", "--policy", str(POLICY), *options]
    with (
        log.open("rb") as source,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        target = process.stdin.fileno()
        reader = threading.Thread(target=_read_all, args=(process.stdout.fileno(),))
        reader.start()
        os.sendfile(target, source.fileno(), None, 1 << 15)
        _wait_for(lambda: _waiting_in(target) == 0)
        over = threading.Event()
        scrapes = 0
        if port is not None:
            _wait_for(lambda: _scrape(port))
            before = cpu_of(process.pid)
            for _ in range(_SCRAPES):
                _scrape(port)
            each.append((cpu_of(process.pid) - before) / _SCRAPES)

        def scrape() -> None:
            nonlocal scrapes
            wait = _FIRST_SCRAPE
            while port is not None and not over.wait(wait) and _scrape(port):
                scrapes += 1
                wait = _INTERVAL

        scraper = threading.Thread(target=scrape)
        cpu, started = cpu_of(process.pid), time.perf_counter()
        scraper.start()
        while os.sendfile(target, source.fileno(), None, _CHUNK):
            pass
        process.stdin.close()
        # Not wait(): only wait4() tells what this one process used.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        over.set()
        scraper.join()
        reader.join()
    if process.returncode != 0:
        raise click.ClickException(f"{' '.join(command)}: exit status {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime - cpu), scrapes


def _read_all(descriptor: int) -> None:
    while os.read(descriptor, _CHUNK):
        pass


def _waiting_in(pipe: int) -> int:
    """How many bytes are in a pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]


def _scrape(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_DEADLINE) as answer:
            return bool(answer.read())
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise click.ClickException(f"the filter was not ready within {_DEADLINE:.0f} s")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
