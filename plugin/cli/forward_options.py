"""Options of ``kube-audit-filter forward`` that are about connections, and what they say."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..forward.address import Address
from ..forward.protocol.handshake import ListenSecurity, UpstreamSecurity
from ..forward.protocol.tags import TagChange
from ..forward.tls import Certificate, client_context, server_context
from .options import all_options, byte_size, seconds

DEFAULT_LISTEN = "127.0.0.1:24224"


def addresses(_: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> list[Address]:
    """Addresses to listen on, or to connect to."""
    try:
        found = [Address.parse(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if parameter.name == "upstreams" and any(not a.port for a in found if a.kind != "unix"):
        raise click.BadParameter("port 0 is none to connect to")
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


def _seconds_option(name: str, default: float, text: str) -> Callable[[Any], Any]:
    callback = seconds if name == "--idle-timeout" else _some_seconds
    return click.option(
        name, type=float, callback=callback, default=default, show_default=True, metavar="SECONDS", help=text
    )


_file = click.Path(exists=True, dir_okay=False)

address_options = all_options(
    click.option(
        "--upstream",
        "upstreams",
        multiple=True,
        required=True,
        callback=addresses,
        metavar="ADDRESS",
        help="Where to send what is kept: host:port, tls://host:port or unix:PATH. Several: the first"
        " that is up gets it.",
    ),
    click.option(
        "--listen",
        "listen",
        multiple=True,
        default=[DEFAULT_LISTEN],
        show_default=True,
        callback=addresses,
        metavar="ADDRESS",
        help="Where clients connect; the same kinds of addresses. May be repeated.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Listen without TLS and without a shared key where other machines can connect.",
    ),
)

listen_options = all_options(
    click.option("--tls-cert", type=_file, metavar="FILE", help="The listener's certificate, PEM."),
    click.option("--tls-key", type=_file, metavar="FILE", help="Its key, if that is not in the same file."),
    click.option(
        "--tls-client-ca",
        type=_file,
        metavar="FILE",
        help="Let only clients connect that show a certificate of these authorities.",
    ),
    click.option(
        "--shared-key-file",
        type=_file,
        metavar="FILE",
        help="Let only clients connect that know the key in this file.",
    ),
    click.option(
        "--users-file",
        type=_file,
        metavar="FILE",
        help="Let only users connect that this file names: a line user:password each. Needs"
        " --shared-key-file.",
    ),
    click.option(
        "--socket-mode",
        default="0660",
        show_default=True,
        callback=_mode,
        metavar="MODE",
        help="Who may connect to a Unix socket.",
    ),
    click.option(
        "--self-hostname",
        metavar="NAME",
        help="The name to go by in handshakes. Agents refuse a peer of their own name.  [default:"
        " kube-audit-filter.HOSTNAME]",
    ),
)

upstream_options = all_options(
    click.option(
        "--upstream-tls-ca",
        type=_file,
        metavar="FILE",
        help="The authorities of the upstreams' certificates.  [default: those of this machine]",
    ),
    click.option(
        "--upstream-tls-cert", type=_file, metavar="FILE", help="The certificate to show to upstreams."
    ),
    click.option(
        "--upstream-tls-key", type=_file, metavar="FILE", help="Its key, if that is not in the same file."
    ),
    click.option(
        "--upstream-tls-server-name",
        metavar="NAME",
        help="The name that the upstreams' certificates have to be for.  [default: the host of --upstream]",
    ),
    click.option(
        "--upstream-tls-no-verify",
        is_flag=True,
        help="Take any certificate: whoever is between here and the upstream can read and change all.",
    ),
    click.option(
        "--upstream-shared-key-file",
        type=_file,
        metavar="FILE",
        help="The key that upstreams share with us.",
    ),
    click.option("--upstream-user", metavar="NAME", help="The user to be, for upstreams that want one."),
    click.option("--upstream-password-file", type=_file, metavar="FILE", help="That user's password."),
)

tag_options = all_options(
    click.option("--tag", metavar="TAG", help="Send all messages on with this tag."),
    click.option(
        "--tag-prefix-remove",
        metavar="TEXT",
        help="Take this off the beginning of tags, where it is there: 'raw.' makes raw.audit audit.",
    ),
    click.option(
        "--tag-prefix-add",
        metavar="TEXT",
        help="Put this in front of tags: 'filtered.' makes audit filtered.audit.",
    ),
    click.option(
        "--compat",
        type=click.Choice(["fluentd", "fluent-bit"]),
        help="What the servers are. fluentd: leave out the metadata that Fluent Bit sends with each record;"
        " Fluentd up to 1.19 throws such records away. fluent-bit: they read it, and no warning is needed.",
    ),
)

bound_options = all_options(
    click.option(
        "--max-message-size",
        callback=byte_size(1024),
        default="64M",
        show_default=True,
        metavar="BYTES",
        help="A client that sends a larger message is sent away.",
    ),
    click.option(
        "--max-decompressed-size",
        callback=byte_size(1024),
        default="256M",
        show_default=True,
        metavar="BYTES",
        help="A client whose compressed message is larger when decompressed is sent away.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(1, 100_000),
        default=256,
        show_default=True,
        metavar="COUNT",
        help="Clients at a time; more are sent away.",
    ),
    _seconds_option("--idle-timeout", 600, "Send a client away that is silent for so long; 0: never."),
    _seconds_option(
        "--handshake-timeout", 10, "For a client to finish TLS and handshake, and for us with an upstream."
    ),
    _seconds_option("--ack-timeout", 60, "For an upstream to acknowledge a message."),
    _seconds_option(
        "--retry-timeout",
        120,
        "Try for so long to have a message acknowledged; then the client is sent away, and keeps it.",
    ),
)


def listen_security(
    shared_key_file: str | None, users_file: str | None, name: str | None
) -> ListenSecurity | None:
    """What clients have to know. Raises click.BadParameter."""
    if shared_key_file is None:
        if users_file is not None:
            raise click.UsageError("--users-file needs --shared-key-file")
        return None
    users = {} if users_file is None else _users(users_file)
    return ListenSecurity(_secret(shared_key_file), _hostname(name), users)


def upstream_security(
    shared_key_file: str | None, user: str | None, password_file: str | None, name: str | None
) -> UpstreamSecurity | None:
    """What to tell upstreams. Raises click.BadParameter."""
    if (user is None) != (password_file is None):
        raise click.UsageError("--upstream-user and --upstream-password-file go together")
    if shared_key_file is None:
        if user is not None:
            raise click.UsageError("--upstream-user needs --upstream-shared-key-file")
        return None
    password = b"" if password_file is None else _secret(password_file)
    return UpstreamSecurity(_secret(shared_key_file), _hostname(name), (user or "").encode(), password)


def listen_tls(
    listen: Sequence[Address], certificate: Certificate | None, client_ca: str | None
) -> ssl.SSLContext | None:
    """The context for TLS listeners. Raises click.UsageError."""
    is_needed = any(address.kind == "tls" for address in listen)
    if certificate is None:
        if is_needed:
            raise click.UsageError("a tls:// address to listen on needs --tls-cert")
        if client_ca is not None:
            raise click.UsageError("--tls-client-ca is of use only with --listen tls://host:port")
        return None
    if not is_needed:
        raise click.UsageError("--tls-cert is of use only with --listen tls://host:port")
    return _usable(lambda: server_context(certificate, client_ca))


def upstream_tls(
    upstreams: Sequence[Address], ca: str | None, certificate: Certificate | None, *, verify: bool
) -> ssl.SSLContext | None:
    """The context for TLS upstreams. Raises click.UsageError."""
    if any(address.kind == "tls" for address in upstreams):
        return _usable(lambda: client_context(ca, certificate, verify=verify))
    if ca is not None or certificate is not None or not verify:
        raise click.UsageError("--upstream-tls-… is of use only with --upstream tls://host:port")
    return None


def check_exposure(listen: Sequence[Address], security: ListenSecurity | None, *, insecure: bool) -> None:
    """Refuse to listen where anybody could send anything. Raises click.UsageError."""
    if insecure or security is not None:
        return
    for address in listen:
        try:
            is_local = address.is_local()
        except OSError as error:
            raise click.UsageError(f"--listen {address}: {error.strerror}") from None
        if address.kind != "tls" and not is_local:
            raise click.UsageError(
                f"--listen {address}: other machines can connect there, and anybody on them could send"
                " records. Use tls://, or --shared-key-file, or say --insecure"
            )


def certificate(cert: str | None, key: str | None, prefix: str) -> Certificate | None:
    """A certificate that options name. Raises click.UsageError."""
    if cert is None:
        if key is not None:
            raise click.UsageError(f"--{prefix}key needs --{prefix}cert")
        return None
    return Certificate(cert, key)


def tag_change(tag: str | None, remove: str | None, add: str | None) -> TagChange | None:
    """What becomes of tags. Raises click.UsageError."""
    if tag is None and remove is None and add is None:
        return None
    if tag is not None and (remove is not None or add is not None):
        raise click.UsageError("--tag replaces the whole tag: it does not go together with --tag-prefix-…")
    if tag == "":
        raise click.UsageError("--tag: a tag can't be empty")
    return TagChange(_bytes(remove or ""), _bytes(add or ""), None if tag is None else _bytes(tag))


def _bytes(text: str) -> bytes:
    """What stood on the command line, UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")


def _usable(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    try:
        return make()
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _hostname(name: str | None) -> bytes:
    return (name or f"kube-audit-filter.{socket.gethostname()}").encode()


def _secret(path: str) -> bytes:
    """A file's content without the newline that an editor puts behind it."""
    secret = Path(path).read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise click.UsageError(f"{path}: it is empty, and no secret")
    return secret


def _users(path: str) -> dict[bytes, bytes]:
    users = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        user, colon, password = line.partition(b":")
        if not (user and colon and password):
            raise click.UsageError(f"{path}:{number}: expected user:password")
        if user in users:
            raise click.UsageError(f"{path}:{number}: this user is there twice")
        users[user] = password
    if not users:
        raise click.UsageError(f"{path}: there is no user:password in it")
    return users
