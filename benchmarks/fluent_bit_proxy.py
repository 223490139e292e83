"""Fluent Bit whose records go through the forward proxy and come back to it.

The configuration is that of ``conf/fluent-bit/forward-loop.yaml``, with Unix sockets.
"""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.measure import Cost, cpu_of
from benchmarks.processes import Process

# What the tags of records that have come back begin with.
PREFIX = "filtered."
_LOOP = """\
[INPUT]
    Name            forward
    Unix_Path       {directory}/back.sock
    Tag_Prefix      {prefix}
    Buffer_Max_Size 64M

[OUTPUT]
    Name                 forward
    Match                kube.audit
    Unix_Path            {directory}/proxy.sock
    Require_Ack_Response true
    Retry_Limit          no_limits
"""
# Seconds for which a proxy that has done all its work has done nothing.
_QUIET = 0.3
_DEADLINE = 600.0
_PAUSE = 0.02


def loop(directory: Path) -> str:
    """The sections of the configuration that send records to the proxy, and take them back."""
    return _LOOP.format(directory=directory, prefix=PREFIX)


def run(command: Sequence[str], program: Path, policy: Path, directory: Path, count: int) -> Cost:
    """Run Fluent Bit beside a proxy until all records have gone through both.

    Args:
        command: Fluent Bit's, which does not end by itself.
        program: the filter.
        policy: the proxy's.
        directory: for the sockets between them.
        count: how many records there are.

    Returns:
        CPU time of both from start to end; by the clock, from Fluent Bit's start until the last record is
        delivered.

    Raises:
        click.ClickException: one of them ends, or not all records are delivered within ten minutes.
    """
    sockets = {name: directory / f"{name}.sock" for name in ("proxy", "back")}
    for socket in sockets.values():
        socket.unlink(missing_ok=True)
    ways = ["--listen", f"unix:{sockets['proxy']}", "--upstream", f"unix:{sockets['back']}"]
    options = ["--policy", str(policy), *ways, "--metrics-listen", "127.0.0.1:0"]
    with Process([str(program), "forward", *options]) as proxy:
        port = proxy.said_port(rb"metrics: http://\S+:(\d+)/")
        started = time.monotonic()
        with Process(command) as agent:
            ended = _delivered(proxy, agent, port, count)
            cpu = agent.end(signal.SIGTERM)
        return Cost(ended - started, cpu + proxy.end(signal.SIGTERM))


def _delivered(proxy: Process, agent: Process, port: int, count: int) -> float:
    """Wait until all records are delivered; returns when the proxy has last done something."""
    end = time.monotonic() + _DEADLINE
    used, since = cpu_of(proxy.pid), time.monotonic()
    while True:
        time.sleep(_PAUSE)
        now = time.monotonic()
        for process in (agent, proxy):
            if not process.is_running():
                process.end()
                raise click.ClickException("a process has ended before all records were delivered")
        if now > end:
            raise click.ClickException(f"of {count:,} records, not all were delivered: {_metrics(port)}")
        if (used_now := cpu_of(proxy.pid)) > used:
            used, since = used_now, now
        elif now - since > _QUIET:
            # A look at the metrics costs the proxy CPU time, so there are only a few.
            metrics = _metrics(port)
            if metrics["records_in_total"] >= count and not metrics["forward_in_flight_bytes"]:
                return since
            used, since = cpu_of(proxy.pid), time.monotonic()


def _metrics(port: int) -> dict[str, float]:
    """The proxy's metrics that have no labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^kube_audit_filter_(\w+) (\S+)$", text, re.M)}
