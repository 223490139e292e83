"""An atheris target: ``python -m tests.fuzz.fuzz_stream [libFuzzer flags] [corpus directories]``."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from typing import Any

import msgpack

# Without atheris this can be imported, but not run. It must see the modules under test being imported.
atheris: Any = None
_instrumented: Any = contextlib.nullcontext()
if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import atheris

        _instrumented = atheris.instrument_imports(include=["plugin", "filter_engine"])

with _instrumented:
    from tests import support
    from tests.fuzz.check import check
    from tests.fuzz.decoding import Reader, frame_json, frame_msgpack, is_array
    from tests.fuzz.seeds import SEEDS
    from tests.fuzz.settings import HEADER, POLICY
    from tests.support import DROPPED, KEPT, line

_ODD = [None, True, -1, 0, 2**64 - 1, 1.5, float("nan"), "", b"", "\xe9\0", "get", "list", "create", "kept",
        "RequestReceived", "system:kube-proxy", b"system:kube-proxy", "developers", "noisy", "secrets",
        "/healthz", "/%76ersion", "None", "Request", [], {}, [[]], "\udcff", msgpack.ExtType(0, bytes(8)),
        msgpack.Timestamp(1), msgpack.ExtType(5, b"ab"), KEPT, DROPPED, {"username": ""}]  # fmt: skip
_NAMES = ["auditID", "verb", "stage", "user", "username", "groups", "objectRef", "resource", "subresource",
          "namespace", "name", "apiGroup", "requestURI", "level", "log", "message", "items", "records",
          "requestObject", "responseObject", "metadata", "managedFields", "kind", 5, ""]  # fmt: skip


def mutate(data: bytes, size: int, seed: int) -> bytes:
    """A custom mutator: changes a value inside a record, or leaves it to libFuzzer to change bytes."""
    chance = random.Random(seed)
    if len(data) <= HEADER or chance.random() < 0.02:
        return chance.choice(list(SEEDS.values()))[:size]
    if chance.random() < 0.4:
        return atheris.Mutate(data, size)
    header, stream = data[:HEADER], data[HEADER:]
    is_json = header[0] & 1
    records = [record.data for record in (frame_json if is_json else frame_msgpack)(stream)[0]]
    if not records:
        return atheris.Mutate(data, size)
    at = chance.randrange(len(records))
    try:
        value = json.loads(records[at]) if is_json else Reader().msgpack(records[at])
        value = mutate_value(value, chance)
        for _ in range(chance.randrange(3)):
            value = mutate_value(value, chance)
        records[at] = (
            line(value)
            if is_json
            else msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return atheris.Mutate(data, size)
    if chance.random() < 0.2:
        records.insert(chance.randrange(len(records)), chance.choice(records))
    return (header + b"".join(records))[:size]


def mutate_value(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.85:
        changed = dict(value)
        key = chance.choice(list(value))
        match chance.randrange(10):
            case 0:
                del changed[key]
            case 1:
                changed[chance.choice(_NAMES)] = changed.pop(key)
            case 2 if isinstance(key, str):
                changed[key.encode("utf-8", "surrogateescape")] = changed.pop(key)
            case 3:
                changed[chance.choice(_NAMES)] = chance.choice(_ODD)
            case _:
                changed[key] = mutate_value(value[key], chance)
        return changed
    if is_array(value) and value and chance.random() < 0.85:
        changed, at = list(value), chance.randrange(len(value))
        changed[at] = mutate_value(changed[at], chance)
        return changed * (1 + (chance.random() < 0.1))
    wraps = [
        lambda v: {"log": v},
        lambda v: {"items": [v, DROPPED, v]},
        json.dumps,
        lambda v: v.encode("utf-8", "surrogateescape") if isinstance(v, str) else [v],
    ]
    return chance.choice(wraps)(value) if chance.random() < 0.25 else chance.choice(_ODD)


def main() -> None:
    if atheris is None:
        sys.exit("the fuzzer needs atheris: pip install atheris (Linux, CPython 3.11 to 3.13)")
    compiled = support.policy(POLICY)
    support.policy = lambda _: compiled
    atheris.Setup(sys.argv, check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
