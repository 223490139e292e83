"""The handshake of the forward protocol, both roles against each other and against what is wrong."""

import hashlib
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.forward.protocol.handshake import (
    MAX_SIZE,
    ClientHandshake,
    HandshakeError,
    ListenSecurity,
    Salts,
    ServerHandshake,
    UpstreamSecurity,
    ValueReader,
)

USERS = {b"alice": b"secret", b"bob": b"other"}


def unpack(data):
    return msgpack.unpackb(data, raw=True)


def shake_hands(listen, upstream):
    """Let both sides talk to each other; returns why the server refuses, or None."""
    server, client = ServerHandshake(listen), ClientHandshake(upstream)
    pong, fault = server.answer(unpack(client.ping(unpack(server.helo()))))
    client.check(unpack(pong))
    return fault


def shaken_hands(listen):
    """HELO, PING and PONG, as a decoder reads them to which a str is UTF-8 and nothing else."""
    server, client = (
        ServerHandshake(listen),
        ClientHandshake(UpstreamSecurity(b"key", b"c", b"bob", b"other")),
    )
    helo = server.helo()
    ping = client.ping(unpack(helo))
    pong, _ = server.answer(unpack(ping))
    return [msgpack.unpackb(each, raw=False, unicode_errors="strict") for each in (helo, ping, pong)]


def test_who_knows_the_key_is_let_in():
    assert shake_hands(ListenSecurity(b"key", b"server"), UpstreamSecurity(b"key", b"client")) is None


def test_who_knows_the_key_and_a_password_is_let_in():
    listen = ListenSecurity(b"key", b"server", USERS)
    assert shake_hands(listen, UpstreamSecurity(b"key", b"client", b"bob", b"other")) is None


@pytest.mark.parametrize(
    ("users", "upstream", "reason"),
    [
        ({}, UpstreamSecurity(b"other key", b"client"), "shared_key mismatch"),
        (USERS, UpstreamSecurity(b"key", b"client", b"bob", b"secret"), "username/password mismatch"),
        (USERS, UpstreamSecurity(b"key", b"client", b"eve", b""), "username/password mismatch"),
        (USERS, UpstreamSecurity(b"other key", b"client", b"bob", b"other"), "shared_key mismatch"),
    ],
)
def test_who_does_not_is_refused_and_told_why(users, upstream, reason):
    with pytest.raises(HandshakeError, match=f"the server refuses us: {reason}"):
        shake_hands(ListenSecurity(b"key", b"server", users), upstream)


def test_a_refusal_gives_nothing_away():
    server = ServerHandshake(ListenSecurity(b"key", b"server"))
    pong, fault = server.answer([b"PING", b"client", b"salt", b"0" * 128, b"", b""])
    assert fault == "shared_key mismatch"
    assert unpack(pong) == [b"PONG", False, b"shared_key mismatch", b"", b""]


def test_digests_are_those_of_the_specification():
    server = ServerHandshake(ListenSecurity(b"key", b"server", USERS))
    helo = unpack(server.helo())
    nonce, auth = helo[1][b"nonce"], helo[1][b"auth"]
    proof = hashlib.sha512(b"salt" + b"client" + nonce + b"key").hexdigest().encode()
    password = hashlib.sha512(auth + b"alice" + b"secret").hexdigest().encode()
    pong, fault = server.answer([b"PING", b"client", b"salt", proof, b"alice", password])
    assert fault is None
    own = hashlib.sha512(b"salt" + b"server" + nonce + b"key").hexdigest().encode()
    assert unpack(pong) == [b"PONG", True, b"", b"server", own]


def test_nonces_and_salts_are_never_the_same():
    said = [shaken_hands(ListenSecurity(b"key", b"server", USERS)) for _ in range(50)]
    helos, pings, _ = zip(*said, strict=True)
    assert len({helo[1]["nonce"] for helo in helos} | {helo[1]["auth"] for helo in helos}) == 100
    assert len({ping[2] for ping in pings}) == 50


def test_a_decoder_that_takes_no_str_but_utf_8_reads_all_that_is_said_by_either_side():
    for _ in range(50):
        helo, ping, pong = shaken_hands(ListenSecurity(b"key", b"server", USERS))
        assert (helo[0], ping[0], pong[0]) == ("HELO", "PING", "PONG")
        assert isinstance(helo[1]["auth"], bytes)  # npm's fluent-logger names no user otherwise
        for text in (helo[1]["nonce"], helo[1]["auth"].decode(), ping[2]):
            assert len(text) == 16  # what some programs take for granted
            assert text.isprintable()


def test_without_users_none_is_asked_for():
    assert unpack(ServerHandshake(ListenSecurity(b"key", b"server")).helo())[1][b"auth"] == b""


@pytest.mark.parametrize(
    "ping",
    [
        None,
        {},
        [],
        [b"PING"],
        [b"PONG", b"", b"", b"", b"", b""],
        [b"PING", 1, b"", b"", b"", b""],
        [b"PING", b"", b"", b"", b"", b"", b""],
        [b"tag", [], {}],
    ],
)
def test_what_is_no_ping_is_refused(ping):
    with pytest.raises(HandshakeError, match="PING"):
        ServerHandshake(ListenSecurity(b"key", b"server")).answer(ping)


def test_a_client_of_the_servers_own_name_is_refused():
    with pytest.raises(HandshakeError, match="the client goes by our own name"):
        shake_hands(ListenSecurity(b"key", b"same"), UpstreamSecurity(b"key", b"same"))


def test_a_stranger_does_not_learn_the_servers_name():
    server = ServerHandshake(ListenSecurity(b"key", b"same"))
    assert server.answer([b"PING", b"same", b"salt", b"0" * 128, b"", b""])[1] == "shared_key mismatch"


@given(name=st.sampled_from([b"n", b"name", b"kube-audit-filter.host"]), data=st.data())
def test_what_the_proxy_says_to_an_upstream_is_not_accepted_from_a_client(name, data):
    """However somebody without the key cuts it up: digests do not say where salt and hostname end."""
    salts = Salts()
    server = ServerHandshake(ListenSecurity(b"key", name, own_salts=salts))
    nonce = unpack(server.helo())[1][b"nonce"]
    handed = data.draw(st.binary(max_size=4)) + nonce
    client = ClientHandshake(UpstreamSecurity(b"key", name, salts=salts))
    _, hostname, salt, proof, _, _ = unpack(client.ping([b"HELO", {b"nonce": handed}]))
    start = salt + hostname + handed[: -len(nonce)]
    cut = data.draw(st.integers(0, len(start)))
    pong, fault = server.answer([b"PING", start[cut:], start[:cut], proof, b"", b""])
    assert "repeats what this proxy has said" in fault
    assert unpack(pong)[1] is False


def test_salts_are_new_each_time_and_known_to_their_maker_alone():
    salts = Salts()
    made = {salts.make() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(salt) for salt in made} == {16}
    assert all(map(salts.made, made))
    assert not any(map(Salts().made, made))
    assert not salts.made(b"")


@pytest.mark.parametrize("helo", [None, [b"HELO"], [b"PONG", {}], [b"HELO", {b"nonce": 5}], [b"HELO", []]])
def test_what_is_no_helo_is_refused(helo):
    with pytest.raises(HandshakeError, match="HELO"):
        ClientHandshake(UpstreamSecurity(b"key", b"client")).ping(helo)


def test_a_salt_for_passwords_alone_does_not_mean_that_a_user_is_needed():
    client = ClientHandshake(UpstreamSecurity(b"key", b"client"))
    ping = unpack(client.ping([b"HELO", {b"nonce": b"n", b"auth": b"a"}]))
    assert ping[4:] == [b"", hashlib.sha512(b"a").hexdigest().encode()]


def test_a_server_that_wants_a_user_refuses_who_names_none_and_the_option_is_named():
    with pytest.raises(HandshakeError, match=r"refuses us: username/password mismatch; .* --upstream-user"):
        shake_hands(ListenSecurity(b"key", b"server", USERS), UpstreamSecurity(b"key", b"client"))


def test_fluent_bit_is_known_by_its_helo():
    client = ClientHandshake(UpstreamSecurity(b"key", b"client"))
    client.ping([b"HELO", {b"nonce": b"n", b"auth": b"a", b"keepalive": True}])
    assert client.may_be_fluentd
    client.ping([b"HELO", {b"nonce": b"n", b"auth": b"a"}])
    assert not client.may_be_fluentd


@pytest.mark.parametrize(
    ("pong", "reason"),
    [
        ([b"PONG", True, b"", b"server", b"0" * 128], "does not know the shared key"),
        ([b"PONG", True, b"", b"client", b"0" * 128], "goes by our own name: see --self-hostname"),
        ([b"PONG", False, b"go \xff away", b"", b""], "refuses us: go . away$"),
        ([b"PONG", False, b"\x1b[2J\r\nerror: " + b"x" * 9000, b"", b""], r"us: \?\[2J\?\?error: x{187}$"),
        ([b"PONG", 1, b"", b"", b""], "PONG"),
        (b"PONG", "PONG"),
    ],
)
def test_a_server_that_can_not_be_trusted_is_left(pong, reason):
    client = ClientHandshake(UpstreamSecurity(b"key", b"client"))
    client.ping([b"HELO", {b"nonce": b"n"}])
    with pytest.raises(HandshakeError, match=reason):
        client.check(pong)


def values_in(pieces):
    """What comes out of a handshake's bytes, and whether it ends in an error."""
    reader, values = ValueReader(), []
    try:
        for piece in pieces:
            reader.feed(piece)
            with suppress(msgpack.OutOfData):
                while True:
                    values.append(reader.next_value())
    except ValueError:
        return values, True
    return values, False


@given(st.binary(max_size=200), st.integers(1, 20))
def test_garbage_in_a_handshake_is_an_error_or_waits_however_it_is_cut(data, step):
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert repr(values_in(pieces)) == repr(values_in([data]))


def test_a_handshake_without_end_is_not_held():
    reader = ValueReader()
    reader.feed(b"\x9f" * MAX_SIZE)
    with pytest.raises(ValueError, match="without an end"):
        reader.feed(b"\x9f")


def test_secrets_are_not_shown():
    shown = repr(
        (ListenSecurity(b"the key", b"s", USERS), UpstreamSecurity(b"the key", b"c", b"bob", b"pass"))
    )
    assert "the key" not in shown
    assert "secret" not in shown
    assert "pass'" not in shown
