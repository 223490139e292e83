"""Metrics and health over HTTP: a small server for /metrics, /healthz and /readyz.

Anybody who reaches the port may send requests. So the server is one thread that waits for no single client.
A client that sends nothing, or little, takes up a slot. When all slots are taken, the next client gets the
slot of the oldest connection of the host that has the most. So a probe is answered however many clients there
are.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from .diagnostics import Diagnostics
from .housekeeping import start_without_signals
from .listen import Listen, is_local
from .running import Running

# Seconds for a client's request and answer, the most clients at a time, and the most bytes of a request.
TIMEOUT = 5.0
MAX_CLIENTS = 64
_MAX_REQUEST = 8192
# Clients that may wait to be accepted, and how many are accepted before connected clients get a turn.
_BACKLOG = 1024
_ACCEPT_AT_ONCE = 16
# Seconds to wait after an internal error, or when no client can be accepted.
_PAUSE = 0.1

# An answer: status, content type, body.
Answer = tuple[int, str, bytes]
_TEXT = "text/plain; charset=utf-8"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable"}


class MetricsServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz``, on the first port of a range that is free.

    Args:
        collector: the metrics.
        listen: the host, and the range of ports.
        health: the running filter.
        diagnostics: where failures are reported.
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
        self._is_open = False

    def export(self, asked: bool) -> None:
        """Listen, unless that was done. If no port is free, say so; the filter runs without metrics."""
        if self._is_open:
            return
        error: OSError | None = None
        for port in self._listen.ports:
            try:
                listener = _listen(self._listen.host, port)
                break
            except OSError as reason:
                error = reason
        else:
            assert error is not None
            self._diagnostics.rarely(
                "error", "metrics", f"no metrics: can't listen on {self._listen}: {error.strerror}"
            )
            return
        self._is_open = True
        host, bound = listener.getsockname()[:2]
        address = Listen(host, range(bound, bound + 1))
        self._diagnostics.info(f"metrics: http://{address}/metrics")
        if not is_local(listener):
            self._diagnostics.warning(
                f"other machines can ask for metrics on {address}, and there is no key for that:"
                " restrict access to the port, with a firewall or a NetworkPolicy"
            )
        server = _Server(listener, self._answer, self._diagnostics)
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        start_without_signals(thread)

    def close(self) -> None:
        """Nothing to do: the server ends with the process, and answers until then."""

    def _answer(self, path: str, accept: str) -> Answer:
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(self._registry)
        check = self._checks.get(path)
        if check is None:
            return 404, _TEXT, b"there is /metrics, /healthz and /readyz\n"
        fault = check()
        return (200, _TEXT, b"ok\n") if fault is None else (503, _TEXT, f"{fault}\n".encode())


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class _Client:
    """One connection: the part of its request that has come, then the rest of the answer."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        self.connection = connection
        self.host = host
        self.end = time.monotonic() + TIMEOUT
        self.request = bytearray()
        self.left: memoryview | None = None
        self.waits_for = 0  # what the selector waits for


class _Server:
    """Serves all clients in one thread.

    Args:
        listener: the socket that clients connect to; it does not block.
        answer: makes the answer, from the path and the header Accept of the request.
        diagnostics: where failures are reported.
    """

    def __init__(
        self, listener: socket.socket, answer: Callable[[str, str], Answer], diagnostics: Diagnostics
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._diagnostics = diagnostics
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._clients: dict[_Client, Literal[True]] = {}  # in the order in which they came
        self._of_host: Counter[str] = Counter()

    def serve_forever(self) -> None:
        while True:
            try:
                self._serve()
            except Exception as error:  # other clients still have to be answered
                self._complain(f"internal error: {error!r}")
                time.sleep(_PAUSE)

    def _serve(self) -> None:
        """Wait for something to do, and do all that can be done without waiting again."""
        now = time.monotonic()
        while self._clients and (oldest := next(iter(self._clients))).end <= now:
            self._drop(oldest)
        timeout = next(iter(self._clients)).end - now if self._clients else None
        ready = [key.data for key, _ in self._selector.select(timeout)]
        for client in ready:
            if client in self._clients:
                self._go_on(client)
        if None in ready:
            self._accept()

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._complain(f"no client accepted: {error.strerror}")
                time.sleep(_PAUSE)
                return
            connection.setblocking(False)
            client = _Client(connection, address[0])
            self._clients[client] = True
            self._of_host[client.host] += 1
            self._go_on(client)  # most have sent their request by now
            if len(self._clients) > MAX_CLIENTS:
                most = max(self._of_host.values())
                self._drop(next(each for each in self._clients if self._of_host[each.host] == most))

    def _go_on(self, client: _Client) -> None:
        """Read from a client, or write to it, as much as is possible without waiting."""
        try:
            if client.left is None:
                data = client.connection.recv(_MAX_REQUEST)
                if not data:
                    raise ConnectionResetError
                client.request += data
                if self._is_whole(client.request):
                    client.left = memoryview(self._reply(bytes(client.request)))
            while client.left:
                client.left = client.left[client.connection.send(client.left) :]
        except BlockingIOError:
            pass
        except OSError:  # the client has gone
            self._drop(client)
            return
        if client.left is None:
            self._wait(client, selectors.EVENT_READ)
        elif client.left:
            self._wait(client, selectors.EVENT_WRITE)
        else:
            with suppress(OSError):
                client.connection.shutdown(socket.SHUT_WR)
            self._drop(client)

    def _wait(self, client: _Client, event: int) -> None:
        if client.waits_for == 0:
            self._selector.register(client.connection, event, client)
        elif client.waits_for != event:
            self._selector.modify(client.connection, event, client)
        client.waits_for = event

    @staticmethod
    def _is_whole(request: bytearray) -> bool:
        return b"\r\n\r\n" in request or b"\n\n" in request or len(request) >= _MAX_REQUEST

    def _drop(self, client: _Client) -> None:
        del self._clients[client]
        self._of_host[client.host] -= 1
        if not self._of_host[client.host]:
            del self._of_host[client.host]
        if client.waits_for:
            self._selector.unregister(client.connection)
        client.connection.close()

    def _reply(self, request: bytes) -> bytes:
        status, content_type, body = self._answer_to(request)
        head = (
            f"HTTP/1.0 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if request.startswith(b"HEAD ") else body)

    def _answer_to(self, request: bytes) -> Answer:
        """The answer to a request whose head has come."""
        if len(request) >= _MAX_REQUEST:
            return 431, _TEXT, b"the request is too large\n"
        line, *headers = request.decode("latin-1").splitlines()
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not path.startswith("/"):
            return 400, _TEXT, b"this is not HTTP\n"
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"there is GET and HEAD\n"
        named = (header.partition(":") for header in headers)
        accept = next((value.strip() for name, _, value in named if name.lower() == "accept"), "")
        try:
            return self._answer(path, accept)
        except Exception as error:  # a fault in the metrics must not stop the health checks
            self._complain(f"internal error: {error!r}")
            return 500, _TEXT, b"internal error: the filter's log has it\n"

    def _complain(self, fault: str) -> None:
        self._diagnostics.rarely("error", "metrics", f"no metrics: {fault}")
