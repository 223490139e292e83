"""The addresses that the proxy itself listens on, to recognise an upstream that leads back to it."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class OwnAddresses:
    """Where the proxy listens. Messages sent to itself would go round until all connections are taken."""

    def __init__(self) -> None:
        self._bound: set[tuple[IPAddress, int]] = set()
        self._paths: set[str] = set()

    def add(self, listener: socket.socket) -> None:
        """Remember the address of a bound TCP socket."""
        host, port = listener.getsockname()[:2]
        self._bound.add((_address(host), port))

    def add_path(self, path: str) -> None:
        """Remember the path of a Unix socket."""
        self._paths.add(os.path.realpath(path))

    def has_path(self, path: str) -> bool:
        """Whether a path leads to a Unix socket of the proxy."""
        return os.path.realpath(path) in self._paths

    def include(self, peer: tuple[Any, ...]) -> bool:
        """Whether a connection to an address would be one to the proxy itself.

        Args:
            peer: host (an IP address) and port, as ``getaddrinfo`` and ``getpeername`` return them.
        """
        host = _address(peer[0])
        if host.is_unspecified:  # connecting there leads to this machine
            host = ipaddress.ip_address("127.0.0.1" if host.version == 4 else "::1")
        if (host, peer[1]) in self._bound:
            return True
        # Listeners take the two families apart: "::" is not open to IPv4.
        wildcard = ipaddress.ip_address("0.0.0.0" if host.version == 4 else "::")
        return (wildcard, peer[1]) in self._bound and _is_of_this_machine(host, peer)


def _address(host: str) -> IPAddress:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _is_of_this_machine(host: IPAddress, peer: tuple[Any, ...]) -> bool:
    """Whether an address is one of this machine's: only these can be bound."""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(host), 0, *(peer[2:] if host.version == 6 else ())))
        except OSError:
            return False
    return True
