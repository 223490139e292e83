"""What the command line of ``forward`` said: one object for each group of options that only it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..forward.address import Address
from ..forward.protocol.message_filter import Compat
from .settings import FilterSettings


@dataclass(frozen=True)
class ListenSettings:
    """Where clients of the proxy connect, and what they have to show; files are named, not read.

    Attributes:
        addresses: where to listen.
        insecure: whether anybody may connect from other machines.
        udp_heartbeat: whether to answer Fluentd's UDP heartbeats.
        tls_cert: the certificate for ``tls`` addresses; None: there are no such addresses.
        tls_key: the key, if it is not in the certificate's file.
        tls_client_ca: authorities, one of which has to have signed a client's certificate; None:
            clients need none.
        shared_key_file: has the key that clients have to know; None: there is no handshake.
        users_file: has the users that may connect; None: there are no users.
        socket_mode: the file mode of Unix sockets.
        self_hostname: the proxy's name in handshakes, with upstreams too; None: the default one.
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
    """Where the proxy sends messages, and what it shows there; files are named, not read.

    Attributes:
        addresses: of the servers, the preferred one first.
        tls_ca: authorities that sign the servers' certificates; None: those of this machine.
        tls_cert: the certificate to show; None: none.
        tls_key: the key, if it is not in the certificate's file.
        tls_server_name: the name that the servers' certificates have to be for; None: that of the
            address.
        tls_no_verify: whether any certificate is accepted.
        shared_key_file: has the key that servers know; None: there is no handshake.
        user: the user name for servers that want one.
        password_file: has that user's password.
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
    """What becomes of tags; None: nothing.

    Attributes:
        tag: the tag of all messages.
        prefix_remove: what to take off the beginning of tags.
        prefix_add: what to put in front of tags.
    """

    tag: str | None
    prefix_remove: str | None
    prefix_add: str | None


@dataclass(frozen=True)
class TimeoutSettings:
    """How long the proxy waits, in seconds.

    Attributes:
        idle: for a client that sends nothing; 0: for ever.
        handshake: for TLS and handshake.
        ack: for a server to acknowledge a message.
        retry: for all attempts to have a message acknowledged.
    """

    idle: float
    handshake: float
    ack: float
    retry: float


@dataclass(frozen=True)
class ForwardSettings(FilterSettings):
    """What ``forward`` takes.

    Attributes:
        compat: ``fluentd``: leave out what Fluentd can't read.
        max_message_size: bytes of a message as it comes.
        max_decompressed_size: bytes of a compressed message.
        max_entries: entries of a message.
        max_in_flight: bytes of the messages of all clients; None: a quarter of the memory there is.
        max_handshakes: clients at a time that have not finished TLS and handshake.
        max_connections: clients at a time that have.
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
