"""The probe that runs in the filter's container."""

import socket
import subprocess
import sys
import threading

import pytest

from tests.support.processes import DEADLINE, observed

PROBE = [sys.executable, "-m", "kube_audit_filter.service.probe"]


def probe(*arguments):
    result = subprocess.run(
        [*PROBE, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert result.stderr == ""
    return result.returncode, result.stdout


def test_a_filter_that_is_well_and_one_that_is_not_ready(tmp_path):
    missing = str(tmp_path / "missing")
    with observed(missing, tmp_path, "--wait-for-policy") as (_, scrape):
        address = scrape.url.removeprefix("http://").removesuffix("/metrics")
        assert probe(f"{address}/healthz") == (0, "ok\n")
        assert probe(f"{address}/readyz") == (1, "there is no policy that can be used\n")
        assert probe(f"{address}/other")[0] == 1


@pytest.mark.parametrize("said", [b"", b"\x00\xff" * 5000, b"200\r\n\r\n"])
def test_what_is_no_filter_is_not_well(said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        assert probe(f"127.0.0.1:{server.getsockname()[1]}/healthz")[0] == 1


def test_nobody_there():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        status, said = probe(f"127.0.0.1:{nobody.getsockname()[1]}/healthz")
    assert (status, "Connection refused" in said) == (1, True)


@pytest.mark.parametrize("arguments", [[], ["127.0.0.1:9118"], ["/healthz"], ["localhost:x/healthz"]])
def test_wrong_usage_is_said(arguments):
    status, said = probe(*arguments)
    assert status == 1
    assert "expected HOST:PORT/PATH" in said


def test_a_port_that_is_none():
    assert probe("127.0.0.1:99999/healthz")[0] == 1
