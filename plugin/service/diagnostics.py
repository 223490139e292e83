"""The filter's messages, on stderr or in a log file. stdout belongs to the agent.

Nothing here may hold up a record or end the filter: a message that can't be written at once is
counted and dropped. Also, a signal may come while a message is written. The standard library's ``logging`` is
made for neither.

Messages may hold text from anywhere: a peer's answer, a name from a record, a line of a policy. Such text is
made harmless here, and nowhere else: each argument of :meth:`Diagnostics.error`, ``warning``, ``info`` and
``rarely`` becomes one line, and characters that can't be printed are escaped.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Literal, NamedTuple

STDERR = 2
NAME = "kube-audit-filter"
INTERVAL = 60.0

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# Bytes. A pipe that is ready for writing takes this much in one piece; see PIPE_BUF in pipe(7).
_PIECE = 4096
# Characters of a line, and lines of a message. The rest is cut off.
MAX_LINE = 8192
MAX_LINES = 100


class _Withheld(NamedTuple):
    severity: Severity
    lines: tuple[str, ...]
    times: int


class Diagnostics:
    """Writes messages to stderr, or where :meth:`configure` sends them. Any thread may use it.

    A message is given as its lines. Line breaks within a line, and other characters that can't be printed,
    are escaped: ``\\n``, ``\\x1b``. A line has up to ``MAX_LINE`` characters, and a message up to
    ``MAX_LINES`` lines.

    Args:
        interval: seconds within which :meth:`rarely` writes at most one message about the same thing.

    Attributes:
        messages: how many messages there were, by severity, written or not.
        unwritten: how many messages should have been written and could not be.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self.messages: Counter[str] = Counter(dict.fromkeys(SEVERITIES, 0))
        self.unwritten = 0
        self._interval = interval
        self._shown = SEVERITIES
        self._as_json = False
        self._file: _LogFile | None = None
        self._spoken: dict[str, float] = {}
        self._withheld: dict[str, _Withheld] = {}
        # Reentrant, because a signal handler may write a message while its own thread holds the lock.
        self._lock = threading.RLock()

    def configure(self, *, path: str | None, level: Severity, as_json: bool) -> None:
        """Change where messages go, which messages are written, and how.

        Args:
            path: a file to append to; None for stderr. While the file can't be opened, messages go to
                stderr.
            level: the lowest severity that is written.
            as_json: write one JSON object per message.
        """
        self._file = None if path is None else _LogFile(path)
        self._shown = SEVERITIES[: SEVERITIES.index(level) + 1]
        self._as_json = as_json

    def reopen(self) -> None:
        """Open the log file again."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    def error(self, *lines: str) -> None:
        """Say that something was lost, or will be, or does not work."""
        self._say("error", lines)

    def warning(self, *lines: str) -> None:
        """Say that something may not be what the user wants."""
        self._say("warning", lines)

    def info(self, *lines: str) -> None:
        """Say that something happened as it should."""
        self._say("info", lines)

    def rarely(self, severity: Severity, thing: str, *lines: str) -> None:
        """Write a message, unless one about the same thing was written within the interval."""
        with self._lock:
            now = time.monotonic()
            before = self._withheld.pop(thing, None)
            times = 0 if before is None else before.times
            if now - self._spoken.get(thing, -self._interval) < self._interval:
                self._withheld[thing] = _Withheld(severity, lines, times + 1)
            else:
                self._spoken[thing] = now
                self._say(severity, lines, times)

    def flush(self, *, final: bool = False) -> None:
        """For each thing whose interval is over, write the last message that was withheld about it.

        Args:
            final: write the withheld messages about all things, whether their interval is over or not.
        """
        with self._lock:
            now = time.monotonic()
            for thing, last in list(self._withheld.items()):
                if final or now - self._spoken[thing] >= self._interval:
                    del self._withheld[thing]
                    self._spoken[thing] = now
                    self._say(last.severity, last.lines, last.times - 1)

    def _say(self, severity: Severity, lines: Sequence[str], withheld: int = 0) -> None:
        with self._lock:
            self.messages[severity] += 1
            if severity not in self._shown:
                return
            descriptor = None if self._file is None else self._file.descriptor()
            if self._file is not None and (complaint := self._file.take_complaint()):
                self._write(STDERR, "error", [complaint], 0)
            self._write(STDERR if descriptor is None else descriptor, severity, lines, withheld)

    def _write(self, descriptor: int, severity: Severity, lines: Sequence[str], withheld: int) -> None:
        shown = [printable(line) for line in lines[:MAX_LINES]]
        if len(lines) > MAX_LINES:
            shown.append(f"({len(lines) - MAX_LINES} more lines)")
        if self._as_json:
            text = _as_json(severity, shown, withheld)
        else:
            if withheld:
                shown[-1] += f" ({withheld} messages like this were withheld)"
            text = _as_text(severity, shown, with_time=descriptor != STDERR)
        if not _write_now(descriptor, text.encode()):
            self.unwritten += 1


def printable(text: str) -> str:
    """A text as one line of up to ``MAX_LINE`` characters, without anything that controls a terminal.

    Characters that are not printable for :meth:`str.isprintable` are escaped as in a Python string: line
    breaks, escape codes, marks that turn the direction of text, invisible spaces, bytes that are not UTF-8.
    """
    shown = text[:MAX_LINE]
    if not shown.isprintable():
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in shown
        )[:MAX_LINE]
    return shown if len(text) <= MAX_LINE else f"{shown} … ({len(text):,} characters)"


class _LogFile:
    """A file to append to, opened when it is needed and again when it was moved away or deleted."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._complaint: str | None = None
        self._complained = False

    def close(self) -> None:
        """Close the file. The next message opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def descriptor(self) -> int | None:
        """A descriptor to write to; None while the file can't be opened, which is reported once."""
        if self._descriptor is not None and self._is_still_there(self._descriptor):
            return self._descriptor
        # Without O_NONBLOCK, a pipe that nobody reads from would stop the filter.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            opened = os.open(self._path, flags, 0o640)
        except OSError as error:
            if not self._complained:
                self._complaint = (
                    f"{self._path}: {error.strerror}; messages go to stderr until it can be opened"
                )
                self._complained = True
            self.close()
            return None
        self.close()
        self._descriptor, self._complained = opened, False
        return opened

    def take_complaint(self) -> str | None:
        complaint, self._complaint = self._complaint, None
        return complaint

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(descriptor))  # noqa: PTH116
        except OSError:
            return False


def _as_text(severity: Severity, lines: Sequence[str], *, with_time: bool) -> str:
    if with_time:
        start = f"{_now()} {severity.upper():7} {NAME}[{os.getpid()}]: "
    else:
        start = f"{NAME}: warning: " if severity == "warning" else f"{NAME}: "
    return "".join(f"{start}{line}\n" for line in lines)


def _as_json(severity: Severity, lines: Sequence[str], withheld: int) -> str:
    entry = {"time": _now(), "level": severity, "pid": os.getpid(), "message": "\n".join(lines)}
    if withheld:
        entry["withheld"] = withheld
    return json.dumps(entry) + "\n"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_now(descriptor: int, data: bytes) -> bool:
    """Write as much of the data as is possible without waiting. Returns whether that was all of it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            ready = poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT or os.write(descriptor, piece) < len(piece):
                return False
    except OSError:
        return False
    return True
