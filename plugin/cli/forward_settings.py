"""Settings of ``forward`` from the command line: one object for each group of options that only it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..forward.address import Address
from ..forward.protocol.message_filter import Compat
from .settings import FilterSettings


@dataclass(frozen=True)
class ListenSettings:
    """Where clients of the proxy connect, and what they have to show. Files are named here, not read.

    Attributes:
        addresses: the addresses to listen on.
        insecure: whether anybody may connect from other machines.
        udp_heartbeat: whether to answer Fluentd's UDP heartbeats.
        tls_cert: the file of the certificate for ``tls`` addresses; None if there are no such addresses.
        tls_key: the file of its key, if the key is not in the certificate's file.
        tls_client_ca: the file of the authorities that sign clients' certificates; None if clients need no
            certificate.
        shared_key_file: the file of the key that clients have to know; None for no handshake.
        users_file: the file of the users that may connect; None for no users.
        socket_mode: the file mode of Unix sockets.
        self_hostname: the proxy's name in handshakes, with upstreams too; None for the default name.
    """

    addresses: Sequence[Address]
    insecure: bool
    udp_heartbeat: bool
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    shared_key_file: str | None
    users_file: str | None
    socket_mode: int
    self_hostname: str | None


@dataclass(frozen=True)
class UpstreamSettings:
    """Where the proxy sends messages, and what it shows there. Files are named here, not read.

    Attributes:
        addresses: the servers' addresses, the preferred one first.
        tls_ca: the file of the authorities that sign the servers' certificates; None for the authorities
            that this machine trusts.
        tls_cert: the file of the certificate to show; None for no certificate.
        tls_key: the file of its key, if the key is not in the certificate's file.
        tls_server_name: the name that the servers' certificates have to be for; None for the host of the
            address.
        tls_no_verify: whether any certificate is accepted.
        shared_key_file: the file of the key that servers know; None for no handshake.
        user: the user's name, for servers that have users.
        password_file: the file of that user's password.
    """

    addresses: Sequence[Address]
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_server_name: str | None
    tls_no_verify: bool
    shared_key_file: str | None
    user: str | None
    password_file: str | None


@dataclass(frozen=True)
class TagSettings:
    """How tags are changed. None in a field means that the option was not given.

    Attributes:
        tag: the new tag of all messages.
        prefix_remove: the text to remove from the beginning of tags.
        prefix_add: the text to put in front of tags.
    """

    tag: str | None
    prefix_remove: str | None
    prefix_add: str | None


@dataclass(frozen=True)
class TimeoutSettings:
    """How long the proxy waits, in seconds.

    Attributes:
        idle: for a client that sends nothing; with 0, for ever.
        handshake: for TLS and handshake.
        ack: for a server to acknowledge a message.
        retry: for all attempts to have a message acknowledged, together.
    """

    idle: float
    handshake: float
    ack: float
    retry: float


@dataclass(frozen=True)
class ForwardSettings(FilterSettings):
    """What ``forward`` takes.

    Attributes:
        compat: what the servers are; for ``fluentd``, metadata and group markers are left out, which Fluentd
            can't read.
        max_message_size: the most bytes of a message as it comes.
        max_decompressed_size: the most bytes of a compressed message when it is decompressed.
        max_entries: the most entries of a message.
        max_in_flight: the most bytes that the messages of all clients may hold; None for a quarter of the
            memory of the container or machine.
        max_handshakes: the most clients at a time that have not finished TLS and handshake.
        max_connections: the most clients at a time that have finished it.
    """

    listen: ListenSettings
    upstream: UpstreamSettings
    tags: TagSettings
    compat: Compat | None
    timeouts: TimeoutSettings
    max_message_size: int
    max_decompressed_size: int
    max_entries: int
    max_in_flight: int | None
    max_handshakes: int
    max_connections: int
