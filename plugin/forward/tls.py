"""TLS for listeners and upstreams, with certificates that are read again when they are renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import NamedTuple

from .streams import describe


class Certificate(NamedTuple):
    """The files of a certificate.

    Attributes:
        certificate: the file of the certificate and of those that signed it, PEM.
        key: the file of its private key; None if the key is in the same file.
    """

    certificate: str
    key: str | None

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have connections of a context show the certificate. The context must not be in use yet.

        Raises:
            ValueError: the certificate or its key can't be used.
        """
        try:
            # Without this function, OpenSSL would ask for the password of an encrypted key on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            files = self.certificate if self.key is None else f"{self.certificate}, {self.key}"
            raise ValueError(f"{files}: {describe(error)}") from None


class TLS:
    """The context of new connections.

    OpenSSL does not allow changes to a context that another thread uses. So files that have changed are read
    into a new context, which then replaces the old one. Existing connections keep theirs.

    Args:
        make: reads the files into a new context; raises ValueError if one of them can't be used.

    Attributes:
        context: the context for the next connection.

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
        """Use another context for all further connections. Only the event loop's thread may call this."""
        self.context = context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def server_context(certificate: Certificate, client_ca: str | None) -> ssl.SSLContext:
    """The context of a listener.

    Args:
        certificate: the certificate that the listener shows.
        client_ca: the file of the authorities that sign clients' certificates; None if clients need no
            certificate.

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
        ca: the file of the authorities that may have signed the upstream's certificate; None for those that
            this machine trusts.
        certificate: the certificate to show to the upstream; None for no certificate.
        verify: whether the upstream's certificate has to be valid, and for the upstream's name.

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
