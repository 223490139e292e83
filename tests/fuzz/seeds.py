"""Where the fuzzer starts, and what it found."""

from __future__ import annotations

import json
from typing import Any

import msgpack

from tests.fuzz.settings import EVENT_KEYS, SMALL_RECORD, Settings
from tests.support import DROPPED, KEPT, event, event_time, line


def _pack(*values: Any) -> bytes:
    return b"".join(msgpack.packb(value, use_bin_type=True) for value in values)


def _sized(size: int) -> list[Any]:
    """Values whose headers differ with their size."""
    data = bytes(size)
    return [
        data,
        data.decode(),
        msgpack.ExtType(5, data),
        size * [1.5],
        dict.fromkeys(range(size)),
        -(1 << size % 63),
    ]


def _as_bin(value: Any) -> Any:
    """The same with all strings of type bin."""
    if isinstance(value, dict):
        return {key.encode(): _as_bin(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_bin(item) for item in value]
    return value.encode() if isinstance(value, str) else value


_OBJECT = {"metadata": {"managedFields": [1], "a": 1.5}}
_TABLE = {"kind": "Table", "rows": [{"object": _OBJECT}]}
_FULL = event(level="RequestResponse", requestObject=_OBJECT, responseObject=_TABLE)
_PATCH = event(level="Request", verb="patch", user={"username": "b"}, requestObject={"metadata": {}})
_HEALTH = {"auditID": "x", "verb": "get", "requestURI": "/healthz?a", "user": {}}
_LIST = {"kind": "EventList", "items": [KEPT, DROPPED, {"kind": "Pod"}]}
_AZURE = {"records": [{"properties": {"log": json.dumps(KEPT)}}, {"properties": {"log": DROPPED}}]}
_KLOG = b"I1123 22:00:27.000000       1 controller.go:615] quota admission added evaluator\n"
_GROUP = (
    [[event_time(-1), {"schema": "otlp"}], {"resource": {}}],
    [[event_time(5), {}], KEPT],
    [[event_time(6), {}], DROPPED],
    [[event_time(-2), {}], {}],
)
_RECORDS: dict[str, tuple[Settings, list[Any]]] = {
    "maps": (Settings(cuts=(9, 100, 200)), [KEPT, DROPPED, _HEALTH, {"log": "x"}]),
    "reduced": (
        Settings(reduce=True),
        [_FULL, _PATCH, {"log": json.dumps(_FULL) + "\n"}, {"items": [_FULL]}],
    ),
    "exact": (Settings(level_match="exact", cuts=(1,)), [KEPT, _FULL, _PATCH]),
    "wrapped": (
        Settings(cuts=(77,)),
        [{"log": DROPPED}, {"message": json.dumps(KEPT)}, {"log": json.dumps(_LIST)}],
    ),
    "lists": (Settings(), [_LIST, {"items": [DROPPED]}, {"items": [KEPT]}]),
    "small": (Settings(max_record_size=SMALL_RECORD, cuts=(50, 60, 130)), [_FULL, DROPPED, KEPT, _FULL]),
    "small by one": (Settings(max_record_size=SMALL_RECORD, by_one=True), [_FULL, DROPPED, _FULL, KEPT]),
    "under a key": (
        Settings(event_key=r"a\.b.c"),
        [{"a.b": {"c": KEPT}}, {"a.b": {"c": json.dumps(DROPPED)}}],
    ),
    "log": (Settings(event_key="log"), [{"log": json.dumps(KEPT)}, {"log": DROPPED}, DROPPED]),
    "azure": (Settings(event_key=EVENT_KEYS[2], reduce=True), [_AZURE]),
}
SEEDS = {
    **{f"msgpack {name}": s.write() + _pack(*records) for name, (s, records) in _RECORDS.items()},
    **{
        f"json {name}": Settings(
            "json", s.event_key, s.reduce, s.level_match, s.max_record_size, s.by_one, s.cuts
        ).write()
        + b"".join(map(line, records))
        for name, (s, records) in _RECORDS.items()
    },
    "time": Settings(cuts=(3, 4, 5)).write() + _pack([1, KEPT], [event_time(1), DROPPED], [1.5, DROPPED]),
    "time and metadata": Settings(by_one=True).write()
    + _pack([[event_time(1), {}], KEPT], [[event_time(1), {}], DROPPED]),
    "every header": Settings(max_record_size=SMALL_RECORD, by_one=True).write()
    + _pack({"a": 500 * [0], **DROPPED, **{str(size): _sized(size) for size in (0, 1, 2, 4, 8, 16, 40, 300)}})
    + _pack(DROPPED, KEPT),
    "bin": Settings(reduce=True).write() + _pack(*map(_as_bin, (KEPT, DROPPED, _FULL, _LIST))),
    "groups": Settings(cuts=(200,)).write() + _pack(*_GROUP, *_GROUP[::2], *_GROUP[2:], _GROUP[0]),
    "json between klog": Settings("json").write()
    + b"".join((_KLOG, line(KEPT), _KLOG, b"\n", line(DROPPED).replace(b"\n", b"\r\n"))),
    "json cut off": Settings("json", by_one=True).write()
    + b"".join((b"\xef\xbb\xbf", line(DROPPED), line(KEPT)[:40])),
}
# Once wrong, and right since; each is as small as it could be made.
FINDINGS = {
    "half of a surrogate pair at the end": Settings("json").write() + b'{"a":"\\ud800"}',
    "keys of both types": Settings(reduce=True).write()
    + _pack(
        {
            "auditID": "",
            "verb": "get",
            "user": {},
            "level": "Request",
            b"metadata": 1,
            "requestObject": _OBJECT,
        }
    ),
}
