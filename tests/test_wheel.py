"""The wheel: all of the program is in it, and it gets on with whatever else is installed."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support import DROPPED, KEPT, POLICY, ROOT, line
from tests.support.forward_peers import Client, Receiver, entry, packed
from tests.support.processes import DEADLINE, wait_for_line

pytestmark = pytest.mark.xdist_group("wheel")  # one worker builds it
FOLDERS = {"filter_engine": "filter_engine", "plugin": "kube_audit_filter"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source]
    subprocess.run(build, check=True, timeout=300)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site_packages(wheel, tmp_path_factory):
    """The installed package, beside one that has a top-level module called ``plugin``."""
    directory = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    (directory / "plugin.py").write_text("")
    return directory


@pytest.fixture
def start(site_packages, tmp_path):
    """Starts the installed command in a folder that is not the repository's."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    children = []

    def start(*arguments):
        child = subprocess.Popen(
            [sys.executable, "-m", "kube_audit_filter", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site_packages)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    files = {
        f"{FOLDERS[name]}/{path.relative_to(ROOT / name).as_posix()}"
        for name in FOLDERS
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files


def test_exec_runs_beside_another_plugin(start):
    child = start("exec", "--policy", "policy.yaml", "--format", "json")
    out, said = child.communicate(line(KEPT) + line(DROPPED), timeout=DEADLINE)
    assert (child.returncode, out) == (0, line(KEPT)), said


def test_compile_runs_beside_another_plugin(start):
    child = start("compile", "builtin:recommended")
    out, said = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, said
    assert b"function kube_audit_filter(" in out


def test_forward_runs_beside_another_plugin(start):
    with Receiver() as receiver:
        options = ["--listen", "127.0.0.1:0", "--upstream", receiver.address]
        child = start("forward", "--policy", "policy.yaml", *options)
        said = wait_for_line(child.stderr, b"listening on ").decode()
        with Client(re.search(r"listening on (\S+)", said)[1]) as client:
            client.send(packed("audit", [entry(KEPT), entry(DROPPED)], chunk="a chunk"))
            assert client.answer() == {b"ack": b"a chunk"}
        child.terminate()
        assert child.wait(DEADLINE) == 0
    ((_, entries, _),) = receiver.messages
    assert entries == entry(KEPT)
