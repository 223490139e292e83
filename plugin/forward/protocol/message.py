"""Messages of the forward protocol: bytes in, the parts of each message out. No sockets.

The specification (see the package's docstring) says what a message is and what its parts are; where the
agents differ from it, this follows the agents. Every part stays the bytes that came.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from msgpack import Unpacker, unpackb
from msgpack.exceptions import FormatError, OutOfData, StackError

from ...encoding.codec import MSGPACK

# What the second element of a message decides: Message, Forward, and PackedForward, compressed or not.
Mode = Literal["message", "forward", "packed"]
MODES: tuple[Mode, ...] = ("message", "forward", "packed")

# Entries of a message. Each costs some hundred bytes while they are decided on, whatever its size.
MAX_ENTRIES = 1 << 20
_LARGE = 1 << 20  # bytes
_NIL = 0xC0
# Bytes of a reader's buffer at first.
_FIRST_SIZE = 1 << 12
_LOGS = 0

T = TypeVar("T")


class ProtocolError(Exception):
    """What a peer sent can't be read on: the connection has to be closed. Says what is wrong."""


class Option:
    """The map at a message's end, of which some entries mean something here.

    Args:
        raw: the encoded map; anything else is an option without entries.

    Attributes:
        raw: likewise.
        chunk: the identifier that the acknowledgement has to repeat, encoded as it came; None where
            the client wants no acknowledgement.
        signal: 0 for logs, 1 for metrics, 2 for traces.
    """

    _KNOWN = frozenset([b"chunk", b"size", b"fluent_signal"])

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self._spans: dict[bytes, tuple[int, int]] = {}
        if len(raw) > 1 and MSGPACK.kind(raw) == "map":
            self._find()
        chunk = self._spans.get(b"chunk")
        self.chunk = None if chunk is None or raw[chunk[0]] == _NIL else bytes(raw[slice(*chunk)])
        self.signal = self._number(b"fluent_signal")

    def _find(self) -> None:
        unpacker = Unpacker(max_buffer_size=0, read_size=len(self.raw))
        unpacker.feed(self.raw)
        for _ in range(unpacker.read_map_header()):
            start = unpacker.tell()
            unpacker.skip()
            middle = unpacker.tell()
            unpacker.skip()
            key = self.raw[start:middle]
            if len(key) < _LONGEST_KEY and MSGPACK.kind(key) == "string":
                name = bytes(MSGPACK.string(key))
                if name in self._KNOWN:
                    self._spans[name] = (middle, unpacker.tell())

    def _number(self, name: bytes) -> int:
        span = self._spans.get(name)
        if span is None or self.raw[span[0]] in _CONTAINERS:
            return _LOGS
        value = unpackb(self.raw[slice(*span)], raw=True)
        return value if isinstance(value, int) else _LOGS

    def with_size(self, size: int) -> bytes:
        """The encoded map with another number of entries in ``size``, if it has that, and else as it was."""
        span = self._spans.get(b"size")
        if span is None:
            return bytes(self.raw)
        return b"".join((self.raw[: span[0]], MSGPACK.encode(size), self.raw[span[1] :]))


_LONGEST_KEY = 24
_CONTAINERS = frozenset([*range(0x80, 0xA0), *range(0xDC, 0xE0)])


@dataclass
class Message:
    """One message.

    Attributes:
        frame: all of it.
        elements: how many elements its array has.
        mode: which of the kinds of messages it is.
        tag: encoded.
        rest: all behind the tag.
        body: in mode ``message``, time and record, one behind the other; in mode ``forward`` the
            entries likewise; in mode ``packed`` the encoded string or binary that holds them.
        ends: where in the body each value ends.
        tail: all behind the body: the option and whatever a later version may have put there.
        option: what the option says; its ``raw`` is the beginning of ``tail``.
        chunk_in_json: the chunk's identifier as JSON text, where the message came as JSON.
    """

    frame: memoryview
    elements: int
    mode: Mode
    tag: memoryview
    rest: memoryview
    body: memoryview
    ends: list[int]
    tail: memoryview
    option: Option
    chunk_in_json: bytes | None = None

    def acknowledgement(self) -> bytes:
        """What to answer when it has arrived: its chunk's identifier, encoded as it came."""
        if self.chunk_in_json is not None:
            return b'{"ack":' + self.chunk_in_json + b"}"
        assert self.option.chunk is not None
        return b"\x81\xa3ack" + self.option.chunk


class MessageReader:
    """Finds the messages in a stream.

    Args:
        max_size: bytes; a message that grows beyond is an error.

    Attributes:
        heartbeats: how many nils came: clients send them to see whether the connection stands. Whoever
            counts them further may set this to 0, and the next likewise.
        ignored: how many values came that are no messages. The specification wants them ignored.
    """

    def __init__(self, max_size: int) -> None:
        self.heartbeats = self.ignored = 0
        self._max_size = max_size
        self._has_read = False  # a message
        self._buffer = bytearray()
        self._start = 0  # of the message that is not whole yet, in the buffer
        self._base = 0  # the unpacker's offset of the start of the buffer
        # Its buffer grows as it has to. By default it would have a MiB from the beginning.
        self._unpacker = Unpacker(max_buffer_size=0, read_size=_FIRST_SIZE)
        self._parser = self._parse()

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun to come and is not whole."""
        return self._start < len(self._buffer)

    @property
    def held(self) -> int:
        """Bytes of the message that is not whole yet."""
        return len(self._buffer) - self._start

    def close(self) -> None:
        """Let go of everything at once, for there are cycles that hold it; read nothing more."""
        self._parser.close()
        del self._unpacker, self._buffer

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._unpacker.feed(data)
        if self._start:
            # Not in place: messages that were handed out are views of the old one.
            self._buffer = self._buffer[self._start :]
            self._base += self._start
            self._start = 0
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next message; None where more bytes have to come first.

        Raises:
            ProtocolError: the stream can't be read on.
        """
        try:
            message = next(self._parser)
        except StackError:
            raise ProtocolError("a message is nested too deeply to be read") from None
        except FormatError:
            raise ProtocolError("malformed MessagePack: the byte 0xc1 starts no value") from None
        if (self.held if message is None else len(message.frame)) > self._max_size:
            raise ProtocolError(
                f"a message is larger than {self._max_size} bytes: see --max-message-size,"
                " and the size of the client's chunks"
            )
        return message

    def _parse(self) -> Generator[Message | None, None, None]:
        """Messages, and None whenever there is not enough for one."""
        unpacker = self._unpacker
        while True:
            if len(self._buffer) > _LARGE and not self.is_amid:
                # The unpacker would keep the memory that a large message has taken.
                self._unpacker = unpacker = Unpacker(max_buffer_size=0, read_size=_FIRST_SIZE)
                self._buffer = bytearray()
                self._start = self._base = 0
            start = unpacker.tell()
            first = yield from self._first_byte()
            if first not in _ARRAYS:
                yield from self._when_there(unpacker.skip)
                self._check_other(start, first)
                self._start = unpacker.tell() - self._base
                continue
            size = yield from self._when_there(unpacker.read_array_header)
            if not 2 <= size <= _MOST_ELEMENTS:
                raise ProtocolError(f"a message of {size} elements: there are 2 to 4")
            tag = unpacker.tell()
            if (yield from self._first_byte()) not in _STRINGS:
                raise ProtocolError("a message whose tag is no string")
            yield from self._when_there(unpacker.skip)
            body = unpacker.tell()
            first = yield from self._first_byte()
            mode: Mode = "forward" if first in _ARRAYS else "packed" if first in _STRINGS else "message"
            if mode == "message" and size == 2:
                raise ProtocolError("a message with a tag and a time, but no record")
            values = {"message": 2, "packed": 1}.get(mode)
            if values is None:
                values = yield from self._when_there(unpacker.read_array_header)
                if values > MAX_ENTRIES:
                    raise ProtocolError(f"a message of {values} entries: {MAX_ENTRIES} are read")
            entries = unpacker.tell()
            ends = yield from self._ends(values)
            tail = unpacker.tell()
            extra = yield from self._ends(size - (3 if mode == "message" else 2))
            end = unpacker.tell()
            view, base = memoryview(self._buffer), self._base
            self._start = end - base
            self._has_read = True
            option = tail + extra[0] if extra else end
            yield Message(
                frame=view[start - base : end - base],
                elements=size,
                mode=mode,
                tag=view[tag - base : body - base],
                rest=view[body - base : end - base],
                body=view[entries - base : tail - base],
                ends=ends,
                tail=view[tail - base : end - base],
                option=Option(view[tail - base : option - base]),
            )
            del view  # it would keep the buffer until the next message

    def _ends(self, values: int) -> Generator[None, None, list[int]]:
        """Where each of the next values ends, from where the first starts."""
        skip, tell = self._unpacker.skip, self._unpacker.tell
        start = tell()
        ends: list[int] = []
        while len(ends) < values:
            try:
                skip()
            except OutOfData:
                yield None
            else:
                ends.append(tell() - start)
        return ends

    def _first_byte(self) -> Generator[None, None, int]:
        """The byte that the next value starts with."""
        at: int = self._unpacker.tell()
        while at - self._base >= len(self._buffer):
            yield None
        return self._buffer[at - self._base]

    def _when_there(self, read: Callable[[], T]) -> Generator[None, None, T]:
        """What a method of the unpacker returns, as soon as there are enough bytes for it."""
        while True:
            try:
                return read()
            except OutOfData:
                yield None

    def _check_other(self, start: int, first: int) -> None:
        """Count a value that is no message; refuse it from a peer that never sent any."""
        if first == _NIL:
            self.heartbeats += 1
        elif self._has_read and first in b"[{":
            raise ProtocolError(
                "JSON after MessagePack: a connection has the one encoding that it began with"
            )
        elif self._has_read:
            self.ignored += 1
        else:
            sent = bytes(self._buffer[start - self._base :][:16])
            raise ProtocolError(
                f"this is not the forward protocol: it starts with {sent!r}{_GUESSES.get(first, '')}"
            )


_GUESSES = {0x16: ", as TLS does"}
_ARRAYS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_STRINGS = frozenset([*range(0xA0, 0xC0), 0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB])
# Fluentd and Fluent Bit send no more than four. Reading any number would mean holding any number.
_MOST_ELEMENTS = 15


def array_header(size: int) -> bytes:
    """The header of an array."""
    if size < 16:
        return bytes([0x90 | size])
    return b"\xdc" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xdd" + size.to_bytes(4, "big")


def acknowledged(answer: Any) -> Any:
    """The identifier in a server's answer, decoded with ``raw=True``; None where it is no such answer."""
    return answer.get(b"ack") if isinstance(answer, dict) else None
