"""Metrics in a file, for node_exporter's textfile collector."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from .diagnostics import Diagnostics

# Seconds to wait for a write that is going on when the filter ends.
_TIMEOUT = 5.0
# How many filters may write to one directory.
_SLOTS = 100
# Others may write to the directory too: what they put there instead of a file is never followed.
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class MetricsTextfile:
    """Writes metrics into a directory, for node_exporter's textfile collector.

    Each filter takes the first number that no other one has, ``N``, writes
    ``kube-audit-filter-N.prom`` and says ``child="N"`` in every sample. The number is freed when the
    filter ends, however it ends, and goes to the one that is started in its place.

    Args:
        make_collector: called once with the labels to add.
        directory: where to write.
        diagnostics: where to complain.
    """

    interval = 15.0

    def __init__(
        self,
        make_collector: Callable[[dict[str, str]], Collector],
        directory: str,
        diagnostics: Diagnostics,
    ) -> None:
        self._make_collector = make_collector
        self._directory = Path(directory)
        self._diagnostics = diagnostics
        self._registry = CollectorRegistry()
        self._file: Path | None = None
        self._number: int | None = None  # a descriptor, locked
        self._is_closed = False
        self._lock = threading.Lock()  # a write may still be going on when the filter ends

    def export(self, asked: bool) -> None:
        """Write the metrics. Where that fails, complain; the filter goes on without."""
        with self._lock:
            if not self._is_closed:
                self._write()

    def close(self) -> None:
        """Take the file away: a filter that has ended has nothing to tell."""
        self._is_closed = True
        if self._lock.acquire(timeout=_TIMEOUT):
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.unlink()
            self._lock.release()

    def _write(self) -> None:
        try:
            if self._file is None or not self._has_number(self._file):
                self._file = None
                self._file = self._take_number()
            self._replace(self._file, generate_latest(self._registry))
        except OSError as error:
            self._diagnostics.rarely(
                "error", "metrics", f"no metrics: {error.filename or self._directory}: {error.strerror}"
            )

    def _replace(self, target: Path, data: bytes) -> None:
        # A name that nobody knows before, and only if nothing has it.
        new = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            new.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise

    def _has_number(self, file: Path) -> bool:
        """Whether the lock is still the one that others find: somebody may have emptied the directory."""
        assert self._number is not None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._number), file.with_suffix(".lock").lstat()):
                return True
        os.close(self._number)
        return False

    def _take_number(self) -> Path:
        for number in range(_SLOTS):
            file = self._directory / f"kube-audit-filter-{number}.prom"
            lock = _lock(file.with_suffix(".lock"))
            if lock is None:
                continue
            self._number = lock  # held until the process ends
            for left in self._directory.glob(f"{_prefix(file)}*"):  # by one that was killed
                with contextlib.suppress(OSError):
                    left.unlink()
            self._registry = CollectorRegistry()
            self._registry.register(self._make_collector({"child": str(number)}))
            return file
        raise OSError(0, f"{_SLOTS} filters write here already", str(self._directory))


def _prefix(file: Path) -> str:
    """What the names of new files begin with, before they take the place of a file."""
    return f".{file.name}.new-"


def _lock(path: Path) -> int | None:
    """A descriptor of a file that is locked; None: another one has it, or it is not to be trusted.

    Raises:
        OSError: it can't be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a directory, a socket
            return None
        raise
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except BlockingIOError:
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
