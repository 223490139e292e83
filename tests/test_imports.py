"""Who may import whom: the contracts in pyproject.toml hold, and each would notice a breach."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.processes import DEADLINE

LINTER = Path(sys.executable).with_name("lint-imports")
BREACHES = {
    "a floor above": (
        "plugin/scan/framing.py",
        "import plugin.records.limits",
        "plugin.scan is not allowed to import plugin.records",
    ),
    "a neighbour": (
        "plugin/exec/stream.py",
        "import plugin.forward.proxy",
        "plugin.exec is not allowed to import plugin.forward",
    ),
    "a room without a floor": ("plugin/somewhere/__init__.py", "", "plugin.somewhere"),
    "the plugin, in the engine": (
        "filter_engine/model.py",
        "import plugin.policies",
        "filter_engine is not allowed to import plugin",
    ),
    "msgspec, in the engine": (
        "filter_engine/model.py",
        "import msgspec",
        "filter_engine is not allowed to import msgspec",
    ),
    "the engine, in an encoding": (
        "plugin/encoding/codec.py",
        "import filter_engine.model",
        "plugin.encoding is not allowed to import filter_engine",
    ),
    "a clock, in records": (
        "plugin/records/envelope.py",
        "import time",
        "plugin.records is not allowed to import time",
    ),
    "sockets, in the protocol": (
        "plugin/forward/protocol/tags.py",
        "import socket",
        "plugin.forward.protocol is not allowed to import socket",
    ),
    "the service, in the protocol": (
        "plugin/forward/protocol/tags.py",
        "import plugin.service.signals",
        "plugin.forward.protocol is not allowed to import plugin.service",
    ),
    "click, outside of the command line": (
        "plugin/service/listen.py",
        "import click",
        "plugin.service is not allowed to import click",
    ),
}


def lint(directory):
    return subprocess.run(
        [LINTER, "--no-cache"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={"COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_everything_imports_only_what_it_may():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("file", "added", "complaint"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_noticed(tmp_path, file, added, complaint):
    for name in ("filter_engine", "plugin"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as source:
        source.write(f"\n{added}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert complaint in result.stdout
