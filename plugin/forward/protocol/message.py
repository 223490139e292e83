"""Messages of the forward protocol: bytes in, the parts of each message out. No sockets.

The specification (see the package's docstring) says what a message is and what its parts are; where the
agents differ from it, this follows the agents. Every part stays the bytes that came.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

from msgpack import Unpacker
from msgpack.exceptions import FormatError, OutOfData, StackError

from ...encoding.codec import MSGPACK
from ...encoding.msgpack_format import HEADERS
from .handshake import ValueReader

# What the second element of a message decides: Message, Forward, and PackedForward, compressed or not.
Mode = Literal["message", "forward", "packed"]
MODES: tuple[Mode, ...] = ("message", "forward", "packed")

# Entries of a message, unless the user says otherwise. Each costs some microseconds, whatever its size.
MAX_ENTRIES = 1 << 18
# Of an option, with what may stand behind it: bytes, and entries. Agents send five, of some bytes each.
MAX_OPTION_SIZE = 1 << 18
MAX_OPTION_ENTRIES = 1 << 8
# Bytes of a chunk's identifier: real ones have 25.
MAX_CHUNK_SIZE = 1 << 12
_LARGE = 1 << 20  # bytes
_NIL = 0xC0
# Bytes that an unpacker is given at first, and at most: what it does not need is given in vain.
_FIRST_FEED, _LARGEST_FEED = 1 << 10, 1 << 16
# Values that are read before others get a turn.
_VALUES = 1 << 12
_LOGS = 0


class ProtocolError(Exception):
    """What a peer sent can't be read on: the connection has to be closed. Says what is wrong."""


class Option:
    """The map at a message's end, of which some entries mean something here.

    Args:
        raw: the encoded map; anything else is an option without entries.

    Raises:
        ProtocolError: its chunk is none that a server could acknowledge.

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
        self.chunk = None if chunk is None or raw[chunk[0]] == _NIL else _identifier(raw[slice(*chunk)])
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
        if span is None:
            return _LOGS
        first, rest = self.raw[span[0]], self.raw[span[0] + 1 : span[1]]
        if first < 0x80:
            return first
        return int.from_bytes(rest, "big") if first in _UNSIGNED else _LOGS

    def with_size(self, size: int) -> bytes:
        """The encoded map with another number of entries in ``size``, if it has that, and else as it was."""
        span = self._spans.get(b"size")
        if span is None:
            return bytes(self.raw)
        return b"".join((self.raw[: span[0]], MSGPACK.encode(size), self.raw[span[1] :]))


def _identifier(chunk: memoryview) -> bytes:
    """A chunk's identifier. Raises ProtocolError."""
    if len(chunk) > MAX_CHUNK_SIZE:
        raise ProtocolError(f"a chunk identifier of {len(chunk)} bytes: {MAX_CHUNK_SIZE} are read")
    identifier = bytes(chunk)
    try:
        comparable(identifier)
    except ValueError:
        raise ProtocolError("a chunk identifier that is neither a string nor anything else known") from None
    return identifier


def comparable(chunk: bytes) -> Any:
    """What a server's acknowledgement of a chunk says, decoded. Raises ValueError."""
    if MSGPACK.kind(chunk) == "string":
        return bytes(MSGPACK.string(chunk))
    values = ValueReader()
    values.feed(chunk)
    return values.next_value()


_LONGEST_KEY = 24
_UNSIGNED = (0xCC, 0xCD, 0xCE, 0xCF)


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
    ends: array[int]
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
        max_size: bytes; a message that grows beyond, or says that it will, is an error.
        max_entries: entries of a message in mode ``forward``; one with more is an error.

    Attributes:
        heartbeats: how many nils came: clients send them to see whether the connection stands. Whoever
            counts them further may set this to 0, and the next likewise.
        ignored: how many values came that are no messages. The specification wants them ignored.
        is_busy: whether :meth:`step` has returned None only so that others get a turn, and is to be called
            again.
    """

    def __init__(self, max_size: int, max_entries: int = MAX_ENTRIES) -> None:
        self.heartbeats = self.ignored = 0
        self.is_busy = False
        self._max_size = max_size
        self._max_entries = max_entries
        self._has_read = False  # a message
        self._values = 0  # read since others had a turn
        self._buffer = bytearray()
        self._start = 0  # of the message that is not whole yet, in the buffer
        # Offsets below are counted from there.
        self._claimed = 0  # where the message says that it ends, as far as it has said so
        self._pending = 0  # bytes of which an unpacker has a copy
        self._parser = self._parse()

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun to come and is not whole."""
        return self._start < len(self._buffer)

    @property
    def held(self) -> int:
        """Bytes of the message that is not whole yet."""
        return len(self._buffer) - self._start

    @property
    def memory(self) -> int:
        """Bytes that are held for it. An unpacker doubles its buffer when that has to grow."""
        return self.held + 2 * self._pending

    def cost(self, size: int) -> int:
        """Bytes that will be held in addition, at most, when so many more come."""
        return size * 3 if self._pending else size

    @property
    def missing(self) -> int:
        """How many more bytes it needs; where it has not said so, how many it may have."""
        return self._claimed - self.held if self._claimed > self.held else self._max_size - self.held

    def close(self) -> None:
        """Let go of everything at once, for there are cycles that hold it; read nothing more."""
        self._parser.close()
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._start:
            # Not in place: messages that were handed out are views of the old one.
            self._buffer = self._buffer[self._start :]
            self._start = 0
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next message; None where more bytes have to come first.

        Raises:
            ProtocolError: the stream can't be read on.
        """
        while True:
            message = self.step()
            if message is not None or not self.is_busy:
                return message

    def step(self) -> Message | None:
        """The same, but None also where others should get a turn: see ``is_busy``."""
        self.is_busy = False
        try:
            message = next(self._parser)
        except StackError:
            raise ProtocolError("a message is nested too deeply to be read") from None
        except FormatError:
            raise ProtocolError("malformed MessagePack: the byte 0xc1 starts no value") from None
        if message is None and not self.is_busy:
            self._claim(self.held)
        return message

    def _parse(self) -> Generator[Message | None, None, None]:
        """Messages, and None whenever there is not enough for one."""
        while True:
            if len(self._buffer) > _LARGE and not self.is_amid:
                self._buffer = bytearray()
                self._start = 0
            self._claimed = 0
            yield from self._rest_if_due()
            first = yield from self._byte(0)
            if first not in _ARRAYS:
                end = 1 if first == _NIL else (yield from self._ends(0, 1))[0]
                self._check_other(first)
                self._start += end
                continue
            tag, size = yield from self._header(0)
            if not 2 <= size <= _MOST_ELEMENTS:
                raise ProtocolError(f"a message of {size} elements: there are 2 to 4")
            if (yield from self._byte(tag)) not in _STRINGS:
                raise ProtocolError("a message whose tag is no string")
            body = sum((yield from self._header(tag)))
            self._claim(body)
            first = yield from self._byte(body)
            mode: Mode = "forward" if first in _ARRAYS else "packed" if first in _STRINGS else "message"
            if mode == "message" and size == 2:
                raise ProtocolError("a message with a tag and a time, but no record")
            if mode == "packed":
                start, length = yield from self._header(body)
                tail = start + length
                entries, ends = body, array("Q", [tail - body])
                self._claim(tail)
                while self.held < tail:
                    yield None
            else:
                entries, values = (yield from self._header(body)) if mode == "forward" else (body, 2)
                if values > self._max_entries:
                    raise ProtocolError(
                        f"a message of {values} entries: {self._max_entries} are read, see --max-entries"
                    )
                self._claim(entries + values)
                ends = yield from self._ends(entries, values)
                tail = entries + (ends[-1] if ends else 0)
            extra = yield from self._option(tail, size - (3 if mode == "message" else 2))
            option, end = (tail + extra[0], tail + extra[-1]) if extra else (tail, tail)
            self._claim(end)
            view = memoryview(self._buffer)[self._start : self._start + end]
            self._start += end
            self._has_read = True
            self._pending = 0
            yield Message(
                frame=view,
                elements=size,
                mode=mode,
                tag=view[tag:body],
                rest=view[body:],
                body=view[entries:tail],
                ends=ends,
                tail=view[tail:],
                option=Option(view[tail:option]),
            )
            del view  # it would keep the buffer until the next message

    def _option(self, at: int, values: int) -> Generator[None, None, array[int]]:
        """Where each of the values behind the body ends, from where the first starts."""
        if values and (yield from self._byte(at)) in _MAPS:
            _, entries = yield from self._header(at)
            if entries > MAX_OPTION_ENTRIES:
                raise ProtocolError(f"an option of {entries} entries: {MAX_OPTION_ENTRIES} are read")
        return (yield from self._ends(at, values, MAX_OPTION_SIZE))

    def _ends(self, at: int, count: int, most: int | None = None) -> Generator[None, None, array[int]]:
        """Where each of some values ends, from where the first starts; they have ``most`` bytes in all."""
        ends: array[int] = array("Q")
        if not count:
            return ends
        unpacker = Unpacker(max_buffer_size=0, read_size=_FIRST_FEED)
        skip, tell, add = unpacker.skip, unpacker.tell, ends.append
        fed, size, counted = 0, _FIRST_FEED, 0
        while True:
            try:
                while len(ends) < count:
                    for _ in range(min(count - len(ends), _VALUES)):
                        skip()
                        add(tell())
                    self._values += len(ends) - counted
                    counted = len(ends)
                    yield from self._rest_if_due()
                break
            except OutOfData:
                self._values += len(ends) - counted
                counted = len(ends)
                self._look_at_pending(at + tell(), fed - tell())
            if most is not None and fed > most:
                break
            while at + fed >= self.held:
                yield None
            start = self._start + at + fed
            with memoryview(self._buffer) as view, view[start : start + size] as piece:
                unpacker.feed(piece)
                fed += len(piece)
            size = min(2 * size, _LARGEST_FEED)
        if most is not None and (len(ends) < count or ends[-1] > most):
            raise ProtocolError(f"an option of more than {most} bytes")
        return ends

    def _look_at_pending(self, at: int, pending: int) -> None:
        """See what a value wants, of which an unpacker has read all but the last bytes."""
        self._pending = max(self._pending, pending)
        if pending > 1 << 16:
            # No header and no other value is as large: this is a string or ext, of whose header the
            # last four bytes are the length.
            length = self._buffer[self._start + at - 4 : self._start + at]
            self._claim(at + int.from_bytes(length, "big"))

    def _claim(self, end: int) -> None:
        """Take note that the message ends at an offset, or later. Raises ProtocolError if it is too large."""
        self._claimed = max(self._claimed, end)
        if end > self._max_size:
            raise ProtocolError(
                f"a message is larger than {self._max_size} bytes: see --max-message-size,"
                " and the size of the client's chunks"
            )

    def _byte(self, at: int) -> Generator[None, None, int]:
        """The byte at an offset."""
        while self._start + at >= len(self._buffer):
            yield None
        return self._buffer[self._start + at]

    def _header(self, at: int) -> Generator[None, None, tuple[int, int]]:
        """Where the header of an array, map or string ends, and how many elements, entries or bytes come."""
        first = yield from self._byte(at)
        size, payload, _ = HEADERS[first]
        if not size:
            return at + 1, payload if first in _STRINGS else first & 0x0F
        yield from self._byte(at + size)
        start = self._start + at + 1
        return at + 1 + size, int.from_bytes(self._buffer[start : start + size], "big")

    def _rest_if_due(self) -> Generator[None, None, None]:
        """Let others have a turn, if many values have been read since they had one."""
        self._values += 1
        if self._values >= _VALUES:
            self._values = 0
            self.is_busy = True
            yield None

    def _check_other(self, first: int) -> None:
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
            sent = bytes(self._buffer[self._start : self._start + 16])
            raise ProtocolError(
                f"this is not the forward protocol: it starts with {sent!r}{_GUESSES.get(first, '')}"
            )


_GUESSES = {0x16: ", as TLS does"}
_ARRAYS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_MAPS = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
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
