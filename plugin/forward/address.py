"""Addresses of listeners and upstreams, as the command line takes them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..service.listen import Listen


class Address(NamedTuple):
    """Where to listen, or to connect to.

    Attributes:
        kind: the transport.
        host: a name or an IP address; for a ``unix`` address, the socket's path.
        port: the port; 0 for a ``unix`` address, and to listen on any free port.
    """

    kind: Literal["tcp", "tls", "unix"]
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``tls://host:port`` or ``unix:PATH``; an IPv6 address stands in brackets.

        Raises:
            ValueError: the text is none of these.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls("unix", text.removeprefix("unix:"), 0)
        try:
            listen = Listen.parse(text.removeprefix("tls://"))
        except ValueError:
            listen = None
        if listen is None or len(listen.ports) > 1:
            raise ValueError(
                f"expected host:port, tls://host:port or unix:PATH, such as 127.0.0.1:24224; found {text!r}"
            )
        return cls("tls" if text.startswith("tls://") else "tcp", listen.host, listen.ports[0])

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.host}"
        place = Listen(self.host, range(self.port, self.port + 1))
        return f"tls://{place}" if self.kind == "tls" else str(place)
