"""The options that only ``kube-audit-filter forward`` has."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..forward.address import Address
from ..forward.protocol.message import MAX_ENTRIES
from ..forward.session import MAX_HANDSHAKES
from .forward_settings import ListenSettings, TagSettings, TimeoutSettings, UpstreamSettings
from .groups import OptionGroup
from .options import (
    DRY_RUN,
    EVENT_KEY,
    REDUCE,
    SPLIT,
    Callback,
    byte_size,
    seconds,
    shutdown_options,
)
from .settings import RecordSettings

DEFAULT_LISTEN = "127.0.0.1:24224"


def addresses(_: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> list[Address]:
    """Addresses to listen on, or to connect to."""
    try:
        found = [Address.parse(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if parameter.name == "upstream_addresses" and any(not a.port for a in found if a.kind != "unix"):
        raise click.BadParameter("port 0 can't be connected to")
    return found


def _mode(_: click.Context, __: click.Parameter, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"expected a file mode in octal digits, such as 0660; found {text!r}")
    return mode


def _some_seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if value == 0:
        raise click.BadParameter("expected seconds, more than 0")
    return seconds(context, parameter, value)


def _seconds_option(name: str, default: float, text: str, callback: Callback = _some_seconds) -> click.Option:
    return click.Option(
        [f"--{name}-timeout", name],
        type=float,
        callback=callback,
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


_file = click.Path(exists=True, dir_okay=False)

LISTEN = OptionGroup(
    "Clients",
    [
        click.Option(
            ["--listen", "listen_addresses"],
            multiple=True,
            default=[DEFAULT_LISTEN],
            show_default=True,
            callback=addresses,
            metavar="ADDRESS",
            help="Where clients connect: host:port, tls://host:port or unix:PATH. The option may be"
            " repeated.",
        ),
        click.Option(
            ["--shared-key-file"],
            type=_file,
            metavar="FILE",
            help="A file with the shared key. Only clients that know the key can connect.",
        ),
        click.Option(
            ["--users-file"],
            type=_file,
            metavar="FILE",
            help="A file with one user:password per line. Only these users can connect. This option needs"
            " --shared-key-file.",
        ),
        click.Option(
            ["--tls-cert"],
            type=_file,
            metavar="FILE",
            help="The certificate that tls:// addresses of --listen present, PEM.",
        ),
        click.Option(
            ["--tls-key"],
            type=_file,
            metavar="FILE",
            help="The key of that certificate, if it is not in the same file.",
        ),
        click.Option(
            ["--tls-client-ca"],
            type=_file,
            metavar="FILE",
            help="A file of certificate authorities. Only clients that present a certificate of one of them"
            " can connect to tls:// addresses.",
        ),
        click.Option(
            ["--insecure"],
            is_flag=True,
            help="Listen where other machines can connect although clients need neither a shared key nor a"
            " certificate. Anybody who can connect can then forge records and use up the connections.",
        ),
        click.Option(
            ["--udp-heartbeat", "listen_udp_heartbeat"],
            is_flag=True,
            help="Answer the UDP heartbeats of Fluentd (heartbeat_type udp) on the port numbers of --listen."
            " Heartbeats need no key: anybody who reaches the port gets an answer.",
        ),
        click.Option(
            ["--socket-mode"],
            default="0660",
            show_default=True,
            callback=_mode,
            metavar="MODE",
            help="The file mode of the Unix sockets that --listen creates. It says who can connect.",
        ),
        click.Option(
            ["--self-hostname"],
            metavar="NAME",
            help="The proxy's own name in handshakes, with clients and with upstreams. Agents and the proxy"
            " refuse a peer that has their own name.  [default: kube-audit-filter.HOSTNAME]",
        ),
    ],
    "listen",
    ListenSettings,
)

UPSTREAM = OptionGroup(
    "Upstreams",
    [
        click.Option(
            ["--upstream", "upstream_addresses"],
            multiple=True,
            required=True,
            callback=addresses,
            metavar="ADDRESS",
            help="Where to send kept records: host:port, tls://host:port or unix:PATH. The option may be"
            " repeated: the first upstream that is up gets the records.",
        ),
        click.Option(
            ["--upstream-shared-key-file"],
            type=_file,
            metavar="FILE",
            help="A file with the shared key of the upstreams.",
        ),
        click.Option(
            ["--upstream-user"], metavar="NAME", help="The user name for upstreams that ask for a user."
        ),
        click.Option(
            ["--upstream-password-file"],
            type=_file,
            metavar="FILE",
            help="A file with the password of that user.",
        ),
        click.Option(
            ["--upstream-tls-ca"],
            type=_file,
            metavar="FILE",
            help="A file of certificate authorities, one of which has to have signed the upstream's"
            " certificate.  [default: the authorities of this machine]",
        ),
        click.Option(
            ["--upstream-tls-cert"],
            type=_file,
            metavar="FILE",
            help="The certificate that is presented to upstreams, PEM.",
        ),
        click.Option(
            ["--upstream-tls-key"],
            type=_file,
            metavar="FILE",
            help="The key of that certificate, if it is not in the same file.",
        ),
        click.Option(
            ["--upstream-tls-server-name"],
            metavar="NAME",
            help="The name that the upstreams' certificates have to be issued for.  [default: the host of"
            " --upstream]",
        ),
        click.Option(
            ["--upstream-tls-no-verify"],
            is_flag=True,
            help="Accept any certificate of an upstream. Anybody between this machine and the upstream can"
            " then read and change all records.",
        ),
    ],
    "upstream",
    UpstreamSettings,
)

RECORDS = OptionGroup("Records", [EVENT_KEY, REDUCE, SPLIT, DRY_RUN], "records", RecordSettings)

COMPAT = OptionGroup(
    "Records",
    [
        click.Option(
            ["--compat"],
            type=click.Choice(["fluentd", "fluent-bit"]),
            help="What the upstreams are. fluentd: leave out the metadata that Fluent Bit sends with each"
            " record, because Fluentd up to 1.19 throws such records away. fluent-bit: the upstreams read"
            " metadata, and no warning is needed.",
        )
    ],
)

TAGS = OptionGroup(
    "Tags",
    [
        click.Option(["--tag"], metavar="TAG", help="Send all messages with this tag."),
        click.Option(
            ["--tag-prefix-remove", "tags_prefix_remove"],
            metavar="TEXT",
            help="Remove this text from the beginning of tags that begin with it: 'raw.' changes raw.audit"
            " to audit.",
        ),
        click.Option(
            ["--tag-prefix-add", "tags_prefix_add"],
            metavar="TEXT",
            help="Put this text in front of tags: 'filtered.' changes audit to filtered.audit.",
        ),
    ],
    "tags",
    TagSettings,
)

TIMEOUTS = OptionGroup(
    "Timeouts",
    [
        _seconds_option("ack", 60, "How long an upstream may take to acknowledge a message."),
        _seconds_option(
            "retry",
            120,
            "How long to try to have a message acknowledged. After that the client is disconnected and"
            " keeps the message.",
        ),
        _seconds_option(
            "handshake",
            10,
            "How long TLS and the handshake may take, with a client or with an upstream.",
        ),
        _seconds_option(
            "idle",
            600,
            "Disconnect a client that has sent nothing for this time. With 0 it stays connected.",
            seconds,
        ),
    ],
    "timeouts",
    TimeoutSettings,
)

PROXY_LIMITS = OptionGroup(
    "Limits",
    [
        click.Option(
            ["--max-connections"],
            type=click.IntRange(1, 100_000),
            default=256,
            show_default=True,
            metavar="COUNT",
            help="How many clients can be connected at a time. Further clients are disconnected.",
        ),
        click.Option(
            ["--max-message-size"],
            callback=byte_size(1024),
            default="64M",
            show_default=True,
            metavar="BYTES",
            help="The size of the largest message. A client that sends a larger one is disconnected.",
        ),
        click.Option(
            ["--max-decompressed-size"],
            callback=byte_size(1024),
            default="256M",
            show_default=True,
            metavar="BYTES",
            help="The size of the largest compressed message when it is decompressed. A client that sends a"
            " larger one is disconnected.",
        ),
        click.Option(
            ["--max-entries"],
            type=click.IntRange(1, 1 << 24),
            default=MAX_ENTRIES,
            show_default=True,
            metavar="COUNT",
            help="How many entries a message may have. A packed message with more goes on undecided. A client"
            " that sends more in Forward mode is disconnected.",
        ),
        click.Option(
            ["--max-in-flight"],
            callback=byte_size(1 << 20, 1 << 40),
            metavar="BYTES",
            help="How much memory the messages of all clients may take, beside one message that is to be"
            " completed. While it is used up, clients are not read from.  [default: a quarter of the memory"
            " of the container or the machine]",
        ),
        click.Option(
            ["--max-handshakes"],
            type=click.IntRange(1, 100_000),
            default=MAX_HANDSHAKES,
            show_default=True,
            metavar="COUNT",
            help="How many clients may be about to finish TLS and handshake. For one more, the oldest of them"
            " is disconnected.",
        ),
    ],
)

SHUTDOWN = shutdown_options(
    20.0,
    "After SIGTERM or SIGINT, go on for up to this time to deliver the messages that are in flight.",
)
