"""kube-audit-filter schema, as a process."""

import json
import subprocess
import sys

import pytest

from filter_engine.loading.json_schema import json_schema

COMMAND = [sys.executable, "-m", "kube_audit_filter", "schema"]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", [None, "Policy", "FilterPolicy"])
def test_the_schema_goes_to_stdout(kind):
    result = run(*([kind] if kind else []))
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout) == json_schema(kind)
    assert result.stdout.endswith(b"}\n")


def test_the_schema_is_written_to_a_file_that_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text("old")
    result = run("FilterPolicy", "-o", str(path))
    assert (result.returncode, result.stdout) == (0, b"")
    assert json.loads(path.read_text()) == json_schema("FilterPolicy")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ConfigMap"], b"'ConfigMap' is not one of 'Policy', 'FilterPolicy'"),
        (["-o", "missing/schema.json"], b"missing/schema.json: No such file or directory"),
    ],
)
def test_what_can_not_be_written_is_an_error_with_its_reason(arguments, said, tmp_path):
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (1, b"")
    assert said in result.stderr
    assert b"Traceback" not in result.stderr
