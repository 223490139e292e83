"""``make hostile``: what hostile input costs, as the table in docs/limits.md has it.

Every row is a real process: peak memory above that of an idle one, CPU, and, for the proxy, the longest time
that another client waited for an acknowledgement meanwhile. Peak memory and CPU come from the kernel.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.filter_engine.loading.hostile_documents import DOCUMENTS
from tests.support import KEPT, POLICY
from tests.support.bombs import small_bombs
from tests.support.forward_peers import Client, Proxy, Receiver, entry, packed
from tests.support.hostile_records import RECORDS, cost_of
from tests.support.processes import status_of

MIB = 1 << 20
# Seconds that a row may take.
_PATIENCE = 60.0


class Row(NamedTuple):
    """What one input costs.

    Attributes:
        input: what it is.
        size: its bytes.
        memory: bytes at the peak, above those of an idle process.
        cpu: seconds.
        pause: seconds that another client waited at most; None where there are no others.
    """

    input: str
    size: int
    memory: int
    cpu: float
    pause: float | None = None

    def __str__(self) -> str:
        pause = "" if self.pause is None else f"{self.pause * 1000:,.0f} ms"
        size = f"{self.size / MIB:.1f} MiB" if self.size >= MIB // 10 else f"{self.size / 1024:.1f} KiB"
        return f"| {self.input} | {size} | {self.memory / MIB:,.0f} MiB | {self.cpu:.1f} s | {pause} |"


def record_rows(directory: Path, policy: Path) -> Iterator[Row]:
    """Records, through ``exec``."""
    path = directory / "record"
    path.write_bytes(b"")
    idle_memory, idle_cpu = cost_of(str(policy), path)
    for name, (make, options) in RECORDS.items():
        path.write_bytes(make())
        memory, cpu = cost_of(str(policy), path, *options)
        yield Row(f"record: {name}", path.stat().st_size, memory - idle_memory, max(0.0, cpu - idle_cpu))


def policy_rows(directory: Path) -> Iterator[Row]:
    """Policies, as ``exec`` reads them."""
    nothing, path = directory / "nothing", directory / "hostile.yaml"
    nothing.write_bytes(b"")
    path.write_text(POLICY)
    idle_memory, idle_cpu = cost_of(str(path), nothing, expected=None)
    for name, make in DOCUMENTS.items():
        text = make(200_000)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        memory, cpu = cost_of(str(path), nothing, expected=None)
        yield Row(f"policy: {name}", path.stat().st_size, memory - idle_memory, max(0.0, cpu - idle_cpu))


def message_rows(directory: Path, policy: Path) -> Iterator[Row]:
    """Messages, through ``forward``, beside another client."""
    for name, message in small_bombs().items():
        with Receiver() as receiver, Proxy(directory, str(policy), receiver.address) as proxy:
            with Client(proxy.address) as other:
                acknowledge(other)
                memory, cpu = status_of(proxy.process, "VmHWM") << 10, cpu_of(proxy.process)
                pause = longest_wait(proxy, other, message)
            peak = (status_of(proxy.process, "VmHWM") << 10) - memory
            yield Row(f"message: {name}", len(message), peak, cpu_of(proxy.process) - cpu, pause)


def acknowledge(client: Any) -> float:
    """Send a message and wait for its acknowledgement; returns the seconds."""
    began = time.monotonic()
    client.send(packed("t", [entry(KEPT)], chunk="abc"))
    client.answer()
    return time.monotonic() - began


def longest_wait(proxy: Any, other: Any, message: bytes) -> float:
    """How long another client waits at most while the proxy works on a message."""
    with Client(proxy.address) as attacker:
        attacker.socket.settimeout(_PATIENCE)

        def attack() -> None:
            with contextlib.suppress(OSError, EOFError):
                attacker.send(message)
                attacker.send(packed("t", [entry(KEPT)], chunk="end"))
                attacker.socket.shutdown(1)
                while attacker.socket.recv(1 << 16):
                    pass

        attacking = threading.Thread(target=attack, daemon=True)
        attacking.start()
        longest = acknowledge(other)
        while attacking.is_alive():
            longest = max(longest, acknowledge(other))
    return longest


def cpu_of(process: Any) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    """Print the table, row by row."""
    print("| input | bytes | peak memory above idle | CPU | longest wait of another client |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        policy = directory / "policy.yaml"
        policy.write_text(POLICY)
        for rows in (record_rows(directory, policy), policy_rows(directory), message_rows(directory, policy)):
            for row in rows:
                print(row, flush=True)


if __name__ == "__main__":
    main()
