"""What tests of conf/fluent-bit/exec_filter.lua start with."""

import gc
import os

import pytest

from tests.support.agents import path_with_filter
from tests.support.exec_filter import ExecFilter, children, descriptors


@pytest.fixture
def nothing_is_left():
    before = len(descriptors()), children()
    yield
    gc.collect()
    assert (len(descriptors()), children()) == before


@pytest.fixture
def start(monkeypatch, policy_file):
    """Starts the filter; its settings are arguments, changes to the script a mapping.

    Children have half a minute to answer, where a test says nothing else.
    """
    started = []
    monkeypatch.setenv("PATH", path_with_filter())
    monkeypatch.setenv("AUDIT_POLICY", policy_file)

    def start_one(changes=(), **settings):
        for name, value in {"timeout_ms": 30_000, "start_timeout_ms": 30_000, **settings}.items():
            monkeypatch.setenv(f"AUDIT_FILTER_{name.upper()}", str(value))
        started.append(ExecFilter(dict(changes)))
        return started[-1]

    yield start_one
    for one in started:
        one.close()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a program in the place of kube-audit-filter; returns a function that counts its starts."""
    directory = tmp_path / "bin"
    directory.mkdir()
    starts = tmp_path / "starts"
    starts.touch()

    def install(body, interpreter="/bin/sh"):
        program = directory / "kube-audit-filter"
        note = "echo $$ >> {}\n" if interpreter == "/bin/sh" else "print(os.getpid(), file=open('{}', 'a'))\n"
        imports = "" if interpreter == "/bin/sh" else "import os, sys, time, signal\n"
        program.write_text(f"#!{interpreter}\n{imports}{note.format(starts)}{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{path_with_filter()}")
        return lambda: [int(pid) for pid in starts.read_text().split()]

    return install
