"""Secrets in the query of a ``requestURI``."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_plus

from filter_engine.redaction.replacement import Replacement

# What kubectl exec is told to run, and what clients and proxies pass as credentials.
_EXACT = frozenset(("command", "code", "sig", "key", "auth", "jwt", "pass", "pwd", "psk", "sas", "ticket"))
_WORDS = re.compile(
    r"signature|token|secret|passw|credential|apikey|accesskey|privatekey|sessionid|assertion"
)
_NAMES = re.compile(r"(?:^|[&;])([^=&;]*)")
_SEPARATORS = re.compile(r"([&;])")


def redact_query(uri: str, replacement: Replacement) -> str:
    """A URI with the values of parameters replaced whose names say that they are secret.

    ``command`` is one of them: an exec, at level Metadata too, has what it runs in its URI.
    """
    path, mark, query = uri.partition("?")
    if not mark:
        return uri
    pieces = _SEPARATORS.split(query)
    for index in range(0, len(pieces), 2):
        name, equals, value = pieces[index].partition("=")
        if not (equals and value and is_secret(name)):
            continue
        if replacement.removes:
            pieces[index] = ""
        else:
            pieces[index] = f"{name}={replacement.text_of_parameter(value)}"
    # A parameter that was left out takes its separator along.
    left = "".join(pieces)
    if "" in pieces[::2]:
        left = re.sub(r"[&;]{2,}", "&", left).strip("&;")
    return f"{path}?{left}" if left else path


def has_secrets(uri: str) -> bool:
    """Whether a URI has a parameter whose name says that its value is secret."""
    _, mark, query = uri.partition("?")
    return bool(mark) and any(map(is_secret, _NAMES.findall(query)))


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether the name of a parameter, as it stands in the URI, says that its value is secret."""
    plain = re.sub(r"[^a-z0-9]", "", unquote_plus(name).lower())
    return plain in _EXACT or _WORDS.search(plain) is not None
