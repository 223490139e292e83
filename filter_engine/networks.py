"""Sets of IP addresses, for ``sourceIPs``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# Where IPv4 addresses are in IPv6 (RFC 4291, 2.5.5.2). kube-apiserver may record an IPv4 client so.
_MAPPED = int(IPv6Address("::ffff:0:0"))


class Networks:
    """A set of addresses, IPv4 and IPv6.

    Args:
        networks: addresses, and networks as an address and the length of its prefix (CIDR): ``10.0.0.0/8``.

    Raises:
        ValueError: a text is neither; its message says what is wrong.

    Attributes:
        prefixes: the networks as IPv6, by length of the prefix: their first addresses as numbers. An IPv4
            network stands as its mapped IPv6 network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self.prefixes: dict[int, set[int]] = {}
        for text in networks:
            first, length = _network(text)
            self.prefixes.setdefault(length, set()).add(first)

    def have_all(self, addresses: Sequence[str]) -> bool:
        """Whether there are addresses, and each is in one of the networks. Other text is in none."""
        return bool(addresses) and all(map(self._has, addresses))

    def _has(self, address: str) -> bool:
        number = _number(address)
        return number is not None and any(
            number >> (128 - length) << (128 - length) in firsts for length, firsts in self.prefixes.items()
        )


def _network(text: str) -> tuple[int, int]:
    """The first address of a network and the length of its prefix, as IPv6."""
    network = ip_network(text)
    first = int(network.network_address)
    if isinstance(network, IPv6Network):
        return first, network.prefixlen
    return _MAPPED + first, 96 + network.prefixlen


def _number(text: str) -> int | None:
    """An address as a number, of IPv6."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return None
    return int(address) if isinstance(address, IPv6Address) else _MAPPED + int(address)
