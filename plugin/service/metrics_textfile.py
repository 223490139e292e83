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

# Seconds to wait, when the filter ends, for a write that has begun.
_TIMEOUT = 5.0
# How many filters may write to one directory.
_SLOTS = 100
# Other users may write to the directory too: links that they put in place of a file are never followed.
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class MetricsTextfile:
    """Writes metrics into a directory, for node_exporter's textfile collector.

    Each filter takes the first number ``N`` that no other filter has, writes
    ``kube-audit-filter-N.prom`` and adds ``child="N"`` to every sample. When the filter ends, in whatever
    way, the number is free again, and the next filter that is started takes it.

    Args:
        make_collector: makes the metrics, with labels to add to every sample.
        directory: where the file is written.
        diagnostics: where failures are reported.
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
        """Write the metrics. If that fails, say so; the filter runs without metrics."""
        with self._lock:
            if not self._is_closed:
                self._write()

    def close(self) -> None:
        """Remove the file: a filter that has ended has no metrics."""
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
        # The name is random, and the file must be new, so that nobody can plant a link under it.
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
        """Whether the directory still has the lock's file: somebody may have emptied the directory."""
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
            for left in self._directory.glob(f"{_prefix(file)}*"):  # by a filter that was killed
                with contextlib.suppress(OSError):
                    left.unlink()
            self._registry = CollectorRegistry()
            self._registry.register(self._make_collector({"child": str(number)}))
            return file
        raise OSError(0, f"{_SLOTS} filters write here already", str(self._directory))


def _prefix(file: Path) -> str:
    """The beginning of the names of new files, before they replace a file."""
    return f".{file.name}.new-"


def _lock(path: Path) -> int | None:
    """A descriptor of a file that is locked; None if another filter has locked it, or it is not a file.

    Raises:
        OSError: the file can't be created.
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
