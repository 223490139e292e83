"""Metrics and health over HTTP: a small server for /metrics, /healthz and /readyz."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from .diagnostics import Diagnostics
from .housekeeping import start_without_signals
from .listen import Listen
from .running import Running

# Seconds that a client has for all it wants, and connections at a time; more are closed at once.
_TIMEOUT = 5.0
_CONNECTIONS = 8


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
        self, collector: Collector, listen: Listen, health: Running, diagnostics: Diagnostics
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
