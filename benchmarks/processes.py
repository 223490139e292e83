"""Processes that run beside the one that measures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.measure import ROOT, wait

_DEADLINE = 30.0


class Process:
    """A process that is done with when its block is left.

    Args:
        command: the program and its arguments; it starts in the repository's root.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=ROOT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def said_port(self, pattern: bytes) -> int:
        """Wait until a proxy says on stderr on which port it listens.

        Args:
            pattern: a regular expression with a group for the port.

        Raises:
            click.ClickException: it has ended, or says no such thing within 30 s.
        """
        end = time.monotonic() + _DEADLINE
        while True:
            said = os.pread(self._stderr.fileno(), 1 << 16, 0)
            if (found := re.search(pattern, said)) is not None:
                return int(found[1])
            if not self.is_running() or time.monotonic() > end:
                command = " ".join(self._command)
                raise click.ClickException(f"{command} does not listen\n{said.decode(errors='replace')}")
            time.sleep(0.01)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        # Not poll(), after which wait4() would find no process.
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def most_memory(self) -> float:
        """MiB that it has held at most."""
        # wait4() would tell no less than what this process held when it began that one.
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found is not None else 0.0

    def end(self, number: signal.Signals | None = None) -> float:
        """Wait for its end, or have a signal end it; returns the seconds of CPU time that it used.

        Raises:
            ProcessError: it failed.
        """
        if number is not None:
            self._process.send_signal(number)
        usage = wait(self._process, self._stderr)
        return usage.ru_utime + usage.ru_stime

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for file in (self.stdin, self.stdout, self._stderr):
            file.close()
