"""Running processes side by side, and what each costs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Seconds that a process took from its start to its end.

    Attributes:
        wall: by the clock.
        cpu: of the processor, in the program and in the system on its behalf.
    """

    wall: float
    cpu: float


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run(command: Sequence[str], source: Path, target: BinaryIO | None = None) -> Cost:
    """Run a process from start to end, with a file as its stdin and its stdout a pipe.

    Args:
        command: the program and its arguments; it starts in the repository's root.
        source: the file.
        target: where to write what the process has written; None: nowhere.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote to stderr.
    """
    with source.open("rb") as stdin, tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT)
        assert process.stdout is not None
        with process.stdout as stdout:
            while chunk := os.read(stdout.fileno(), _CHUNK):
                if target is not None:
                    target.write(chunk)
        usage = wait(process, stderr)
        wall = time.perf_counter() - started
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def wait(process: subprocess.Popen[bytes], stderr: BinaryIO) -> resource.struct_rusage:
    """Wait for a process to end; returns what it used.

    Args:
        process: the process.
        stderr: the file that is its stderr.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote to stderr.
    """
    # Not wait(): only wait4() tells what this one process used.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
        raise RuntimeError(f"{process.args!r}: exit status {process.returncode}\n{said}")
    return usage


def cpu_of(pid: int) -> float:
    """Seconds of CPU time that another process has used so far."""
    return time.clock_gettime((~pid << 3) | 2)  # see clock_getcpuclockid(3)
