"""Where the proxy may listen without asking clients for anything, and where it must not send to."""

import asyncio
import contextlib
import os
import socket
import subprocess

import pytest

from plugin.forward.address import Address
from plugin.forward.own_addresses import OwnAddresses
from plugin.forward.protocol.handshake import UpstreamSecurity
from plugin.forward.upstream import ConnectSettings, Upstream, UpstreamError
from plugin.service.diagnostics import Diagnostics
from tests.support import KEPT
from tests.support.agents import free_port
from tests.support.certificates import make_certificates
from tests.support.forward_peers import FORWARD, Client, Proxy, Receiver, entry, packed
from tests.support.processes import DEADLINE


def own_address():
    """An address of this machine that other machines may reach; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return probe.getsockname()[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def refused(policy_file):
    """Starts a proxy that must not start; returns what it says."""

    def run(*arguments):
        command = [*FORWARD, "--policy", policy_file, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert (result.returncode, result.stdout) == (1, ""), result.stderr
        assert "Traceback" not in result.stderr
        assert "listening on" not in result.stderr
        return result.stderr

    return run


@pytest.fixture
def key(tmp_path):
    (tmp_path / "key").write_text("the key")
    return tmp_path / "key"


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "0", "[::]", "own"])
def test_beyond_this_machine_clients_have_to_show_something(refused, host):
    if host == "own" and (host := own_address()) is None:
        pytest.skip("this machine has no other address")
    said = refused("--upstream", "127.0.0.1:1", "--listen", f"{host}:0")
    assert f"can't listen on {host}:0: other machines can connect there" in said
    for way_out in ("--shared-key-file", "--tls-client-ca", "--insecure"):
        assert way_out in said


def test_a_certificate_of_the_server_keeps_nobody_out(refused, files):
    tls = ["--tls-cert", files.server_cert, "--tls-key", files.server_key]
    said = refused("--upstream", "127.0.0.1:1", "--listen", "tls://0.0.0.0:0", *tls)
    assert "TLS alone keeps nobody out" in said


def test_certificates_of_clients_are_asked_for_with_tls_alone(refused, files):
    tls = ["--tls-cert", files.server_cert, "--tls-key", files.server_key, "--tls-client-ca", files.ca]
    listen = ["--listen", "tls://0.0.0.0:0", "--listen", "0.0.0.0:0"]
    assert "can't listen on 0.0.0.0:0: " in refused("--upstream", "127.0.0.1:1", *listen, *tls)


def test_nobody_can_connect_to_the_first_address_when_the_second_is_refused(refused):
    port = free_port()
    refused("--upstream", "127.0.0.1:1", "--listen", f"127.0.0.1:{port}", "--listen", "0.0.0.0:0")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_with_a_key_or_certificates_of_clients_it_listens_everywhere(tmp_path, policy_file, files, key):
    tls = ["--tls-cert", files.server_cert, "--tls-key", files.server_key, "--tls-client-ca", files.ca]
    message = packed("t", [entry(KEPT)], chunk="abc")
    with Receiver() as receiver:
        for arguments, listen in (
            (["--shared-key-file", key], "*:0"),
            (tls, "tls://0.0.0.0:0"),
            ([], "localhost:0"),
        ):
            words = [str(word) for word in arguments]
            with Proxy(tmp_path, policy_file, receiver.address, arguments=words, listen=[listen]) as proxy:
                assert proxy.process.poll() is None
                if arguments[:1] == ["--shared-key-file"]:
                    where = f"127.0.0.1:{proxy.address.rpartition(':')[2]}"
                    with Client(where, security=UpstreamSecurity(b"the key", b"client")) as client:
                        client.send(message)
                        assert client.answer() == {b"ack": b"abc"}


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("127.0.0.1:PORT", "localhost:PORT"),
        ("127.0.0.1:PORT", "0.0.0.0:PORT"),
        ("127.0.0.1:PORT", "[::ffff:127.0.0.1]:PORT"),
        ("0.0.0.0:PORT", "127.0.0.5:PORT"),
        ("*:PORT", "own:PORT"),
        ("unix:DIR/socket", "unix:DIR/socket"),
        ("unix:DIR/socket", "unix:DIR/link/socket"),
    ],
)
def test_an_upstream_that_is_the_proxy_itself_is_refused(refused, tmp_path, listen, upstream):
    (tmp_path / "link").symlink_to(tmp_path)
    port = str(free_port())
    words = [word.replace("PORT", port).replace("DIR", str(tmp_path)) for word in (listen, upstream)]
    words[1] = words[1].replace("own", own_address() or "127.0.0.1")
    said = refused("--insecure", "--listen", words[0], "--upstream", words[1])
    assert f"--upstream {words[1].replace('[::ffff:127.0.0.1]', '')}" in said.replace(
        "[::ffff:127.0.0.1]", ""
    )
    assert "leads back to this proxy" in said


def test_the_same_port_of_another_address_is_another_server(tmp_path, policy_file):
    with Receiver() as receiver:
        listen = f"127.0.0.2:{receiver.port}"
        with (
            Proxy(tmp_path, policy_file, receiver.address, listen=[listen]) as proxy,
            Client(proxy.address) as client,
        ):
            client.send(packed("t", [entry(KEPT)], chunk="abc"))
            assert client.answer() == {b"ack": b"abc"}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_upstream_that_turns_out_to_be_the_proxy_itself_gets_nothing(tmp_path, kind):
    """As one whose name leads here only later."""

    async def connect(receiver):
        own = OwnAddresses()
        if kind == "tcp":
            own.add(receiver._listener)
        else:
            own.add_path(os.fspath(tmp_path / "socket"))
        settings = ConnectSettings(own=own)
        upstream = Upstream(Address.parse(receiver.address), settings, Diagnostics(), lambda: None)
        with pytest.raises(UpstreamError, match="leads back to this proxy"):
            await upstream.connection()
        upstream.close()

    with Receiver(path=None if kind == "tcp" else tmp_path / "socket") as receiver:
        asyncio.run(connect(receiver))
        assert receiver.frames == []
