"""What the first bytes of a fuzz input choose: options of the filter, and where the stream is cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from tests import support

POLICY = support.POLICY.replace("omitStages:", "omitManagedFields: true\nomitStages:")
EVENT_KEYS = (None, "log", "records[].properties.log", r"a\.b.c")
HEADER = 8  # bytes of a fuzz input that choose settings and cuts; the rest is the stream
SMALL_RECORD = 400


@dataclass(frozen=True)
class Settings:
    """What the first bytes of a fuzz input choose."""

    format: str = "msgpack"
    event_key: str | None = None
    reduce: bool = False
    level_match: str = "kubernetes"
    max_record_size: int = 1 << 20
    by_one: bool = False
    cuts: tuple[int, ...] = ()  # in 255ths of the stream

    @classmethod
    def read(cls, header: bytes) -> Settings:
        flags = header[0]
        return cls(
            "json" if flags & 1 else "msgpack",
            EVENT_KEYS[flags >> 1 & 3],
            bool(flags & 8),
            "exact" if flags & 16 else "kubernetes",
            SMALL_RECORD if flags & 32 else 1 << 20,
            bool(flags & 64),
            tuple(sorted(header[1:HEADER])),
        )

    def write(self) -> bytes:
        flags = (
            (self.format == "json")
            | EVENT_KEYS.index(self.event_key) << 1
            | self.reduce << 3
            | (self.level_match == "exact") << 4
            | (self.max_record_size == SMALL_RECORD) << 5
            | self.by_one << 6
        )
        return bytes([flags, *self.cuts]).ljust(HEADER, b"\0")

    def pieces(self, data: bytes) -> list[bytes]:
        cuts = range(1, len(data)) if self.by_one else [cut * len(data) // 255 for cut in self.cuts]
        return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]

    def stream(self) -> Any:
        return support.make_stream(
            self.format,
            event_key=self.event_key,
            policy_text=POLICY,
            reduce=self.reduce,
            max_record_size=self.max_record_size,
            level_match=self.level_match,
        )
