"""Messages in JSON, which Fluentd's in_forward takes beside MessagePack: bytes in, messages out. No sockets.

A connection whose first byte opens a JSON array or object speaks JSON to its end, and acknowledgements
are JSON too (fluentd, lib/fluent/plugin/in_forward.rb, read_messages). The forms are those of MessagePack:
``[tag, time, record, option]`` and ``[tag, [[time, record], …], option]``.

Each message becomes the same one in MessagePack, which every server reads: Fluent Bit reads nothing else.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import msgpack
import msgspec
from msgspec import Raw

from ...encoding.codec import MSGPACK
from .message import Message, MessageReader, ProtocolError, array_header

# Values of one message, and of one record, which is held decoded for a moment: each takes a hundred bytes.
MAX_VALUES = 1 << 20
MAX_RECORD_VALUES = 1 << 18
# Levels of arrays and maps. What decodes JSON takes some more.
MAX_LEVELS = 512

# Brackets, and strings: one without escapes as a whole, of any other the beginning.
_TOKEN = re.compile(rb'"[^"\\]*"|["\[\]{}]')
_IN_STRING = re.compile(rb'["\\]')
_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_OPENERS = b"[{"
_NULL = b"null"
_QUOTE = ord('"')
# An escape; where it is half a surrogate pair, which JavaScript writes and UTF-8 does not have, in a group.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.",
    re.DOTALL,
)
# A number that may have a fraction, and not more digits than a time has.
_FRACTION = re.compile(rb"\d{1,10}[.eE][\d.eE+-]{1,30}")


class _Parts(msgspec.Struct, array_like=True):
    """A message's elements; further ones are ignored, as in_forward does."""

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
    """Finds the messages in a stream of JSON values; like :class:`MessageReader`, which does in MessagePack.

    Args:
        max_size: bytes; a message that grows beyond is an error.

    Attributes:
        heartbeats: how many nulls came.
        ignored: how many objects came, which are no messages.
    """

    def __init__(self, max_size: int) -> None:
        self.heartbeats = self.ignored = 0
        self._max_size = max_size
        self._has_read = False  # a message
        self._buffer = bytearray()  # begins with the value that is not whole yet
        # How far that value has been looked at: where, in how many levels, in a string, past how many values.
        self._at = self._level = self._values = 0
        self._is_in_string = False

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun to come and is not whole."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """Bytes of the message that is not whole yet."""
        return len(self._buffer)

    def close(self) -> None:
        """Let go of everything; read nothing more."""
        del self._buffer

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next message; None where more bytes have to come first.

        Raises:
            ProtocolError: the stream can't be read on.
        """
        while True:
            end = self._find_end()
            if (self.held if end is None else end) > self._max_size:
                raise ProtocolError(
                    f"a message is larger than {self._max_size} bytes: see --max-message-size"
                )
            if end is None:
                return None
            text = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._at = self._values = 0
            if text == _NULL:
                self.heartbeats += 1
            elif text.startswith(b"["):
                message = _message(text)
                self._has_read = True
                return message
            elif self._has_read:
                self.ignored += 1
            else:
                raise ProtocolError(f"this is not the forward protocol: it starts with {text[:16]!r}")

    def _find_end(self) -> int | None:
        """Where the next value ends; None where it goes on behind what has come."""
        text, at = self._buffer, self._at
        if at == 0:
            begin = _NO_SPACE.search(text)
            del text[: len(text) if begin is None else begin.start()]
            if not text or text[0] not in _OPENERS:
                return self._find_end_of_null()
        end = self._find_last_bracket(at)
        # In strings too, where they separate nothing: it is a bound, and not a number that anybody sees.
        self._values += text.count(b",", at, self._at)
        if self._values > MAX_VALUES:
            raise ProtocolError(f"a message in JSON of more than {MAX_VALUES} values: send it in parts")
        return end

    def _find_last_bracket(self, at: int) -> int | None:
        """Where the array or object ends; None: not in what has come. Sets how far that was looked at."""
        text = self._buffer
        while True:
            if self._is_in_string and (at := self._find_quote(at)) < 0:
                return None
            for found in _TOKEN.finditer(text, at):
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
                self._at = len(text)
                return None

    def _find_quote(self, at: int) -> int:
        """Where a string ends that has begun; -1: not in what has come. Sets how far that was looked at."""
        text = self._buffer
        while (found := _IN_STRING.search(text, at)) is not None:
            at = found.end()
            if text[at - 1] == _QUOTE:
                self._is_in_string = False
                return at
            if at == len(text):
                self._at = at - 1  # what is escaped has to come first
                return -1
            at += 1
        self._at = len(text)
        return -1

    def _find_end_of_null(self) -> int | None:
        """Where it ends, if it is what comes next. Raises ProtocolError where something else is."""
        if self._buffer.startswith(_NULL):
            return len(_NULL)
        if _NULL.startswith(self._buffer):
            return None
        raise ProtocolError(
            f"a connection that began with JSON goes on with {bytes(self._buffer[:16])!r}: that is neither an"
            " array nor null"
        )


def _message(text: bytes) -> Message:
    """The message in MessagePack for one in JSON. Raises ProtocolError."""
    try:
        try:
            frame, chunk = _translated(text)
        except msgspec.DecodeError:
            whole = _ESCAPE.sub(_replace_half, text)
            if whole == text:
                raise
            frame, chunk = _translated(whole)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(f"a message in JSON that can't be read: {error}") from None
    except RecursionError:
        raise ProtocolError("a message is nested too deeply to be read") from None
    reader = MessageReader(len(frame))
    reader.feed(frame)
    message = reader.next_message()
    reader.close()
    assert message is not None
    message.chunk_in_json = chunk
    return message


def _replace_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _translated(text: bytes) -> tuple[bytes, bytes]:
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
        body, option = array_header(len(entries)) + b"".join(map(_entry, entries)), third
    else:
        body, option = _encoded(second), third
    head = array_header(2 + is_single + bool(option)) + _encoded(bytes(parts.tag))
    chunk = bytes(_OPTION.decode(option).chunk) if option.startswith(b"{") else b""
    return head + body + (_encoded(option) if option else b""), chunk


def _entry(raw: Raw) -> bytes:
    """``[time, record]``; anything else as it is. Raises ValueError."""
    try:
        time, record = _ENTRY.decode(raw)
    except msgspec.ValidationError:
        return _encoded(bytes(raw))
    return b"\x92" + _time(bytes(time)) + _encoded(bytes(record))


def _time(text: bytes) -> bytes:
    """A time. A fraction makes an EventTime of it: servers refuse or drop a float. Raises ValueError."""
    if _FRACTION.fullmatch(text) and 0 <= float(text) < 1 << 32:
        seconds, fraction = divmod(Decimal(text.decode()), 1)
        return b"\xd7\x00" + int(seconds).to_bytes(4, "big") + int(fraction * 10**9).to_bytes(4, "big")
    return _encoded(text)


def _encoded(text: bytes) -> bytes:
    """Any value. Raises ValueError or ProtocolError."""
    if text.count(b",") >= MAX_RECORD_VALUES:
        raise ProtocolError(f"a record in JSON of more than {MAX_RECORD_VALUES} values")
    try:
        return MSGPACK.encode(_VALUE.decode(text))
    except (msgspec.DecodeError, ValueError, OverflowError):
        # What is not UTF-8, numbers of more than 64 bits.
        encoded: bytes = msgpack.packb(json.loads(text.decode("utf-8", "replace"), parse_int=_integer))
        return encoded


def _integer(text: str) -> Any:
    """An integer; one that MessagePack can't hold becomes a float, as most readers of JSON have it."""
    value = int(text) if len(text) <= 20 else float(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(text)
