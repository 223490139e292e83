"""The generated audit log in every shape that ``bench`` has a row for.

All shapes hold the same events, in the same order; some change one field of each event, so that what
the filter remembers of one is of no use for the next.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from msgpack import ExtType, OutOfData, Unpacker, packb

from benchmarks.audit_log import events
from benchmarks.objects import Event
from benchmarks.secrets import with_secrets

Encoding = Literal["msgpack", "json"]
Change = Callable[[Event, int], Event]

# kube-apiserver sends up to 400 events at once to a webhook (--audit-webhook-batch-max-size).
LIST_ITEMS = 100
_START = 1_793_512_800


def _unchanged(event: Event, _: int) -> Event:
    return event


def _new_user(event: Event, number: int) -> Event:
    return {**event, "user": {**event["user"], "username": f"user-{number}@example.com"}}


def _new_extra(event: Event, number: int) -> Event:
    """The same user, with the credential of another pod or login."""
    extra = {"authentication.kubernetes.io/credential-id": [f"JTI={number:032x}"]}
    return {**event, "user": {**event["user"], "extra": extra}}


def _new_namespace(event: Event, number: int) -> Event:
    """Only requests for resources have a namespace: four events in five."""
    reference = event.get("objectRef")
    return event if reference is None else {**event, "objectRef": {**reference, "namespace": f"ns-{number}"}}


def _new_uri(event: Event, number: int) -> Event:
    uri = event["requestURI"]
    return {**event, "requestURI": f"{uri}{'&' if '?' in uri else '?'}resourceVersion={number}"}


def _new_path(event: Event, number: int) -> Event:
    """A scanner's requests, of which none is for a resource."""
    changed = {**event, "requestURI": f"/static/{number}/index.php"}
    changed.pop("objectRef", None)
    return changed


def _unusual_verb(event: Event, _: int) -> Event:
    return {**event, "verb": "propfind"}


@dataclass(frozen=True)
class Shape:
    """How a log is written.

    Attributes:
        encoding: MessagePack, or JSON a line each.
        wrapping: what is around the event: nothing (``event``); ``[[time, metadata], event]`` as Fluent
            Bit has it (``entry``); ``[time, event]`` as Fluentd has it (``pair``); a record with the event as
            JSON text under ``log`` (``text``); an EventList (``list``); nothing, and all text is bin
            (``binary``).
        change: what is done to each event.
    """

    encoding: Encoding = "msgpack"
    wrapping: Literal["event", "entry", "pair", "text", "list", "binary"] = "event"
    change: Change = _unchanged

    @property
    def is_plain(self) -> bool:
        """Whether the events are those of the log."""
        return self.change is _unchanged


SHAPES = {
    "events": Shape(),
    "entries": Shape(wrapping="entry"),
    "pairs": Shape(wrapping="pair"),
    "json": Shape("json"),
    "text": Shape(wrapping="text"),
    "text-json": Shape("json", "text"),
    "binary": Shape(wrapping="binary"),
    "lists": Shape(wrapping="list"),
    "lists-json": Shape("json", "list"),
    "new-user": Shape(change=_new_user),
    "new-extra": Shape(change=_new_extra),
    "new-namespace": Shape(change=_new_namespace),
    "new-uri": Shape(change=_new_uri),
    "new-path": Shape(change=_new_path),
    "unusual-verb": Shape(change=_unusual_verb),
    "secrets": Shape(change=with_secrets),
    "secrets-json": Shape("json", change=with_secrets),
}


def write(directory: Path, names: Collection[str], count: int, seed: int) -> dict[str, Path]:
    """Write logs of the same events, each in its shape.

    Args:
        directory: where to; the files are called as the shapes are.
        names: of the shapes.
        count: how many events.
        seed: another seed, another log.

    Returns:
        The files by shape.
    """
    paths = {name: directory / name for name in names}
    with ExitStack() as stack:
        writers = [
            (SHAPES[name], stack.enter_context(path.open("wb", buffering=1 << 20)))
            for name, path in paths.items()
        ]
        items: list[Event] = []
        for number, event in enumerate(events(count, seed), start=1):
            items.append({key: value for key, value in event.items() if key not in ("kind", "apiVersion")})
            is_full = len(items) == LIST_ITEMS or number == count
            for shape, file in writers:
                if shape.wrapping != "list":
                    file.write(_encode(shape, shape.change(event, number), number))
                elif is_full:
                    file.write(_encode(shape, _event_list(items), number))
            if is_full:
                items = []
    return paths


def _event_list(items: list[Event]) -> Event:
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}


def _encode(shape: Shape, record: Event, number: int) -> bytes:
    value: Any = record
    if shape.wrapping == "text":
        value = {"log": _json(record)}
    elif shape.wrapping == "entry":
        value = [[_event_time(number), {}], record]
    elif shape.wrapping == "pair":
        value = [_event_time(number), record]
    elif shape.wrapping == "binary":
        value = _binary(record)
    return _json(value).encode() + b"\n" if shape.encoding == "json" else bytes(packb(value))


def _binary(value: Any) -> Any:
    """The same with bytes in place of text, keys too."""
    if isinstance(value, dict):
        return {_binary(key): _binary(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_binary(each) for each in value]
    return value.encode() if isinstance(value, str) else value


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _event_time(number: int) -> ExtType:
    """The forward protocol's EventTime: seconds and nanoseconds."""
    return ExtType(0, struct.pack(">II", _START + number // 100, number % 100 * 10_000_000))


def count_events(path: Path, shape: Shape) -> int:
    """How many events are in a log, or in what a filter has left of it."""
    with path.open("rb") as file:
        if shape.wrapping == "list":
            records = map(json.loads, file) if shape.encoding == "json" else Unpacker(file)
            return sum(len(record["items"]) for record in records)
        return sum(1 for _ in (file if shape.encoding == "json" else record_sizes(file)))


def record_sizes(file: BinaryIO) -> Iterator[int]:
    """Bytes of each value in a MessagePack file."""
    unpacker, before = Unpacker(file, max_buffer_size=0), 0
    while True:
        try:
            unpacker.skip()
        except OutOfData:
            return
        after = unpacker.tell()
        yield after - before
        before = after
