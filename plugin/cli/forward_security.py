"""Makes keys, certificates and tag changes from the options of ``kube-audit-filter forward``."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import click

from ..forward.protocol.handshake import ListenSecurity, Salts, UpstreamSecurity
from ..forward.protocol.tags import TagChange
from ..forward.tls import TLS, Certificate, client_context, server_context
from .forward_settings import ListenSettings, TagSettings, UpstreamSettings


def listen_security(listen: ListenSettings, salts: Salts) -> ListenSecurity | None:
    """What clients have to know; no client may use one of ``salts``. Raises click.UsageError."""
    if listen.shared_key_file is None:
        if listen.users_file is not None:
            raise click.UsageError("--users-file needs --shared-key-file")
        return None
    users = {} if listen.users_file is None else _users(listen.users_file)
    return ListenSecurity(_secret(listen.shared_key_file), _hostname(listen.self_hostname), users, salts)


def upstream_security(
    upstream: UpstreamSettings, self_hostname: str | None, salts: Salts
) -> UpstreamSecurity | None:
    """What the proxy tells upstreams in the handshake. Raises click.UsageError."""
    if (upstream.user is None) != (upstream.password_file is None):
        raise click.UsageError("--upstream-user and --upstream-password-file go together")
    if upstream.shared_key_file is None:
        if upstream.user is not None:
            raise click.UsageError("--upstream-user needs --upstream-shared-key-file")
        return None
    password = b"" if upstream.password_file is None else _secret(upstream.password_file)
    return UpstreamSecurity(
        _secret(upstream.shared_key_file),
        _hostname(self_hostname),
        (upstream.user or "").encode(),
        password,
        salts,
    )


def listen_tls(listen: ListenSettings, certificate: Certificate | None) -> TLS | None:
    """TLS for listeners. Raises click.UsageError."""
    is_needed = any(address.kind == "tls" for address in listen.addresses)
    if certificate is None:
        if is_needed:
            raise click.UsageError("a tls:// address to listen on needs --tls-cert")
        if listen.tls_client_ca is not None:
            raise click.UsageError("--tls-client-ca is of use only with --listen tls://host:port")
        return None
    if not is_needed:
        raise click.UsageError("--tls-cert is of use only with --listen tls://host:port")
    return _usable(lambda: server_context(certificate, listen.tls_client_ca))


def upstream_tls(upstream: UpstreamSettings, certificate: Certificate | None) -> TLS | None:
    """TLS for upstreams. Raises click.UsageError."""
    verify = not upstream.tls_no_verify
    if any(address.kind == "tls" for address in upstream.addresses):
        return _usable(lambda: client_context(upstream.tls_ca, certificate, verify=verify))
    if upstream.tls_ca is not None or certificate is not None or not verify:
        raise click.UsageError("--upstream-tls-… is of use only with --upstream tls://host:port")
    return None


def certificate(settings: ListenSettings | UpstreamSettings, prefix: str) -> Certificate | None:
    """The certificate that the options name. Option names begin with ``prefix``. Raises click.UsageError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None:
        if key is not None:
            raise click.UsageError(f"--{prefix}key needs --{prefix}cert")
        return None
    return Certificate(cert, key)


def tag_change(tags: TagSettings) -> TagChange | None:
    """How tags are changed; None if they are not. Raises click.UsageError."""
    tag, remove, add = tags.tag, tags.prefix_remove, tags.prefix_add
    if tag is None and remove is None and add is None:
        return None
    if tag is not None and (remove is not None or add is not None):
        raise click.UsageError("--tag replaces the whole tag: it does not go together with --tag-prefix-…")
    if tag == "":
        raise click.UsageError("--tag: a tag can't be empty")
    return TagChange(_bytes(remove or ""), _bytes(add or ""), None if tag is None else _bytes(tag))


def _bytes(text: str) -> bytes:
    """The bytes of a text on the command line, UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")


def _usable(make: Callable[[], ssl.SSLContext]) -> TLS:
    try:
        return TLS(make)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _hostname(name: str | None) -> bytes:
    return (name or f"kube-audit-filter.{socket.gethostname()}").encode()


def _secret(path: str) -> bytes:
    """A file's content without a newline at its end."""
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
