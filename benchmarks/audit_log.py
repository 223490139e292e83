"""A generated audit log of a busy cluster, the same for the same seed.

The cluster's own policy is that of many managed ones: bodies of what changes the cluster, metadata
of what is read and of what may hold secrets. ``traffic`` says who asks for what, and how often. Sizes
are 1 to 2 KB on average with a long tail, as in real logs.

    python -m benchmarks.audit_log --count 10000 --format json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

import click
import msgpack

from benchmarks.objects import Event
from benchmarks.traffic import NOBODY, TRAFFIC, Request

START = datetime(2026, 11, 1, 6, 0, 0, tzinfo=timezone.utc)
# Kinds whose contents no cluster's policy records.
PRIVATE = {"secrets", "configmaps", "tokenreviews"}


def events(count: int, seed: int = 0) -> Iterator[Event]:
    """Audit events as kube-apiserver writes them, in the order of time.

    Args:
        count: how many; a request makes two or more.
        seed: another seed makes another log.
    """
    random = Random(seed)
    weights, makers = zip(*TRAFFIC, strict=True)
    now = START
    left = count
    while left > 0:
        (make,) = random.choices(makers, weights)
        request = make(random)
        now += timedelta(microseconds=int(random.expovariate(1 / 9000)))
        for event in recorded(random, request, now):
            if left == 0:
                return
            left -= 1
            yield event


def recorded(random: Random, request: Request, received: datetime) -> Iterator[Event]:
    """The events of one request, a stage each."""
    level = "RequestResponse" if request.body is not None or request.answer is not None else "Metadata"
    if request.resource in PRIVATE:
        level = "Metadata"
    event: Event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": level,
        "auditID": f"{random.getrandbits(32):08x}-{random.getrandbits(16):04x}-4{random.getrandbits(12):03x}"
        f"-8{random.getrandbits(12):03x}-{random.getrandbits(48):012x}",
        "stage": "RequestReceived",
        "requestURI": request.uri(),
        "verb": request.verb,
        "user": request.actor.user(),
        "sourceIPs": [f"10.0.{random.randrange(4)}.{random.randrange(2, 250)}"],
        "userAgent": request.actor.agent,
    }
    if (reference := request.reference()) is not None:
        event["objectRef"] = reference
    event["requestReceivedTimestamp"] = _timestamp(received)

    def at(stage: str, milliseconds: float, **more: Any) -> Event:
        return {**event, **more, "stage": stage, "stageTimestamp": _timestamp(received, milliseconds)}

    if request.actor is NOBODY:  # refused before the policy was asked: a single event
        yield at("ResponseStarted", 0.4, responseStatus=_status(401, "Unauthorized"))
        return
    yield at("RequestReceived", 0)
    answered: Event = {"responseStatus": _status(request.code), "annotations": _annotations(request)}
    if level != "Metadata":
        answered |= {"requestObject": request.body} if request.body is not None else {}
        if request.code < 400:
            answered |= {"responseObject": request.answer} if request.answer is not None else {}
    if request.verb == "watch" or request.subresource in ("exec", "portforward", "log"):
        yield at("ResponseStarted", 2.5, **answered)
    if random.random() < 0.0005:
        yield at("Panic", 3.0, responseStatus=_status(500, "InternalError"))
    else:
        yield at("ResponseComplete", random.uniform(1, 30), **answered)


def _timestamp(moment: datetime, milliseconds: float = 0) -> str:
    moment += timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _status(code: int, reason: str = "") -> Event:
    if code < 400:
        return {"metadata": {}, "code": code}
    reason = reason or {403: "Forbidden", 404: "NotFound", 409: "Conflict"}.get(code, "Unknown")
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"the request was refused: {reason}",
        "reason": reason,
        "code": code,
    }


def _annotations(request: Request) -> Event:
    allowed = request.code not in (401, 403)
    reason = (
        f'RBAC: allowed by ClusterRoleBinding "{request.actor.name}" of ClusterRole "{request.actor.name}"'
    )
    return {
        "authorization.k8s.io/decision": "allow" if allowed else "forbid",
        "authorization.k8s.io/reason": reason if allowed else "",
    }


def fluentd_stream(log: Iterable[Event]) -> Iterator[bytes]:
    """Each event as Fluentd's exec_filter writes it: a MessagePack map."""
    return map(msgpack.packb, log)


def json_lines(log: Iterable[Event]) -> Iterator[bytes]:
    """Each event as a line of kube-apiserver's log file."""
    return (json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in log)


@click.command()
@click.option("--count", default=10_000, show_default=True, help="How many events.")
@click.option(
    "--format", "format_", type=click.Choice(["msgpack", "json"]), default="json", show_default=True
)
@click.option("--seed", default=0, show_default=True, help="Another seed makes another log.")
def main(count: int, format_: str, seed: int) -> None:
    """Write a generated Kubernetes audit log to stdout."""
    encode = fluentd_stream if format_ == "msgpack" else json_lines
    for record in encode(events(count, seed)):
        sys.stdout.buffer.write(record)


if __name__ == "__main__":
    main()
