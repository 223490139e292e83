"""Asks a filter on this machine how it is: for probes that run in its container.

    python3 -m kube_audit_filter.service.probe 127.0.0.1:9118/healthz

Kubernetes' own HTTP probes come from outside of the pod, so that what they ask has to be open to others, and
whoever keeps them from being answered has the container restarted. This one asks on the loopback address. It
imports nothing but sockets: a probe is a process, and runs every few seconds.
"""

from __future__ import annotations

import socket
import sys

# Seconds to connect, and for each piece of the answer. The kubelet ends what takes longer in all.
TIMEOUT = 2.0
_MAX_ANSWER = 4096


def ask(target: str) -> tuple[bool, str]:
    """Whether a filter answers with 200, and its answer, or why there is none.

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
