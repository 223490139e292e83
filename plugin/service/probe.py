"""Asks a filter for its health. This is for probes that run in the filter's container.

    python3 -m kube_audit_filter.service.probe 127.0.0.1:9118/healthz

Kubernetes' own HTTP probes come from outside of the pod, so the port that they ask has to be open to others.
Anyone who can keep them from being answered can have the container restarted. This probe asks on the loopback
address. It imports nothing but sockets, because each probe is a process, and one runs every few seconds.
"""

from __future__ import annotations

import socket
import sys

# Seconds to connect, and for each piece of the answer. The kubelet ends a probe that takes longer in all.
TIMEOUT = 2.0
_MAX_ANSWER = 4096


def ask(target: str) -> tuple[bool, str]:
    """Whether a filter answers with 200, and its answer or the reason why there is none.

    Args:
        target: ``HOST:PORT/PATH``.
    """
    address, slash, path = target.partition("/")
    host, _, port = address.rpartition(":")
    if not (host and slash and port.isdecimal()):
        return False, f"expected HOST:PORT/PATH, such as 127.0.0.1:9118/healthz; found {target!r}"
    answer = b""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            while len(answer) < _MAX_ANSWER and (piece := connection.recv(_MAX_ANSWER)):
                answer += piece
    except (OSError, OverflowError) as error:
        return False, f"{address}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ")[1:2] == [b"200"], body.decode(errors="replace").strip() or f"{address}: no answer"


if __name__ == "__main__":
    is_well, said = ask("".join(sys.argv[1:]))
    print(said)  # the kubelet shows it
    sys.exit(0 if is_well else 1)
