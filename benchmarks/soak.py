"""The filter under everything at once, for as long as you like: ``python -m benchmarks.soak``.

One ``kube-audit-filter exec`` gets a mixed stream at full speed while its policy is changed every two
seconds, its metrics are scraped every second, its log is rotated and SIGHUP sent. At the end the
filter's own counts have to be those of both ends of its pipes, records have to have come in order, and
memory must not have grown. The exit status is 1 if anything of that is not so.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import click
from rich.console import Console

from benchmarks.measure import ROOT, python
from benchmarks.soak_load import Reader, Writer
from plugin import policies

POLICIES = (policies.path("recommended"), ROOT / "conf/policies/gce.yaml")
# MiB by which memory may grow. What a large record takes for a moment is not growth.
MAX_GROWTH = 5.0
# Seconds until memory is what it stays. A run that is shorter than twice that says nothing of growth.
_WARM_UP = 30.0
_DEADLINE = 60.0


class ConfigMap:
    """A policy in a volume, changed as kubelet does: by turning one symbolic link."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "policy.yaml"
        self._directory = directory
        self._version = 0
        directory.mkdir()
        self.change()
        self.file.symlink_to("..data/policy.yaml")

    def change(self) -> None:
        """Put the other policy in place."""
        self._version += 1
        new = self._directory / f"..{self._version}"
        new.mkdir()
        (new / "policy.yaml").write_bytes(POLICIES[self._version % 2].read_bytes())
        link = self._directory / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self._directory / "..data")
        old = self._directory / f"..{self._version - 1}"
        if old.exists():
            (old / "policy.yaml").unlink()
            old.rmdir()


@dataclass(frozen=True)
class Sample:
    """What the system said of the filter at one moment.

    Attributes:
        seconds: since the start.
        memory: MiB.
        descriptors: how many were open.
        threads: how many there were.
    """

    seconds: float
    memory: float
    descriptors: int
    threads: int

    @classmethod
    def take(cls, pid: int, seconds: float) -> Sample:
        """What it says now."""
        status = Path(f"/proc/{pid}/status").read_text()
        return cls(
            seconds,
            _number(r"VmRSS:\s+([0-9]+)", status) / 1024,
            len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
            int(_number(r"Threads:\s+([0-9]+)", status)),
        )


@dataclass(frozen=True)
class Subject:
    """The filter that is tested, and what belongs to it.

    Attributes:
        child: the process.
        config_map: has its policy.
        log: its log file.
    """

    child: subprocess.Popen[bytes]
    config_map: ConfigMap
    log: Path


@dataclass(frozen=True)
class Run:
    """What was seen while the filter ran, and when it had ended.

    Attributes:
        exit_status: of the filter.
        samples: one a second.
        writer: has written its input.
        reader: has read its output.
        metrics: when it had read all.
        said: its log.
    """

    exit_status: int
    samples: list[Sample]
    writer: Writer
    reader: Reader
    metrics: dict[str, float]
    said: str


def _after_warm_up(samples: list[Sample]) -> list[Sample]:
    """Those from when caches are full and large records have come, in a run that is long enough."""
    until = min(_WARM_UP, samples[-1].seconds / 2)
    return [sample for sample in samples if sample.seconds >= until]


def _is_long_enough(samples: list[Sample]) -> bool:
    return samples[-1].seconds >= 2 * _WARM_UP


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found is not None else 0.0


@click.command(context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(min=0.1), default=10.0, envvar="MINUTES", help="How long.")
@click.option("--seed", type=int, default=0, help="Another seed, another stream.")
def main(minutes: float, seed: int) -> None:
    """Run the filter under a mixed load, with faults, and see that it loses nothing and does not grow."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config_map = ConfigMap(directory / "policy")
        log = directory / "filter.log"
        options = ["--reload-interval", "0.5", "--log-file", str(log), "--metrics-listen", "127.0.0.1:0"]
        child = subprocess.Popen(
            python("kube_audit_filter", "exec", "--policy", str(config_map.file), *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            faults = _soak(console, Subject(child, config_map, log), minutes * 60, seed)
        finally:
            child.kill()
            child.wait()
    if faults:
        raise click.ClickException("\n".join(faults))
    console.print("Nothing was lost, and everything came in order.")


def _soak(console: Console, subject: Subject, seconds: float, seed: int) -> list[str]:
    child, log = subject.child, subject.log
    assert child.stdin is not None
    assert child.stdout is not None
    url = _wait_for(lambda: log.exists() and re.search(r"metrics: (\S+)", log.read_text()), "metrics")
    writer, reader = Writer(child.stdin.fileno(), seed), Reader(child.stdout.fileno())
    samples: list[Sample] = []
    metrics: dict[str, float] = {}
    reader.start()
    writer.start()
    started = time.monotonic()
    chores: list[tuple[int, Callable[[], object]]] = [
        (2, subject.config_map.change),
        (7, lambda: child.send_signal(signal.SIGHUP)),
        (11, lambda: log.exists() and log.replace(f"{log}.1")),
    ]
    with console.status("") as status:
        second = 0
        while second < seconds and child.poll() is None:
            second += 1
            time.sleep(max(0.0, started + second - time.monotonic()))
            metrics = _scrape(url)
            samples.append(Sample.take(child.pid, time.monotonic() - started))
            for interval, chore in chores:
                if second % interval == 0:
                    chore()
            status.update(f"{second} of {seconds:.0f} s, {writer.records:,} records")
    writer.stop()
    if child.poll() is None:
        _wait_for(lambda: _scrape(url).get("records_in_total") == writer.records, "all records read")
        metrics = _scrape(url)
    child.stdin.close()
    child.wait(_DEADLINE)
    reader.join(_DEADLINE)
    run = Run(child.returncode, samples, writer, reader, metrics, log.read_text())
    _report(console, run)
    return list(_faults(run))


def _wait_for(condition: Callable[[], object], what: str) -> str:
    end = time.monotonic() + _DEADLINE
    while not (value := condition()):
        if time.monotonic() > end:
            raise click.ClickException(f"not within {_DEADLINE:.0f} s: {what}")
        time.sleep(0.02)
    return value[1] if isinstance(value, re.Match) else ""


def _scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=_DEADLINE) as answer:
        rows = [row.rpartition(" ") for row in answer.read().decode().splitlines()]
    return {
        name.removeprefix("kube_audit_filter_"): float(value) for name, _, value in rows if name[:1] != "#"
    }


def _report(console: Console, run: Run) -> None:
    samples, writer = run.samples, run.writer
    warm = _after_warm_up(samples)
    lasted = samples[-1].seconds
    memory = [sample.memory for sample in warm]
    slope = linear_regression([sample.seconds for sample in warm], memory).slope * 60 if warm[1:] else 0.0
    start, end = _ends(memory)
    judged = "" if _is_long_enough(samples) else " (too short a run to judge)"
    most = {name: max(getattr(sample, name) for sample in samples) for name in _FIGURES}
    console.print(
        f"{writer.records:,} records, {writer.size / 1e9:.1f} GB, in {lasted:.0f} s:"
        f" {writer.records / lasted:,.0f} records/s\n"
        f"memory       {start:.1f} MiB after {warm[0].seconds:.0f} s, {end:.1f} MiB at the end,"
        f" {slope:+.3f} MiB a minute, at most {most['memory']:.1f} MiB{judged}\n"
        f"descriptors  {warm[0].descriptors} and {warm[-1].descriptors}, at most {most['descriptors']}\n"
        f"threads      {warm[0].threads} and {warm[-1].threads}, at most {most['threads']}\n"
        f"policy       read again {run.metrics.get(_RELOADS, 0):,.0f} times\n"
        f"{run.said.strip().splitlines()[-1]}",
        soft_wrap=True,
    )


def _ends(values: list[float]) -> tuple[float, float]:
    """What values were at the start and at the end: medians of a tenth of them."""
    tenth = max(1, len(values) // 10)
    return median(values[:tenth]), median(values[-tenth:])


def _faults(run: Run) -> Iterator[str]:
    """What is not as it has to be."""
    samples, writer, reader, metrics = run.samples, run.writer, run.reader, run.metrics
    if run.exit_status != 0:
        yield f"the filter ended with exit status {run.exit_status}"
    if reader.fault is not None:
        yield reader.fault
    total = {name: int(_number(rf"records in=.* {name}=([0-9]+)", run.said)) for name in _COUNTS}
    total["in"] = int(_number(r"records in=([0-9]+)", run.said))
    kept, dropped, passed = (total[name] for name in _COUNTS)
    for what, found, expected in (
        ("the summary's records in", total["in"], writer.records),
        ("the summary's kept, dropped and passed", kept + dropped + passed, writer.records),
        ("the summary's passed", passed, writer.passing),
        ("the summary's kept and passed", kept + passed, reader.records),
        ("the summary's bytes in", int(_number(r"bytes in=([0-9]+)", run.said)), writer.size),
        ("the summary's bytes out", int(_number(r" out=([0-9]+)$", run.said)), reader.size),
        ("the metrics' records in", metrics.get("records_in_total"), writer.records),
        ("the metrics' records out", metrics.get("records_out_total"), reader.records),
        ("the metrics' internal errors", metrics.get('undecided_total{reason="internal_error"}'), 0),
        ("the metrics' failed reloads", metrics.get('policy_reloads_total{result="failure"}'), 0),
        ("messages not written", metrics.get("log_messages_unwritten_total"), 0),
    ):
        if found != expected:
            yield f"{what}: {found} in place of {expected}"
    warm = _after_warm_up(samples)
    start, end = _ends([sample.memory for sample in warm])
    if _is_long_enough(samples) and end - start > MAX_GROWTH:
        yield f"memory grew by {end - start:.1f} MiB, more than {MAX_GROWTH:.0f}"
    for name in ("descriptors", "threads"):
        # The least of the last ones: a scrape's may be among the others.
        before, after = getattr(warm[0], name), min(getattr(sample, name) for sample in warm[-10:])
        if after > before:
            yield f"there were {before} {name}, and at the end {after}"


_FIGURES = ("memory", "descriptors", "threads")
_COUNTS = ("kept", "dropped", "undecided")
_RELOADS = 'policy_reloads_total{result="success"}'


if __name__ == "__main__":
    main()
