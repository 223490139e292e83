"""Both ends of the forward protocol, and the proxy between them as a real process."""

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request

import msgpack

from plugin.forward.address import Address
from plugin.forward.protocol.handshake import ClientHandshake, ServerHandshake
from plugin.forward.protocol.message import MessageReader
from tests.support.processes import DEADLINE, samples, wait_until

FORWARD = [sys.executable, "-m", "kube_audit_filter", "forward"]


def decode(frame):
    return msgpack.unpackb(frame, raw=True, strict_map_key=False)


def packed(tag, entries, **option):
    """A PackedForward message of encoded entries."""
    return msgpack.packb([tag, b"".join(entries), {"size": len(entries), **option}])


def forward(tag, entries, **option):
    """A Forward message of encoded entries."""
    head = b"\x93" + msgpack.packb(tag) + msgpack.Packer().pack_array_header(len(entries))
    return head + b"".join(entries) + msgpack.packb({"size": len(entries), **option})


def entry(record, time=1_700_000_000):
    return msgpack.packb([time, record])


def _read_value(connection, unpacker):
    while True:
        with contextlib.suppress(msgpack.OutOfData):
            return unpacker.unpack()
        data = connection.recv(1 << 16)
        if not data:
            raise EOFError
        unpacker.feed(data)


class Receiver:
    """A server: keeps every message it gets, and acknowledges it where that is wanted.

    Args:
        react: called with connection and message in place of that; what it returns is sent back, and None
            ends the connection.
        security: for the handshake.
        tls: context, for TLS.
        path: of a Unix socket to listen on, instead of a port.
        port: to listen on; 0: any free one.
    """

    def __init__(self, react=None, *, security=None, tls=None, path=None, port=0):
        self.frames = []
        self.connections = 0
        self._react = react or self._acknowledge
        self._security, self._tls = security, tls
        self._open = set()
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.address = "{}127.0.0.1:{}".format("tls://" if tls else "", self._listener.getsockname()[1])
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.address = f"unix:{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def messages(self):
        """Decoded, with strings as bytes."""
        return [decode(frame) for frame in list(self.frames)]

    def wait_for(self, count):
        """The first messages, as soon as there are so many."""
        wait_until(lambda: len(self.frames) >= count, f"{count} messages arrive; {len(self.frames)} did")
        return self.messages

    def cut(self):
        """End all connections; new ones are accepted."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Listen no more, and end all connections."""
        # A thread that waits in accept() keeps the socket alive otherwise.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            self.connections += 1
            with connection:
                if self._security is None or self._greet(connection):
                    self._read(connection)
        self._open.discard(connection)

    def _greet(self, connection):
        handshake = ServerHandshake(self._security)
        connection.sendall(self._helo(handshake))
        pong, fault = handshake.answer(_read_value(connection, msgpack.Unpacker(raw=True)))
        connection.sendall(pong)
        return fault is None

    @staticmethod
    def _helo(handshake):
        return handshake.helo()

    def _read(self, connection):
        reader = MessageReader(1 << 30)
        while data := connection.recv(1 << 16):
            reader.feed(data)
            while (message := reader.next_message()) is not None:
                self.frames.append(bytes(message.frame))
                answer = self._react(connection, message)
                if answer is None:
                    return
                connection.sendall(answer)

    @staticmethod
    def _acknowledge(_, message):
        return b"" if message.option.chunk is None else b"\x81\xa3ack" + message.option.chunk


class Client:
    """A client, which sends what it is told to.

    Args:
        address: of the proxy, as it says it.
        security: for the handshake.
        tls: context, for TLS.
    """

    def __init__(self, address, *, security=None, tls=None):
        where = Address.parse(address)
        if where.kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(where.host)
        else:
            self.socket = socket.create_connection((where.host, where.port))
        self.socket.settimeout(DEADLINE)
        self._unpacker = msgpack.Unpacker(raw=True)
        try:
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            if security is not None:
                handshake = ClientHandshake(security)
                self.send(handshake.ping(self.answer()))
                handshake.check(self.answer())
        except BaseException:
            self.close()
            raise

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """What the proxy sends next. Raises EOFError where it ends the connection."""
        return _read_value(self.socket, self._unpacker)

    def is_cut_off(self):
        """Wait for the proxy to end the connection, and see that it says nothing more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Proxy:
    """The proxy as a process. ``address`` is where it listens first.

    Args:
        directory: for its messages.
        policy_file: the policy.
        upstreams: addresses.
        arguments: more of them.
        listen: where to listen; by default on any free port.
        environment: variables; by default those of the tests.
    """

    def __init__(
        self, directory, policy_file, *upstreams, arguments=(), listen=("127.0.0.1:0",), environment=None
    ):
        self.log = directory / "proxy.log"
        command = [*FORWARD, "--policy", policy_file, "--log-file", str(self.log), *arguments]
        for upstream in upstreams:
            command += ["--upstream", upstream]
        for address in listen:
            command += ["--listen", address]
        before = len(self.logs())
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)

        def addresses():
            found = re.findall(r"listening on (\S+)", self.logs()[before:])
            return (len(found) >= len(listen) and found) or self._has_failed()

        self.addresses = wait_until(addresses, "the proxy listens")
        self.address = self.addresses[0]

    def _has_failed(self):
        if self.process.poll() is not None:
            raise AssertionError(self.logs() + self.process.stderr.read().decode())

    def logs(self):
        """All that it has said."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for_log(self, text):
        wait_until(lambda: text in self.logs(), f"the proxy says {text!r}; it said:\n{self.logs()}")

    def metrics(self):
        """Its metrics; it needs ``--metrics-listen 127.0.0.1:0``."""
        found = wait_until(lambda: re.search(r"metrics: (http:\S+)", self.logs()), "metrics are served")
        with urllib.request.urlopen(found[1], timeout=DEADLINE) as answer:
            return samples(answer.read().decode())

    def wait_for_metric(self, name, value):
        wait_until(lambda: self.metrics().get(name) == value, f"{name} is {value}")

    def stop(self, number=signal.SIGTERM):
        """Send a signal, and wait for its end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self.process.stderr.close()
