"""A table of agents and ways: which configurations in conf/ filter in which versions of an agent.

Prints Markdown: a row for each program that FLUENT_BITS and FLUENTDS name, separated by spaces. ``yes``: each
configuration of the way runs, and exactly the records come out that ``exec`` keeps. What is wrong otherwise
goes to stderr.

    make agents-table FLUENT_BITS="/opt/3.2/fluent-bit /opt/5.1/fluent-bit" FLUENTDS=/usr/bin/fluentd
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.audit_log import events
from tests.support import DROPPED, KEPT, ROOT, line
from tests.support.agents import Agent, AuditLog, configured, free_port, kept, printed_by_fluentd
from tests.support.forward_peers import Proxy
from tests.support.lua_filter import compiled

POLICY = ROOT / "conf/policies/recommended.yaml"
EVENTS = 500
FLUENT_BIT = {
    "compiled, classic": ["compiled-tail.conf", "compiled-eks.conf", "compiled-http.conf"],
    "compiled, YAML": ["compiled-tail.yaml", "compiled-eks.yaml", "compiled-http.yaml"],
    "exec filter, classic": ["exec-filter-tail.conf", "exec-filter-eks.conf", "exec-filter-http.conf"],
    "exec filter, YAML": ["exec-filter-tail.yaml", "exec-filter-eks.yaml", "exec-filter-http.yaml"],
    "forward loop": ["forward-loop.yaml"],
}
FLUENTD = {"exec_filter": ["exec_filter.conf"], "forward loop": ["forward-loop.conf"]}

Records = list[dict[str, Any]]


def main(environment: Mapping[str, str]) -> int:
    """Print the tables. Returns the exit status: 1 if no program was named."""
    kinds = [("FLUENT_BITS", FLUENT_BIT, run_fluent_bit), ("FLUENTDS", FLUENTD, run_fluentd)]
    if not any(environment.get(variable) for variable, _, _ in kinds):
        print('No agent was named: FLUENT_BITS="PATH ...", FLUENTDS="PATH ..."', file=sys.stderr)
        return 1
    for variable, ways, run in kinds:
        if programs := environment.get(variable, "").split():
            print(f"| {' | '.join(['', *ways])} |\n| {' | '.join(['---'] * (len(ways) + 1))} |")
        for program in programs:
            cells = [cell(program, files, run) for files in ways.values()]
            print(f"| {' | '.join([version(program), *cells])} |", flush=True)
    return 0


def version(program: str) -> str:
    """What a program calls itself, such as ``Fluent Bit 5.1.1``."""
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    found = re.search(r"(fluent ?bit|fluentd) v?(\d+\.\d+\.\d+)", result.stdout, re.IGNORECASE)
    if found is None:
        raise SystemExit(f"{program} --version: expected a name and a version, not {result.stdout[:200]!r}")
    return f"{'Fluentd' if found[1].lower() == 'fluentd' else 'Fluent Bit'} {found[2]}"


def cell(program: str, files: Sequence[str], run: Callable[[str, str, Path], None]) -> str:
    """Run each configuration of a way: ``yes``, or which of them do not work."""
    wrong = []
    for name in files:
        with tempfile.TemporaryDirectory() as directory:
            try:
                run(program, name, Path(directory))
            except AssertionError as error:
                wrong.append(f"`{name}`")
                print(f"{program}, {name}: {error}\n", file=sys.stderr)
    return f"not {', '.join(wrong)}" if wrong else "yes"


def run_fluent_bit(program: str, name: str, directory: Path) -> None:
    """Filter with one configuration.

    Raises:
        AssertionError: Fluent Bit ended, or other records came out than ``exec`` keeps.
    """
    log = AuditLog(directory / "audit.log")
    if "eks" in name:
        log.write(*(line({"log": json.dumps(event)}) for event in events(EVENTS, seed=3)))
    elif "http" in name:
        log.lines = [line({"kind": "EventList", "items": items}) for items in batches()]
    else:
        log.write_events(EVENTS)
    (directory / "policy.lua").write_text(compiled(POLICY.read_text()))
    proxy_port, port = free_port(), free_port()
    settings = {
        "AUDIT_LOG": str(log.path),
        "AUDIT_POLICY": str(POLICY),
        "AUDIT_POLICY_SCRIPT": str(directory / "policy.lua"),
        "AUDIT_PORT": str(port),
        "AUDIT_PROXY_PORT": str(proxy_port),
        "AUDIT_RETURN_PORT": str(port),
    }
    shutil.copytree(ROOT / "conf/fluent-bit", directory, dirs_exist_ok=True)
    text, environment = configured((directory / name).read_text(), settings)
    (directory / name).write_text(text)
    with proxy(directory, name, proxy_port, port, "--compat", "fluent-bit"):
        agent = Agent([program, "-q", "-c", str(directory / name)], directory / "printed", environment)
        check(agent, log, lambda: printed_by_fluent_bit(agent), port if "http" in name else None)


def run_fluentd(program: str, name: str, directory: Path) -> None:
    """Filter with one configuration.

    Raises:
        AssertionError: Fluentd ended, or other records came out than ``exec`` keeps.
    """
    log = AuditLog(directory / "audit.log")
    log.write_events(EVENTS)
    proxy_port, port = free_port(), free_port()
    environment = {
        "AUDIT_LOG": str(log.path),
        "AUDIT_POLICY": str(POLICY),
        "AUDIT_STATE_DIR": str(directory / "state"),
        "AUDIT_FILTER_LOG": str(directory / "filter.log"),
        "AUDIT_PROXY_PORT": str(proxy_port),
        "AUDIT_RETURN_PORT": str(port),
        "TZ": "UTC",
    }
    with proxy(directory, name, proxy_port, port):
        configuration = str(ROOT / "conf/fluentd" / name)
        agent = Agent([program, "-c", configuration], directory / "printed", environment)
        check(agent, log, lambda: [one.record for one in printed_by_fluentd(agent.output.read_bytes())])


def batches() -> Iterator[list[dict[str, Any]]]:
    """What a webhook sends: lists that lose nothing, something and all."""
    yield [KEPT, KEPT]
    yield [DROPPED, KEPT]
    yield [DROPPED]
    yield list(events(EVENTS, seed=3))
    yield [KEPT]


@contextmanager
def proxy(directory: Path, name: str, port: int, upstream: int, *options: str) -> Iterator[None]:
    """The forward proxy, for a configuration that needs one."""
    if "forward-loop" not in name:
        yield
        return
    (directory / "proxy").mkdir()
    listen = (f"127.0.0.1:{port}",)
    with Proxy(directory / "proxy", str(POLICY), f"127.0.0.1:{upstream}", arguments=options, listen=listen):  # type: ignore[no-untyped-call]
        yield


def printed_by_fluent_bit(agent: Agent) -> Records:
    lines = re.findall(r'^\{"date":.*\}$', agent.printed(), re.MULTILINE)
    return [{key: value for key, value in json.loads(text).items() if key != "date"} for text in lines]


def check(agent: Agent, log: AuditLog, came: Callable[[], Records], port: int | None = None) -> None:
    """Wait for what ``exec`` keeps of a log. With a port, the log is sent there, line by line."""
    try:
        expected = kept(log.lines, POLICY)
        if port is not None:
            agent.until(lambda: post(port, log.lines[0]))
            assert all(post(port, text) for text in log.lines[1:]), "a batch was refused"
        agent.until(
            lambda: len(came()) >= len(expected),
            lambda: f"{len(came())} of {len(expected)} records came\n{agent.logs()}",
        )
        assert came() == expected, "other records came than exec keeps"
    finally:
        agent.kill()


def post(port: int, body: bytes) -> bool:
    """Send a batch as kube-apiserver does; whether it was taken."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/kube.audit", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 200 <= answer.status < 300
    except OSError:  # it does not listen yet
        return False


if __name__ == "__main__":
    sys.exit(main(os.environ))
