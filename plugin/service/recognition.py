"""Recognises, by its first bytes, an input without audit events, and says which option to use."""

from __future__ import annotations

from ..encoding.msgpack_format import CONTAINERS
from ..records.counters import Counters
from ..records.record_filter import Format

# After so many records without an event, the warning is written.
_ENOUGH = 100
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"BZh": ("bzip2", "bzcat"),
    b"\xfd7zXZ": ("xz", "xzcat"),
}


class Recognition:
    """Makes one warning, early on, if no record is an audit event.

    Args:
        counters: the filter's counters.
        format: the format that the records should have; None if the user can't choose it.
    """

    def __init__(self, counters: Counters, format: Format | None) -> None:
        self._counters = counters
        self._format = format
        self._start = b""
        self._is_done = False

    def warning(self, data: bytes, *, is_end: bool = False) -> str | None:
        """The warning to write now; None if there is none.

        Args:
            data: the bytes that were read last. The first bytes of the stream are examined.
            is_end: whether the input has ended.
        """
        if self._is_done:
            return None
        self._start = self._start or data[:64]
        counters = self._counters
        if counters.undecided_records < counters.records or counters.undecided["no_policy"]:
            self._is_done = True
        elif counters.records >= (1 if is_end else _ENOUGH):
            self._is_done = True
            which = "no record was" if is_end else f"none of the first {counters.records:,} records is"
            return f"{which} an audit event: {self._advice()}"
        return None

    def _advice(self) -> str:
        start = self._start
        for magic, (name, command) in _COMPRESSED.items():
            if start.startswith(magic):
                return f"the input is compressed with {name}; decompress it first, for example with {command}"
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
            return "the input looks like UTF-16 text; convert it first, with iconv -f UTF-16 -t UTF-8"
        is_json = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
        if self._format == "msgpack" and is_json:
            return "the input looks like JSON text; use --format json"
        if self._format == "json" and not is_json and start[:1] and start[0] in CONTAINERS:
            return "the input looks like MessagePack; use --format msgpack"
        if self._format == "msgpack" and start.isascii():
            return "the input looks like text, not like MessagePack; see --format"
        return "see --event-key if the event is inside of each record"
