"""The handshake of the forward protocol, in both roles: HELO, PING, PONG. Bytes in, bytes out.

Each side shows that it knows the shared key, and the client may show a user's password too, by digests
over what the other has just made up. Everything that is compared is compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack
from msgpack import Unpacker
from msgpack.exceptions import OutOfData

from ...encoding.codec import MSGPACK

# Bytes that a HELO, PING or PONG may have; a digest has 128.
MAX_SIZE = 1 << 14
# Bytes of chance in a nonce or salt. As base64 they have the 16 characters that agents send, and that
# some programs take for granted.
_CHANCE = 12
_SALT_SIZE = 16


class HandshakeError(Exception):
    """The peer can't be trusted, or does not trust us. Says why."""


class Salts:
    """Makes salts that can be told from those of others, and needs to remember none.

    Somebody who does not know the shared key, but is an upstream, could hand the nonce of the proxy's own
    listener to it and then show that listener the proof that it gets.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    def make(self) -> bytes:
        """A new salt: chance, and a mark that only this process can make of it, as text."""
        start = base64.b64encode(os.urandom(_CHANCE // 2))
        return start + self._mark(start)

    def made(self, salt: bytes) -> bool:
        """Whether a salt is one of these."""
        start, mark = salt[: _SALT_SIZE // 2], salt[_SALT_SIZE // 2 :]
        return hmac.compare_digest(mark, self._mark(start))

    def _mark(self, start: bytes) -> bytes:
        return base64.b64encode(hmac.digest(self._secret, start, "sha256")[: _CHANCE // 2])


@dataclass(frozen=True)
class ListenSecurity:
    """What clients have to know.

    Attributes:
        shared_key: the key.
        hostname: the name by which this side goes. A client refuses a server of its own name, and a server
            a client.
        users: passwords by user name; none where no user has to be named.
        own_salts: makes the salts of this process's own connections to upstreams: no client may use one.
    """

    shared_key: bytes = field(repr=False)
    hostname: bytes
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    own_salts: Salts = field(default_factory=Salts, repr=False)


@dataclass(frozen=True)
class UpstreamSecurity:
    """What a server wants to be told.

    Attributes:
        shared_key: the key.
        hostname: the name by which this side goes. A server refuses a client of its own name.
        username: the user, for a server that wants one.
        password: that user's password.
        salts: makes the salts.
    """

    shared_key: bytes = field(repr=False)
    hostname: bytes
    username: bytes = b""
    password: bytes = field(default=b"", repr=False)
    salts: Salts = field(default_factory=Salts, repr=False)


class ValueReader:
    """Takes one value after the other out of a stream of small ones; strings become bytes."""

    def __init__(self) -> None:
        self._unpacker = Unpacker(
            raw=True,
            strict_map_key=False,
            max_buffer_size=MAX_SIZE,
            ext_hook=lambda *_: None,
            object_pairs_hook=_by_name,
        )

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError: they are too many.
        """
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise ValueError(f"more than {MAX_SIZE} bytes without an end") from None

    def next_value(self) -> Any:
        """The next value; :class:`msgpack.OutOfData` where it has not come whole.

        Raises:
            ValueError: there is no MessagePack.
        """
        try:
            return self._unpacker.unpack()
        except OutOfData:
            raise
        except Exception as error:
            raise ValueError("malformed MessagePack") from error

    def rest(self) -> bytes:
        """What came behind the values that were taken."""
        return bytes(self._unpacker.read_bytes(MAX_SIZE))


def _by_name(pairs: list[tuple[Any, Any]]) -> dict[bytes, Any]:
    """A map with the entries that mean something. Numbers as keys can be chosen so that a dict takes ages."""
    return {key: value for key, value in pairs if isinstance(key, bytes)}


class ServerHandshake:
    """The server's side of one connection.

    Args:
        security: what the client has to know.
    """

    def __init__(self, security: ListenSecurity) -> None:
        self._security = security
        self._nonce = _random_text()
        self._auth = _random_text() if security.users else b""

    def helo(self) -> bytes:
        """What the server says first."""
        return b"".join(
            (
                b"\x92\xa4HELO\x83",
                b"\xa5nonce" + _string(self._nonce),
                # As bin, where there are users: npm's fluent-logger names its own for nothing else.
                b"\xa4auth" + (MSGPACK.encode(self._auth) if self._auth else _string(b"")),
                b"\xa9keepalive\xc3",
            )
        )

    def answer(self, ping: Any) -> tuple[bytes, str | None]:
        """The PONG for a PING, decoded, and why the client is refused; None: it is not.

        Raises:
            HandshakeError: it is no PING.
        """
        if not _is_list_of(ping, b"PING", (bytes,) * 5):
            raise HandshakeError("a client does not begin with PING, as one does that has a shared key")
        _, hostname, salt, digest, username, password_digest = ping
        key = self._security.shared_key
        expected = _digest(salt, hostname, self._nonce, key)
        fault = None
        if not hmac.compare_digest(digest.lower(), expected):
            fault = "shared_key mismatch"
        # Where the salt ends and the hostname begins, no digest says.
        elif self._security.own_salts.made((salt + hostname + self._nonce)[:_SALT_SIZE]):
            fault = "the client repeats what this proxy has said to an upstream"
        elif hostname == self._security.hostname:
            fault = "the client goes by our own name: see --self-hostname"
        elif self._security.users:
            password = self._security.users.get(username)
            # An unknown user takes as long as a known one.
            expected = _digest(self._auth, username, password or b"")
            if not hmac.compare_digest(password_digest.lower(), expected) or password is None:
                fault = "username/password mismatch"
        name, proof = self._security.hostname, _digest(salt, self._security.hostname, self._nonce, key)
        reason, name, proof = (b"", name, proof) if fault is None else (fault.encode(), b"", b"")
        pong = b"\x95\xa4PONG" + (b"\xc3" if fault is None else b"\xc2")
        return pong + b"".join(map(_string, (reason, name, proof))), fault


class ClientHandshake:
    """The client's side of one connection.

    Args:
        security: what to tell the server.

    Attributes:
        keeps_alive: whether the server takes more than one message on the connection.
        may_be_fluentd: whether the server says in its HELO whether it keeps connections, as Fluentd does and
            Fluent Bit does not (in_forward.rb, generate_helo; plugins/in_forward/fw_prot.c, send_helo).
    """

    def __init__(self, security: UpstreamSecurity) -> None:
        self._security = security
        self._salt = security.salts.make()
        self._nonce = b""
        self._sends_no_user = False
        self.keeps_alive = True
        self.may_be_fluentd = True

    def ping(self, helo: Any) -> bytes:
        """The PING for a HELO, decoded.

        A salt for passwords does not mean that the server has users: Fluent Bit and Fluentd always send
        one. Without a user to name, the PING names an empty one, and the server judges.

        Raises:
            HandshakeError: it is no HELO.
        """
        if not _is_list_of(helo, b"HELO", (dict,)):
            raise HandshakeError("the server does not begin with HELO, as one does that has a shared key")
        nonce, auth = helo[1].get(b"nonce", b""), helo[1].get(b"auth", b"")
        if not isinstance(nonce, bytes) or not isinstance(auth, bytes):
            raise HandshakeError("a HELO whose nonce or auth is no string")
        security, self._nonce = self._security, nonce
        self.keeps_alive = helo[1].get(b"keepalive", True) is not False
        self.may_be_fluentd = b"keepalive" in helo[1]
        username = security.username if auth else b""
        self._sends_no_user = bool(auth) and not username
        password_digest = _digest(auth, username, security.password) if auth else b""
        proof = _digest(self._salt, security.hostname, nonce, security.shared_key)
        fields = (security.hostname, self._salt, proof, username, password_digest)
        return b"\x96\xa4PING" + b"".join(map(_string, fields))

    def check(self, pong: Any) -> None:
        """Read a PONG, decoded.

        Raises:
            HandshakeError: the server refuses us, or does not know the shared key itself.
        """
        if not _is_list_of(pong, b"PONG", (bool, bytes, bytes, bytes)):
            raise HandshakeError("the server does not answer with PONG")
        _, accepted, reason, hostname, proof = pong
        if not accepted:
            advice = "; no user was named: see --upstream-user" if self._sends_no_user else ""
            raise HandshakeError(f"the server refuses us: {printable(reason)}{advice}")
        if hostname == self._security.hostname:
            raise HandshakeError("the server goes by our own name: see --self-hostname")
        expected = _digest(self._salt, hostname, self._nonce, self._security.shared_key)
        if not hmac.compare_digest(proof.lower(), expected):
            raise HandshakeError("the server does not know the shared key")


def _is_list_of(value: Any, name: bytes, types: tuple[type, ...]) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(types) + 1
        and value[0] == name
        and all(isinstance(item, type_) for item, type_ in zip(value[1:], types, strict=True))
    )


def printable(text: bytes) -> str:
    """What a peer said, for a message: at most 200 characters, and nothing that a terminal obeys."""
    return "".join(each if each.isprintable() else "?" for each in text[:800].decode(errors="replace")[:200])


def _random_text() -> bytes:
    """A nonce or salt: text, for many decoders of MessagePack refuse a str that is no UTF-8."""
    return base64.b64encode(os.urandom(_CHANCE))


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(parts)).hexdigest().encode()


def _string(data: bytes) -> bytes:
    """MessagePack's str of any bytes: hostnames and users need not be UTF-8."""
    return MSGPACK.encode_string(data, _STR)


_STR = b"\xa0"
