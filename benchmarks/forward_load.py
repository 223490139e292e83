"""Both ends of the forward protocol, as cheap as they can be: what is between them is to be measured.

The sender has its messages ready, and waits on each connection for one acknowledgement after the other, as
the agents do. The receiver looks for nothing but the end of each message, and repeats its identifier.

    python -m benchmarks.forward_load receive < /dev/null
    python -m benchmarks.forward_load send PORT FILE CONNECTIONS
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal

from msgpack import ExtType, Packer, packb

Mode = Literal["forward", "packed", "gzip"]

TAG = "kube.audit"
# What comes before the identifier in a message, which is the last thing in it, and how long that is.
_MARK = b"\xa5chunk\xb8"
_IDENTIFIER = 24
_ANSWER = b"\x81\xa3ack\xb8"
_START = 1_793_512_800
_READ = 1 << 18


def entry(record: object, number: int) -> bytes:
    """A record with its time, as Fluentd has it in a chunk: ``[EventTime, record]``."""
    time_ = ExtType(0, struct.pack(">II", _START + number // 100, number % 100 * 10_000_000))
    return bytes(packb([time_, record]))


def messages(entries: Iterable[bytes], mode: Mode, size: int, *, acks: bool) -> Iterator[bytes]:
    """Entries as messages.

    Args:
        entries: encoded, each with its time.
        mode: what kind of messages; ``gzip``: packed, and compressed.
        size: bytes of entries from which on a message is full.
        acks: whether they ask for an acknowledgement.
    """
    chosen: list[bytes] = []
    held = 0
    for each in entries:
        chosen.append(each)
        held += len(each)
        if held >= size:
            yield _message(chosen, mode, acks=acks)
            chosen, held = [], 0
    if chosen:
        yield _message(chosen, mode, acks=acks)


def _message(entries: Sequence[bytes], mode: Mode, *, acks: bool) -> bytes:
    payload = b"".join(entries)
    option: dict[str, object] = {"size": len(entries)}
    if mode == "forward":
        body = bytes(Packer().pack_array_header(len(entries))) + payload
    elif mode == "gzip":
        option["compressed"] = "gzip"
        compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        body = bytes(packb(compressor.compress(payload) + compressor.flush()))
    else:
        body = bytes(packb(payload))
    if acks:
        # Last, so that where it ends, the message does.
        option["chunk"] = base64.b64encode(hashlib.sha512(payload).digest()[:16]).decode()
    return b"\x93" + bytes(packb(TAG)) + body + bytes(packb(option))


def write(path: Path, frames: Iterable[bytes]) -> int:
    """Write messages to a file for the sender; returns their bytes."""
    total = 0
    with path.open("wb") as file:
        for frame in frames:
            file.write(struct.pack(">I", len(frame)) + frame)
            total += len(frame)
    return total


def _read(path: Path) -> Iterator[memoryview]:
    view = memoryview(path.read_bytes())
    while view:
        (size,) = struct.unpack_from(">I", view)
        yield view[4 : 4 + size]
        view = view[4 + size :]


def send(port: int, path: Path, connections: int) -> None:
    """Send a file of messages over some connections.

    Prints when that began and when it was over, and the seconds of CPU time that it took.
    """
    frames = deque(_read(path))
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    started, used = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(connections) as pool:
        for sent in [pool.submit(_send_some, each, frames) for each in sockets]:
            sent.result()
    ended, cpu = time.monotonic(), time.process_time() - used
    print(json.dumps({"started": started, "ended": ended, "cpu": cpu}))


def _send_some(connection: socket.socket, frames: deque[memoryview]) -> None:
    while frames:
        try:
            frame = frames.popleft()
        except IndexError:
            return
        connection.sendall(frame)
        tail = bytes(frame[-len(_MARK) - _IDENTIFIER :])
        if tail.startswith(_MARK):
            wanted = _ANSWER + tail[len(_MARK) :]
            answer = connection.recv(len(wanted), socket.MSG_WAITALL)
            if answer != wanted:
                raise RuntimeError(f"not acknowledged: {answer!r}")


def receive(report: BinaryIO, until: BinaryIO, save: Path | None = None) -> None:
    """Take messages on any port, which is printed, until a stream and all connections have ended.

    Then this prints how many bytes came, when the last ones did, and the seconds of CPU time that it took.

    Args:
        report: where to print.
        until: no connection is taken after its end.
        save: where to write what comes on the only connection there is.
    """
    counts: list[tuple[int, float]] = []
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_take_all, args=(connection, save, counts))
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    report.write(b"%d\n" % listener.getsockname()[1])
    report.flush()
    used = time.process_time()
    until.read()
    listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
    for thread in threads:
        thread.join()
    size, ended = sum(size for size, _ in counts), max((at for _, at in counts), default=0.0)
    total = {"bytes": size, "ended": ended, "cpu": time.process_time() - used}
    report.write(json.dumps(total).encode() + b"\n")


def _take_all(connection: socket.socket, save: Path | None, counts: list[tuple[int, float]]) -> None:
    """Read a connection to its end; ``counts`` gets how many bytes came, and when the last ones did."""
    size, last, rest = 0, 0.0, b""
    file = None if save is None else save.open("wb")
    while data := connection.recv(_READ):
        size += len(data)
        last = time.monotonic()
        if file is not None:
            file.write(data)
        rest = _answer(rest + data, connection.sendall)
    connection.close()
    if file is not None:
        file.close()
    counts.append((size, last))


def _answer(data: bytes, reply: Callable[[bytes], object]) -> bytes:
    """Acknowledge all messages that end in some bytes; returns those of the next that have to be kept."""
    at = 0
    while (found := data.find(_MARK, at)) >= 0:
        at = found + len(_MARK)
        identifier = data[at : at + _IDENTIFIER]
        if len(identifier) < _IDENTIFIER:
            return data[found:]
        at += _IDENTIFIER
        reply(_ANSWER + identifier)
    return data[max(at, len(data) - len(_MARK) + 1) :]


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "send":
        send(int(arguments[0]), Path(arguments[1]), int(arguments[2]))
    else:
        receive(sys.stdout.buffer, sys.stdin.buffer, Path(arguments[0]) if arguments else None)
