"""Messages in JSON, which Fluentd's in_forward accepts beside MessagePack. Bytes in, messages out.

A connection whose first byte opens a JSON array or object speaks JSON to its end, and acknowledgements
are JSON too (fluentd, lib/fluent/plugin/in_forward.rb, read_messages). Messages have the same forms as in
MessagePack: ``[tag, time, record, option]`` and ``[tag, [[time, record], …], option]``.

Each message is translated to MessagePack, which every server reads. Fluent Bit reads no JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from decimal import Decimal
from enum import Enum
from typing import Any

import msgpack
import msgspec
from msgspec import Raw

from ...encoding.codec import MSGPACK
from .message import MAX_ENTRIES, Message, MessageReader, ProtocolError, array_header

# The most values of a message, and of a record. A record is held decoded for a moment, at 100 bytes a value.
MAX_VALUES = 1 << 20
MAX_RECORD_VALUES = 1 << 18
# The most levels of arrays and maps. The JSON decoder allows some more.
MAX_LEVELS = 512

# How many values or entries, and how many bytes of a value, are read before other clients get a turn.
_TOGETHER, _LOOKED_AT = 64, 1 << 14


class _Busy(Enum):
    """What a generator yields when other clients should get a turn."""

    BUSY = 1


_BUSY = _Busy.BUSY

# Brackets and strings. A string without escapes matches as a whole, any other string only by its quote.
_TOKEN = re.compile(rb'"[^"\\]*"|["\[\]{}]')
_IN_STRING = re.compile(rb'["\\]')
_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_OPENERS = b"[{"
_NULL = b"null"
_QUOTE = ord('"')
# An escape. The group has it if it is half a surrogate pair, which JavaScript writes but UTF-8 can't encode.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.",
    re.DOTALL,
)
# A number with a fraction or an exponent, and with no more digits than a time has.
_FRACTION = re.compile(rb"\d{1,10}[.eE][\d.eE+-]{1,30}")


class _Parts(msgspec.Struct, array_like=True):
    """A message's elements. Further elements are ignored, as in_forward ignores them."""

    tag: Raw
    second: Raw
    third: Raw = Raw(b"")
    fourth: Raw = Raw(b"")


class _Option(msgspec.Struct):
    chunk: Raw = Raw(b"")


_PARTS = msgspec.json.Decoder(_Parts)
_OPTION = msgspec.json.Decoder(_Option)
_ENTRIES = msgspec.json.Decoder(list[Raw])
_ENTRY = msgspec.json.Decoder(tuple[Raw, Raw])
_VALUE = msgspec.json.Decoder()


def is_json(first: bytes) -> bool:
    """Whether a connection that begins with these bytes speaks JSON."""
    return first[:1] in (b"[", b"{")


class JSONMessageReader:
    """Finds the messages in a stream of JSON values, as :class:`MessageReader` does in MessagePack.

    Args:
        max_size: bytes. A larger message is an error.
        max_entries: the most entries of a message. A message with more is an error.

    Attributes:
        heartbeats: how many nulls came.
        ignored: how many objects came; they are not messages.
        is_busy: as in MessageReader.
    """

    def __init__(self, max_size: int, max_entries: int = MAX_ENTRIES) -> None:
        self.heartbeats = self.ignored = 0
        self.is_busy = False
        self._max_size = max_size
        self._max_entries = max_entries
        self._needs_more = True  # False while bytes that have come are not examined yet
        self._parser = self._parse()
        self._has_read = False  # whether a message has come
        self._buffer = bytearray()  # begins with the value that is not whole yet
        # How far that value was examined: the offset, the open levels, the values, whether it is in a string.
        self._at = self._level = self._values = 0
        self._is_in_string = False

    @property
    def is_amid(self) -> bool:
        """Whether a part of a message has come, but not all of it."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes of a message that is not whole yet have come."""
        return len(self._buffer)

    @property
    def memory(self) -> int:
        """How many bytes are held for that message."""
        return self.held

    @property
    def missing(self) -> int:
        """How many more bytes the message may have. JSON does not say how many it will have."""
        return self._max_size - self.held

    def cost(self, size: int) -> int:
        """How many more bytes will be held, at most, when ``size`` more bytes come."""
        return size

    def close(self) -> None:
        """Free the memory. Nothing more can be read."""
        self._parser.close()
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next message; None if more bytes have to come first.

        Raises:
            ProtocolError: the rest of the stream can't be read.
        """
        while True:
            message = self.step()
            if message is not None or not self.is_busy:
                return message

    def step(self) -> Message | None:
        """As next_message(), but also returns None when other clients should get a turn; see ``is_busy``."""
        found = next(self._parser)
        self.is_busy = found is _BUSY
        return found if isinstance(found, Message) else None

    def _parse(self) -> Generator[Message | _Busy | None, None, None]:
        """Yields messages, None if more bytes have to come first, and _BUSY when others should get a turn."""
        values = 0
        while True:
            end = self._find_end()
            if (self.held if end is None else end) > self._max_size:
                raise ProtocolError(
                    f"a message is larger than {self._max_size} bytes: see --max-message-size"
                )
            if end is None:
                yield None if self._needs_more else _BUSY
                continue
            text = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._at = self._values = 0
            values += 1
            if values % _TOGETHER == 0:
                yield _BUSY
            if text == _NULL:
                self.heartbeats += 1
            elif text.startswith(b"["):
                message = yield from _message(text, self._max_entries)
                self._has_read = True
                yield message
                del message
            elif self._has_read:
                self.ignored += 1
            else:
                raise ProtocolError(f"this is not the forward protocol: it starts with {text[:16]!r}")

    def _find_end(self) -> int | None:
        """Where the next value ends; None if its end has not come yet."""
        text, at = self._buffer, self._at
        self._needs_more = True
        if at == 0:
            begin = _NO_SPACE.search(text)
            del text[: len(text) if begin is None else begin.start()]
            if not text or text[0] not in _OPENERS:
                return self._find_end_of_null()
        end = self._find_last_bracket(at)
        # Commas in strings are counted too: this is a rough bound, and nobody sees the number.
        self._values += text.count(b",", at, self._at)
        if self._values > MAX_VALUES:
            raise ProtocolError(f"a message in JSON of more than {MAX_VALUES} values: send it in parts")
        return end

    def _find_last_bracket(self, at: int) -> int | None:
        """Where the array or object ends; None if its end has not come yet. Remembers how far it looked."""
        text = self._buffer
        while True:
            if self._is_in_string and (at := self._find_quote(at)) < 0:
                return None
            stop = min(len(text), at + _LOOKED_AT)
            for found in _TOKEN.finditer(text, at, stop):
                first = text[found.start()]
                if first == _QUOTE:
                    if found.end() - found.start() == 1:
                        self._is_in_string = True
                        at = found.end()
                        break
                elif first in _OPENERS:
                    self._level += 1
                    if self._level > MAX_LEVELS:
                        raise ProtocolError("a message is nested too deeply to be read")
                else:
                    self._level -= 1
                    if not self._level:
                        self._at = found.end()
                        return self._at
            else:
                self._at = stop
                self._needs_more = stop == len(text)
                return None

    def _find_quote(self, at: int) -> int:
        """Where the current string ends; -1 if its end has not come yet. Remembers how far it looked."""
        text = self._buffer
        while (found := _IN_STRING.search(text, at)) is not None:
            at = found.end()
            if text[at - 1] == _QUOTE:
                self._is_in_string = False
                return at
            if at == len(text):
                self._at = at - 1  # the escaped character has not come yet
                return -1
            at += 1
        self._at = len(text)
        return -1

    def _find_end_of_null(self) -> int | None:
        """Where the null ends that comes next; None if it is not whole. Raises ProtocolError if another value
        comes next."""
        if self._buffer.startswith(_NULL):
            return len(_NULL)
        if _NULL.startswith(self._buffer):
            return None
        raise ProtocolError(
            f"a connection that began with JSON goes on with {bytes(self._buffer[:16])!r}: that is neither an"
            " array nor null"
        )


def _message(text: bytes, max_entries: int) -> Generator[_Busy, None, Message]:
    """Translate a message from JSON to MessagePack. Raises ProtocolError."""
    try:
        try:
            frame, chunk = yield from _translated(text)
        except msgspec.DecodeError:
            whole = _ESCAPE.sub(_replace_half, text)
            if whole == text:
                raise
            frame, chunk = yield from _translated(whole)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(f"a message in JSON that can't be read: {error}") from None
    except RecursionError:
        raise ProtocolError("a message is nested too deeply to be read") from None
    reader = MessageReader(len(frame), max_entries)
    reader.feed(frame)
    while (message := reader.step()) is None:
        assert reader.is_busy
        yield _BUSY
    reader.close()
    message.chunk_in_json = chunk
    return message


def _replace_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _translated(text: bytes) -> Generator[_Busy, None, tuple[bytes, bytes]]:
    """A message in MessagePack, and its chunk in JSON. Raises ValueError, DecodeError or ProtocolError."""
    parts = _PARTS.decode(text)
    second, third, fourth = bytes(parts.second), bytes(parts.third), bytes(parts.fourth)
    is_single = second[:1] not in (b"[", b'"')
    if is_single and not third:
        raise ProtocolError("a message with a tag and a time, but no record")
    if is_single:
        body, option = _time(second) + _encoded(third), fourth
    elif second.startswith(b"["):
        entries = _ENTRIES.decode(second)
        encoded = [array_header(len(entries))]
        for start in range(0, len(entries), _TOGETHER):
            encoded += map(_entry, entries[start : start + _TOGETHER])
            yield _BUSY
        body, option = b"".join(encoded), third
    else:
        body, option = _encoded(second), third
    head = array_header(2 + is_single + bool(option)) + _encoded(bytes(parts.tag))
    chunk = bytes(_OPTION.decode(option).chunk) if option.startswith(b"{") else b""
    return head + body + (_encoded(option) if option else b""), chunk


def _entry(raw: Raw) -> bytes:
    """Translate ``[time, record]``, or any other value as it is. Raises ValueError."""
    try:
        time, record = _ENTRY.decode(raw)
    except msgspec.ValidationError:
        return _encoded(bytes(raw))
    return b"\x92" + _time(bytes(time)) + _encoded(bytes(record))


def _time(text: bytes) -> bytes:
    """Translate a time. With a fraction it becomes an EventTime: servers refuse or drop floats. Raises
    ValueError."""
    if _FRACTION.fullmatch(text) and 0 <= float(text) < 1 << 32:
        seconds, fraction = divmod(Decimal(text.decode()), 1)
        return b"\xd7\x00" + int(seconds).to_bytes(4, "big") + int(fraction * 10**9).to_bytes(4, "big")
    return _encoded(text)


def _encoded(text: bytes) -> bytes:
    """Translate any value. Raises ValueError or ProtocolError."""
    if text.count(b",") >= MAX_RECORD_VALUES:
        raise ProtocolError(f"a record in JSON of more than {MAX_RECORD_VALUES} values")
    try:
        return MSGPACK.encode(_VALUE.decode(text))
    except (msgspec.DecodeError, ValueError, OverflowError):
        # The text is not UTF-8, or has numbers of more than 64 bits.
        encoded: bytes = msgpack.packb(json.loads(text.decode("utf-8", "replace"), parse_int=_integer))
        return encoded


def _integer(text: str) -> Any:
    """An integer. If MessagePack can't hold it, it becomes a float, as in most readers of JSON."""
    value = int(text) if len(text) <= 20 else float(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(text)
