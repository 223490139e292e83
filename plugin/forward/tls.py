"""TLS for listeners and upstreams, with certificates that are read again when they are renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import NamedTuple

from .streams import describe


class Certificate(NamedTuple):
    """The files of a certificate.

    Attributes:
        certificate: the certificate and those that vouch for it, PEM.
        key: its private key; None: it is in the same file.
    """

    certificate: str
    key: str | None

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have connections of a context show it. The context must not be in use yet.

        Raises:
            ValueError: it can't be used.
        """
        try:
            # Without a function, a key that is encrypted would ask for its password on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            files = self.certificate if self.key is None else f"{self.certificate}, {self.key}"
            raise ValueError(f"{files}: {describe(error)}") from None


class TLS:
    """The context of new connections. OpenSSL does not allow a context to be changed while it is in use by
    another thread, so files that have changed are read into a new one, which then takes the place of the old
    one; connections that stand keep theirs.

    Args:
        make: reads the files into a new context; raises ValueError where one of them can't be used.

    Attributes:
        context: for the next connection.

    Raises:
        ValueError: a file can't be used.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self.context = make()

    def read_again(self) -> ssl.SSLContext:
        """A new context from the same files. Any thread may call this.

        Raises:
            ValueError: a file can't be used.
        """
        return self._make()

    def use(self, context: ssl.SSLContext) -> None:
        """Begin all further connections with another context. Only the event loop's thread may call this."""
        self.context = context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def server_context(certificate: Certificate, client_ca: str | None) -> ssl.SSLContext:
    """The context of a listener.

    Args:
        certificate: what it shows.
        client_ca: file with authorities of which each client has to show a certificate; None: none has to.

    Raises:
        ValueError: a file can't be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_into(context)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str | None, certificate: Certificate | None, *, verify: bool) -> ssl.SSLContext:
    """The context of an upstream.

    Args:
        ca: file with the authorities that its certificate may come from; None: those of this machine.
        certificate: what to show it; None: nothing.
        verify: whether its certificate has to be good, and for its name.

    Raises:
        ValueError: a file can't be used.
    """
    context = ssl.create_default_context()
    if ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        certificate.load_into(context)
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise ValueError(f"{ca}: {describe(error)}") from None
