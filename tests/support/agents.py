"""What tests with a real log agent need: its process, an audit log that it reads, and patience."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from itertools import count, cycle
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple, TypeVar

import msgpack
import pytest

from benchmarks.audit_log import events
from tests.support import run_exec

Event = dict[str, Any]
T = TypeVar("T")

DEADLINE = 60.0
# Lines by which a log grows at most around the stop of an agent: Fluentd up to 1.18 does not stop before it
# is at the end of a log.
BACKLOG = 30_000
_PAUSE = threading.Event()  # never set: waiting for it is a pause
# What Fluentd's output "stdout" prints; Fluentd's own messages have no fraction of a second.
PRINTED = re.compile(rb"^(\S+ \S+\.\d{9}) \+0000 (\S*): (\{.*\})$", re.MULTILINE)


def fluent_bit_program() -> str:
    """Fluent Bit: FLUENT_BIT names it, or it is on the PATH. Skips the test where there is none."""
    program = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    if program is None:
        pytest.skip("no Fluent Bit: name one in FLUENT_BIT, or put fluent-bit on the PATH")
    return program


def fluentd_program() -> str:
    """Fluentd: FLUENTD names it, or it is on the PATH. Skips the test where there is none."""
    program = shutil.which(os.environ.get("FLUENTD", "fluentd"))
    if program is None:
        pytest.skip("no fluentd: set FLUENTD or put it on the PATH")
    return program


def configured(configuration: str, settings: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Set the variables that a configuration of Fluent Bit has under ``env:``, or with ``@SET``.

    These win over Fluent Bit's environment.

    Args:
        configuration: the text, in either format.
        settings: variable to value.

    Returns:
        The text with these values, and the settings that it does not have: they are for the environment.
    """
    others = {}
    for name, value in settings.items():
        there = re.compile(rf"^(  {name}: |@SET {name}=).*$", re.MULTILINE)
        configuration, count = there.subn(lambda found: found[1] + value, configuration)  # noqa: B023
        if not count:
            others[name] = value
    return configuration, others


def free_port(count: int = 1) -> int:
    """A port that nobody listens on, or the first of several in a row.

    It is none of those that the system gives to whoever connects, and chosen by chance: tests that run at
    the same time get others.
    """
    while True:
        first = random.SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def until(condition: Callable[[], T], complaint: Callable[[], str], *, running: Agent | None = None) -> T:
    """Wait for a condition, and return its first true value.

    There is no waiting once an agent has failed, whichever it is: what is waited for may need it.

    Args:
        condition: what to wait for.
        complaint: what to say if it never is true.
        running: an agent without which it can't become true: there is no waiting once it has ended.
    """
    end = time.monotonic() + DEADLINE
    while True:
        # Asked first: the last that an agent does may have made the condition true.
        status = running and running.status()
        if value := condition():
            return value
        assert status is None, f"the agent has ended with status {status}\n{complaint()}"
        for agent in _started:
            assert not agent.has_failed(), (
                f"ended with status {agent.status()}:\n{agent.logs()}\n{complaint()}"
            )
        assert time.monotonic() < end, complaint()
        _PAUSE.wait(0.05)


# Those that were not killed yet.
_started: list[Agent] = []


class Agent:
    """A process of a log agent in a process group of its own, with all it prints in one file.

    Args:
        command: the program with its arguments.
        output: the file for stdout and stderr.
        environment: variables to set. The filter of this environment is put in front of PATH.
    """

    def __init__(self, command: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, "PATH": path_with_filter()},
                start_new_session=True,
            )
        self._is_told_to_end = False
        _started.append(self)

    def signal(self, number: Signals, *, group: bool = False) -> None:
        """Send a signal to the agent; with ``group``, to its children too, as a terminal does."""
        self._is_told_to_end |= number in (Signals.SIGTERM, Signals.SIGINT, Signals.SIGKILL)
        (os.killpg if group else os.kill)(self._process.pid, number)

    def status(self) -> int | None:
        """With what it has ended: a status, or less than 0 for a signal. None while it runs."""
        return self._process.poll()

    def has_failed(self) -> bool:
        """Whether it has ended with a failure, and nobody told it to end."""
        return not self._is_told_to_end and self.status() not in (None, 0)

    def until(self, condition: Callable[[], T], complaint: Callable[[], str] | None = None) -> T:
        """Wait for a condition that needs the agent to run, and return its first true value."""
        return until(condition, complaint or self.logs, running=self)

    def stop(self, number: Signals = Signals.SIGTERM, *, group: bool = False) -> None:
        """Send a signal and wait for a clean end."""
        self.signal(number, group=group)
        until(lambda: self.status() is not None, self.logs)
        assert self.status() == 0, self.logs()

    def ended(self) -> bool:
        """Whether it has come to its end, which has to be a clean one."""
        status = self.status()
        assert status in (None, 0), self.logs()
        return status == 0

    def kill(self) -> None:
        """Leave nothing behind."""
        if self in _started:
            _started.remove(self)
        try:
            os.killpg(self._process.pid, Signals.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self._process.wait()

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def logs(self) -> str:
        """What helps to understand a failure."""
        return self.printed()[-5000:]

    def filters(self) -> dict[int, int]:
        """The running filters that descend from the agent: process id to that of the parent."""
        parents = _parents()
        found = {}
        for pid in parents:
            ancestor = pid
            while ancestor in parents and ancestor != self._process.pid:
                ancestor = parents[ancestor]
            if ancestor == self._process.pid and b"kube-audit-filter\0exec\0" in _command_line(pid):
                found[pid] = parents[pid]
        return found


def path_with_filter() -> str:
    """PATH with the filter of this Python environment first."""
    scripts = Path(sys.executable).parent
    assert shutil.which("kube-audit-filter", path=str(scripts)), "install the project: pip install -e ."
    return f"{scripts}{os.pathsep}{os.environ['PATH']}"


def _parents() -> dict[int, int]:
    parents = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state = (directory / "stat").read_text()
        except OSError:  # it has just ended
            continue
        parents[int(directory.name)] = int(state.rpartition(")")[2].split()[1])
    return parents


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class AuditLog:
    """An audit log that grows. ``lines`` is all that was ever written to it.

    No two events have the same ``stageTimestamp``, and their nine digits after the point all differ, so
    that no digit can get lost without being missed. Some text in each is not ASCII.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self._events = _events_without_end()

    def write(self, *lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.writelines(lines)
        self.lines += lines

    def write_events(self, count: int) -> None:
        self.write(*(next(self._events) for _ in range(count)))

    @contextmanager
    def growing(self, most: int | None = None) -> Iterator[None]:
        """Append some thousand events a second, from another thread; ``most``: how many at all."""
        done = threading.Event()

        def write() -> None:
            batches = count() if most is None else range(most // 50)
            for _ in batches:
                if done.wait(0.02):
                    return
                self.write_events(50)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            done.set()
            writer.join()


def _events_without_end() -> Iterator[bytes]:
    digits = random.Random(1)
    for second, model in enumerate(cycle(list(events(3000, seed=1)))):
        whole = datetime.fromtimestamp(1_800_000_000 + second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        event = {
            **model,
            "stageTimestamp": f"{whole}.{''.join(digits.sample('0123456789', 9))}Z",
            "annotations": {**model.get("annotations", {}), "größe": "naïve ☃"},
        }
        yield json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def nanoseconds(text: str) -> int:
    """A time as in an audit event, since the epoch."""
    whole, fraction = text.removesuffix("Z").split(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


class Emitted(NamedTuple):
    """A record as an agent has it."""

    tag: str
    time: int  # nanoseconds since the epoch
    record: Event


def printed_by_fluentd(output: bytes) -> list[Emitted]:
    """What Fluentd's output "stdout" has printed so far, in order. Fluentd has to run with TZ=UTC."""
    return [
        Emitted(tag.decode(), nanoseconds(time.decode().replace(" ", "T")), json.loads(record))
        for time, tag, record in PRINTED.findall(output)
    ]


def entries_of(stream: bytes) -> list[bytes]:
    """The bytes of each log event of Fluent Bit, or of each record where there is nothing else."""
    unpacker, found, start = msgpack.Unpacker(), [], 0
    unpacker.feed(stream)
    try:
        while start < len(stream):
            unpacker.skip()
            found.append(stream[start : unpacker.tell()])
            start = unpacker.tell()
    except msgpack.OutOfData:  # it is just being written
        pass
    return found


def text_of(value: Any) -> Any:
    """A decoded value with text in place of binary, which Fluentd makes of text where it has no gem oj."""
    if isinstance(value, dict):
        return {text_of(key): text_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [text_of(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value


def kept_lines(lines: list[bytes], policy: Path) -> list[bytes]:
    """What the filter keeps without an agent."""
    options = ["--format", "json", "--policy", str(policy)]
    result: subprocess.CompletedProcess[bytes] = run_exec(b"".join(lines), *options)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def kept(lines: list[bytes], policy: Path) -> list[Event]:
    return [json.loads(line) for line in kept_lines(lines, policy)]


def times(records: list[Event]) -> list[str]:
    return [record["stageTimestamp"] for record in records]
