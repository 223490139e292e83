"""How metrics get out: a small HTTP server, or a file for node_exporter's textfile collector."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Protocol

from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from plugin.diagnostics import Diagnostics
from plugin.housekeeping import start_without_signals
from plugin.listen import Listen

# Seconds that a client has for all it wants, and connections at a time; more are closed at once.
_TIMEOUT = 5.0
_CONNECTIONS = 8
# How many filters may write to one directory.
_SLOTS = 100


class Health(Protocol):
    """What a running filter says of its health; None where nothing is wrong."""

    def trouble(self) -> str | None:
        """What keeps it from working at all: the answer of ``/healthz``."""

    def unready(self) -> str | None:
        """What keeps it from deciding on records: the answer of ``/readyz``."""


class Exporter(Protocol):
    """A way for metrics to get out."""

    interval: float

    def export(self, asked: bool) -> None:
        """Call this every ``interval`` seconds."""

    def close(self) -> None:
        """Export no more."""


def make_exporters(
    make_collector: Callable[[dict[str, str]], Collector],
    listen: Listen | None,
    directory: str | None,
    *,
    health: Health,
    diagnostics: Diagnostics,
) -> list[Exporter]:
    """The exporters that the user has asked for.

    Args:
        make_collector: makes the metrics, with labels to be added to every sample.
        listen: for a :class:`MetricsServer`.
        directory: for a :class:`MetricsTextfile`.
        health: for the server.
        diagnostics: where to complain.
    """
    exporters: list[Exporter] = []
    if listen is not None:
        exporters.append(MetricsServer(make_collector({}), listen, health, diagnostics))
    if directory is not None:
        exporters.append(MetricsTextfile(make_collector, directory, diagnostics))
    return exporters


class MetricsServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz``, on the first port of a range that is free.

    Args:
        collector: the metrics.
        listen: the address.
        health: the running filter.
        diagnostics: where to complain.
    """

    interval = 5.0

    def __init__(
        self, collector: Collector, listen: Listen, health: Health, diagnostics: Diagnostics
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._listen = listen
        self._checks = {"/healthz": health.trouble, "/readyz": health.unready}
        self._diagnostics = diagnostics
        self._server: _Server | None = None

    def export(self, asked: bool) -> None:
        """Listen, unless it does so already. Where no port is free, complain; the filter goes on without."""
        if self._server is not None:
            return
        error: OSError | None = None
        for port in self._listen.ports:
            try:
                self._server = _Server(self._listen.host, port, self._answer, self._diagnostics)
                break
            except OSError as reason:
                error = reason
        if self._server is None:
            assert error is not None
            self._diagnostics.rarely(
                "error", "metrics", f"no metrics: can't listen on {self._listen}: {error.strerror}"
            )
            return
        self._diagnostics.info(f"metrics: http://{self._server.address}/metrics")
        thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        start_without_signals(thread)

    def close(self) -> None:
        """Nothing to do: the server ends with the process, and answers until then."""

    def _answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(self._registry)
        check = self._checks.get(path)
        if check is None:
            return 404, _TEXT, b"there is /metrics, /healthz and /readyz\n"
        fault = check()
        return (200, _TEXT, b"ok\n") if fault is None else (503, _TEXT, f"{fault}\n".encode())


_TEXT = "text/plain; charset=utf-8"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # each filter has a port of its own

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[str, str], tuple[int, str, bytes]],
        diagnostics: Diagnostics,
    ) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        self.answer = answer
        self._diagnostics = diagnostics
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__((str(address[0]), port), _Handler)

    @property
    def address(self) -> str:
        return str(Listen(str(self.server_address[0]), range(self.server_port, self.server_port + 1)))

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up the host's name and may wait for a name server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started that could do it
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A timeout for each read would let a client that sends a byte now and then stay for ever.
        end = threading.Timer(_TIMEOUT, _shut_down, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Complain, but not of a client that goes away."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._diagnostics.rarely("error", "metrics", f"no metrics: internal error: {error!r}")


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        status, content_type, body = self.server.answer(
            self.path.partition("?")[0], self.headers.get("Accept", "")
        )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A request is no news."""


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
            new = self._file.with_name(f".{self._file.name}.new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:  # noqa: PTH123
                file.write(generate_latest(self._registry))
            new.replace(self._file)
        except OSError as error:
            self._diagnostics.rarely(
                "error", "metrics", f"no metrics: {error.filename or self._directory}: {error.strerror}"
            )

    def _has_number(self, file: Path) -> bool:
        """Whether the lock is still the one that others find: somebody may have emptied the directory."""
        assert self._number is not None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._number), file.with_suffix(".lock").stat()):
                return True
        os.close(self._number)
        return False

    def _take_number(self) -> Path:
        for number in range(_SLOTS):
            file = self._directory / f"kube-audit-filter-{number}.prom"
            lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(lock)
                if isinstance(error, BlockingIOError):
                    continue
                raise
            self._number = lock  # held until the process ends
            self._registry = CollectorRegistry()
            self._registry.register(self._make_collector({"child": str(number)}))
            return file
        raise OSError(0, f"{_SLOTS} filters write here already", str(self._directory))
