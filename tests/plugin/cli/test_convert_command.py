"""``kube-audit-filter convert``, and policies that are parts of files, on the command line."""

import subprocess
import sys

import pytest

from filter_engine import Policy
from tests.filter_engine.loading.test_openshift import FORWARDER, SECOND
from tests.filter_engine.loading.test_parts import CONFIG_MAP, POLICY
from tests.support import event, line


@pytest.fixture
def run(tmp_path):
    def run(*arguments, stdin=b""):
        command = [sys.executable, "-m", "kube_audit_filter", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, check=False)

    return run


def test_a_converted_policy_is_written_to_stdout_or_a_file(run, tmp_path):
    (tmp_path / "clf.yaml").write_text(FORWARDER + SECOND)
    done = run("convert", "clf.yaml#noise")
    assert done.stderr == b""
    assert Policy.from_yaml(done.stdout) == Policy.from_yaml(FORWARDER)
    assert run("convert", "clf.yaml#second", "-o", "second.yaml").stdout == b""
    assert Policy.from_file(tmp_path / "second.yaml").omit_stages == ("Panic",)


def test_stdin_and_built_in_policies_are_converted(run):
    done = run("convert", "-", stdin=POLICY.encode())
    assert done.stdout.startswith(b"# Made from 'standard input'.\napiVersion: kube-audit-filter.io/v1\n")
    assert Policy.from_yaml(run("convert", "builtin:recommended-kubernetes").stdout).kind == "FilterPolicy"


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("clf.yaml", 2, "clf.yaml:2: this ClusterLogForwarder has 2 filters of type kubeAPIAudit"),
        ("clf.yaml#third", 2, "clf.yaml: there is nothing called 'third' in this file"),
        ("nothing.yaml#third", 1, "nothing.yaml"),
        ("nothing.yaml", 1, "nothing.yaml"),
    ],
)
def test_what_can_not_be_converted_is_an_error(run, tmp_path, name, status, message):
    (tmp_path / "clf.yaml").write_text(FORWARDER + SECOND)
    done = run("convert", name)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()


def test_exec_takes_a_part_of_a_file(run, tmp_path):
    (tmp_path / "map.yaml").write_text(CONFIG_MAP)
    done = run("exec", "--format", "json", "--policy", "map.yaml#data.policy.yaml", stdin=line(event()))
    assert (done.returncode, done.stdout) == (0, line(event()))


def test_a_file_whose_name_has_the_mark_in_it_comes_first(run, tmp_path):
    (tmp_path / "map.yaml#data").write_text(POLICY)
    (tmp_path / "map.yaml").write_text("no policy")
    assert run("exec", "--format", "json", "--policy", "map.yaml#data", stdin=line(event())).returncode == 0


def test_compile_takes_a_part_of_a_file(run, tmp_path):
    (tmp_path / "map.yaml").write_text(CONFIG_MAP)
    assert b"kube_audit_filter" in run("compile", "map.yaml#data.policy.yaml").stdout
