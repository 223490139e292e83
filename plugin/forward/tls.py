"""TLS for listeners and upstreams, with certificates that are read again when they are renewed."""

from __future__ import annotations

import ssl

from .streams import describe


class Certificate:
    """A certificate with its key, and the contexts that show it.

    Args:
        certificate: file with the certificate and those that vouch for it, PEM.
        key: file with its private key; None: it is in the same file.
    """

    def __init__(self, certificate: str, key: str | None) -> None:
        self._certificate, self._key = certificate, key
        self._contexts: list[ssl.SSLContext] = []

    def show_in(self, context: ssl.SSLContext) -> None:
        """Have connections show it, from now on and after each :meth:`reload`. Raises ValueError."""
        self._load(context)
        self._contexts.append(context)

    def reload(self) -> None:
        """Read the files again; connections that stand keep what they have.

        Raises:
            ValueError: they can't be used, and nothing has changed.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        for context in self._contexts:
            self._load(context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # Without a function, a key that is encrypted would ask for its password on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            files = self._certificate if self._key is None else f"{self._certificate}, {self._key}"
            raise ValueError(f"{files}: {describe(error)}") from None


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
    certificate.show_in(context)
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
        certificate.show_in(context)
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise ValueError(f"{ca}: {describe(error)}") from None
