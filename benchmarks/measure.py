"""Running processes side by side, and what each costs."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import click

ROOT = Path(__file__).resolve().parents[1]
# The filter as users have it. Each program of an editable installation takes some 60 ms more to start.
INSTALLED = ROOT / ".venv-bench/bin/kube-audit-filter"
# A process that waits for longer than this fraction of its CPU time did not have a CPU for itself.
BUSY = 0.25
BUSY_WARNING = (
    "The processes often had to wait for a CPU: other programs were running. Measure again on an idle"
    " machine, or go by the CPU times."
)
_CHUNK = 1 << 20
_PIPE_SIZE = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Seconds that a process took from its start to its end.

    Attributes:
        wall: by the clock.
        cpu: of the processor, in the program and in the system on its behalf.
    """

    wall: float
    cpu: float


class ProcessError(click.ClickException):
    """A process has failed.

    Attributes:
        said: what it wrote to stderr.
    """

    def __init__(self, command: object, status: int, said: str) -> None:
        super().__init__(f"{command}: exit status {status}\n{said}")
        self.said = said


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def events_option(function: Callable[..., None]) -> Callable[..., None]:
    """The option ``--events`` of a benchmark: how long the log is that is measured."""
    return click.option(
        "--events",
        "count",
        type=click.IntRange(min=1),
        default=100_000,
        envvar="EVENTS",
        help="Events in the log.",
    )(function)


def program_option(function: Callable[..., None]) -> Callable[..., None]:
    """The option ``--program`` of a benchmark: which installed filter is measured."""
    return click.option(
        "--program",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=lambda _context, _option, path: _checked(path),
        default=INSTALLED,
        show_default=".venv-bench/bin/kube-audit-filter",
        envvar="PROGRAM",
        help="The kube-audit-filter to measure.",
    )(function)


def _checked(program: Path) -> Path:
    if not os.access(program, os.X_OK):
        advice = "; 'make .venv-bench/.ready' puts it there" if program == INSTALLED else ""
        raise click.BadParameter(f"{program}: there is no such program{advice}")
    program = program.absolute()
    if not os.access(interpreter(program), os.X_OK):
        raise click.BadParameter(
            f"{program}: there is no python beside it; name one in a virtual environment"
        )
    return program


def interpreter(program: Path) -> str:
    """The interpreter of the virtual environment that a program is installed in."""
    return str(program.parent / "python")


def has_module(program: Path, name: str) -> bool:
    """Whether a program's virtual environment has a module."""
    command = [interpreter(program), "-I", "-c", f"import {name}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(
    command: Sequence[str],
    source: Path,
    target: BinaryIO | None = None,
    *,
    sizes: Sequence[int] | None = None,
    statuses: Sequence[int] = (0,),
) -> Cost:
    """Run a process from start to end, with a file as its stdin and its stdout a pipe.

    Args:
        command: the program and its arguments; it starts in the repository's root.
        source: the file.
        target: where to write what the process has written; None: nowhere.
        sizes: bytes of each record; with them, stdin is a pipe, and each read from it gets one record.
        statuses: exit statuses that are none of failure.

    Raises:
        ProcessError: the process failed.
    """
    # A directory of sources there would come before what is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with _stdin(source, sizes) as stdin, tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, env=environment
            )
        finally:
            os.close(stdin)
        assert process.stdout is not None
        with process.stdout as stdout:
            while chunk := os.read(stdout.fileno(), _CHUNK):
                if target is not None:
                    target.write(chunk)
        usage = wait(process, stderr, statuses)
        wall = time.perf_counter() - started
    return Cost(wall, usage.ru_utime + usage.ru_stime)


@contextmanager
def _stdin(source: Path, sizes: Sequence[int] | None) -> Iterator[int]:
    """The descriptor of a file, or of a pipe that delivers the file's records one by one."""
    if sizes is None:
        yield os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        return
    # Packets: a read gets what one write has put in, at most 4,096 bytes.
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    feeder = Thread(target=_feed, args=(source, sizes, writing))
    feeder.start()
    try:
        yield reading
    finally:
        feeder.join()


def _feed(source: Path, sizes: Sequence[int], writing: int) -> None:
    with source.open("rb", buffering=_CHUNK) as file, open(writing, "wb", buffering=0) as pipe:
        try:
            for size in sizes:
                pipe.write(file.read(size))
        except BrokenPipeError:
            pass  # the process has ended; run() says why


def wait(
    process: subprocess.Popen[bytes], stderr: BinaryIO, statuses: Sequence[int] = (0,)
) -> resource.struct_rusage:
    """Wait for a process to end; returns what it used.

    Args:
        process: the process.
        stderr: the file that is its stderr.
        statuses: exit statuses that are none of failure.

    Raises:
        ProcessError: the process failed.
    """
    # Not wait(): only wait4() tells what this one process used.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in statuses:
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
        raise ProcessError(process.args, process.returncode, said)
    return usage


def cpu_of(pid: int) -> float:
    """Seconds of CPU time that another process has used so far."""
    return time.clock_gettime((~pid << 3) | 2)  # see clock_getcpuclockid(3)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
