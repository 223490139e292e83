"""Addresses to listen on, as the command line takes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket


class Listen(NamedTuple):
    """A host, and a range of its ports."""

    host: str
    ports: range

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read ``HOST:PORT`` or ``HOST:FIRST-LAST``; an IPv6 address stands in brackets.

        Raises:
            ValueError: the text is not an address with a port.
        """
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:]+):([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
        if match is not None:
            first = int(match[2])
            last = first if match[3] is None else int(match[3])
            if first <= last < 1 << 16:
                return cls(match[1].strip("[]"), range(first, last + 1))
        raise ValueError(f"expected HOST:PORT or HOST:PORT-PORT, such as 127.0.0.1:9117, found {text!r}")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        last = f"-{self.ports[-1]}" if len(self.ports) > 1 else ""
        return f"{host}:{self.ports[0]}{last}"


def is_local(bound: socket.socket) -> bool:
    """Whether nobody on another machine can reach a socket.

    The address that the socket was bound to decides, not the text that the user wrote: only the resolver
    knows what ``*``, ``0`` and names mean.
    """
    # exec reads the class above at its start, and needs neither of these there.
    import ipaddress  # noqa: PLC0415
    import socket  # noqa: PLC0415

    if bound.family == socket.AF_UNIX:
        return True
    address = ipaddress.ip_address(bound.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (address if mapped is None else mapped).is_loopback
