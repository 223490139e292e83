"""The handshake of the forward protocol, in both roles: HELO, PING, PONG. Bytes in, bytes out.

Each side proves that it knows the shared key, and the client may prove that it knows a user's password, by
digests over random text from the other side. All comparisons take constant time.
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
# Random bytes in a nonce or salt. As base64 they have 16 characters, as those of the agents have; some
# programs expect this length.
_CHANCE = 12
_SALT_SIZE = 16


class HandshakeError(Exception):
    """The peer can't be trusted, or does not trust this proxy. The text says why."""


class Salts:
    """Makes salts, and recognises its own salts later without remembering them.

    Otherwise an upstream that does not know the shared key could get in as a client: it would give the nonce
    of the proxy's own listener to the proxy as its own, and send the proof that it gets to that listener.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    def make(self) -> bytes:
        """A new salt, as text: random bytes, and a mark of them that only this process can make."""
        start = base64.b64encode(os.urandom(_CHANCE // 2))
        return start + self._mark(start)

    def made(self, salt: bytes) -> bool:
        """Whether this object made a salt."""
        start, mark = salt[: _SALT_SIZE // 2], salt[_SALT_SIZE // 2 :]
        return hmac.compare_digest(mark, self._mark(start))

    def _mark(self, start: bytes) -> bytes:
        return base64.b64encode(hmac.digest(self._secret, start, "sha256")[: _CHANCE // 2])


@dataclass(frozen=True)
class ListenSecurity:
    """What clients have to know.

    Attributes:
        shared_key: the key.
        hostname: the name of this side. A client refuses a server that has the client's own name, and a
            server refuses such a client.
        users: passwords by user name; empty if clients need not be users.
        own_salts: makes the salts for this process's connections to upstreams. No client may use one.
    """

    shared_key: bytes = field(repr=False)
    hostname: bytes
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    own_salts: Salts = field(default_factory=Salts, repr=False)


@dataclass(frozen=True)
class UpstreamSecurity:
    """What a server has to be told.

    Attributes:
        shared_key: the key.
        hostname: the name of this side. A server refuses a client that has the server's own name.
        username: the user, for a server that has users.
        password: that user's password.
        salts: makes the salts.
    """

    shared_key: bytes = field(repr=False)
    hostname: bytes
    username: bytes = b""
    password: bytes = field(default=b"", repr=False)
    salts: Salts = field(default_factory=Salts, repr=False)


class ValueReader:
    """Reads one value after the other from a stream of small values; strings become bytes."""

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
            ValueError: a value is too long.
        """
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise ValueError(f"more than {MAX_SIZE} bytes without an end") from None

    def next_value(self) -> Any:
        """The next value.

        Raises:
            msgpack.OutOfData: the value has not come whole.
            ValueError: the bytes are not MessagePack.
        """
        try:
            return self._unpacker.unpack()
        except OutOfData:
            raise
        except Exception as error:
            raise ValueError("malformed MessagePack") from error

    def rest(self) -> bytes:
        """The bytes behind the values that were read."""
        return bytes(self._unpacker.read_bytes(MAX_SIZE))


def _by_name(pairs: list[tuple[Any, Any]]) -> dict[bytes, Any]:
    """A map's entries with names. Keys that are numbers could be chosen so that a dict takes very long."""
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
        """The HELO, which the server sends first."""
        return b"".join(
            (
                b"\x92\xa4HELO\x83",
                b"\xa5nonce" + _string(self._nonce),
                # With users it is a bin: npm's fluent-logger names its user only if it gets a bin.
                b"\xa4auth" + (MSGPACK.encode(self._auth) if self._auth else _string(b"")),
                b"\xa9keepalive\xc3",
            )
        )

    def answer(self, ping: Any) -> tuple[bytes, str | None]:
        """The PONG for a decoded PING, and why the client is refused; None if it is accepted.

        Raises:
            HandshakeError: the value is not a PING.
        """
        if not _is_list_of(ping, b"PING", (bytes,) * 5):
            raise HandshakeError("a client does not begin with PING, as a client with a shared key does")
        _, hostname, salt, digest, username, password_digest = ping
        key = self._security.shared_key
        expected = _digest(salt, hostname, self._nonce, key)
        fault = None
        if not hmac.compare_digest(digest.lower(), expected):
            fault = "shared_key mismatch"
        # The digest does not tell where the salt ends and the hostname begins, so all three are joined.
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
        may_be_fluentd: whether the server's HELO has ``keepalive``. Fluentd's has it and Fluent Bit's has not
            (in_forward.rb, generate_helo; plugins/in_forward/fw_prot.c, send_helo).
    """

    def __init__(self, security: UpstreamSecurity) -> None:
        self._security = security
        self._salt = security.salts.make()
        self._nonce = b""
        self._sends_no_user = False
        self.keeps_alive = True
        self.may_be_fluentd = True

    def ping(self, helo: Any) -> bytes:
        """The PING for a decoded HELO.

        A salt for passwords does not mean that the server has users: Fluent Bit and Fluentd always send
        one. If there is no user to name, the PING names an empty user, and the server decides.

        Raises:
            HandshakeError: the value is not a HELO.
        """
        if not _is_list_of(helo, b"HELO", (dict,)):
            raise HandshakeError("the server does not begin with HELO, as a server with a shared key does")
        nonce, auth = helo[1].get(b"nonce", b""), helo[1].get(b"auth", b"")
        if not isinstance(nonce, bytes) or not isinstance(auth, bytes):
            raise HandshakeError("the nonce or auth of the server's HELO is not a string")
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
        """Check a decoded PONG.

        Raises:
            HandshakeError: the server refuses this client, or does not know the shared key itself.
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
    """A peer's text, for a message: at most 200 characters, and none that controls a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text[:800].decode(errors="replace")[:200])


def _random_text() -> bytes:
    """A nonce or salt. It is text, because many decoders of MessagePack refuse a str that is not UTF-8."""
    return base64.b64encode(os.urandom(_CHANCE))


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(parts)).hexdigest().encode()


def _string(data: bytes) -> bytes:
    """A MessagePack str of any bytes: hostnames and user names need not be UTF-8."""
    return MSGPACK.encode_string(data, _STR)


_STR = b"\xa0"
