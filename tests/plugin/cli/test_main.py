"""What a user sees of the command line: help, errors and exit codes."""

import re
import subprocess
import sys

import pytest

from tests.support import run_exec

COMMAND = [sys.executable, "-m", "kube_audit_filter"]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=60, check=False, text=True)


def test_help_and_version():
    for arguments in (["--help"], ["-h"], ["exec", "--help"], []):
        result = run(*arguments)
        assert "Usage:" in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    assert run("--help").returncode == run("exec", "--help").returncode == 0
    assert run("--version").stdout.startswith("kube-audit-filter, version 0.")


def test_help_names_every_built_in_policy():
    assert "builtin:recommended" in run("exec", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        ([], "Missing option '--policy'"),
        (["--policy", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["--policy", "."], ".: Is a directory"),
        (["--policy", "builtin:other"], "'builtin:other' is not built in; there is builtin:recommended"),
        (["--policy", "builtin:recommended", "--format", "xml"], "'xml' is not one of"),
        (["--policy", "builtin:recommended", "--max-record-size", "big"], "expected bytes, from 1 to 1G"),
        (["--policy", "builtin:recommended", "--max-record-size", "0"], "expected bytes, from 1 to 1G"),
        (["--policy", "builtin:recommended", "--max-record-size", "2G"], "expected bytes, from 1 to 1G"),
        (
            ["--policy", "builtin:recommended", "--max-record-size", "9" * 5000],
            "expected bytes, from 1 to 1G",
        ),
        (["--policy", "builtin:recommended", "--shutdown-grace", "-1"], "from 0 to 86400"),
        (["--policy", "builtin:recommended", "--shutdown-grace", "inf"], "from 0 to 86400"),
        (["--policy", "builtin:recommended", "--shutdown-grace", "nan"], "from 0 to 86400"),
        (["--policy", "builtin:recommended", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_1_and_says_what_is_wrong(arguments, explanation, tmp_path):
    result = run_exec(b"", *arguments, cwd=tmp_path)
    said = result.stderr.decode()
    assert explanation in said
    assert (result.returncode, result.stdout) == (1, b"")
    assert "Traceback" not in said


def test_every_error_of_a_policy_is_shown_with_its_line(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "apiVersion: audit.k8s.io/v1\n"
        "rules:\n"
        "- level: metadata\n"
        "- level: None\n"
        "  users: [no]\n"
        "  verbs: get\n"
        "- level: Request\n"
        "  level: Request\n"
        "  omitStages: [Never]\n"
    )
    result = run_exec(b"", "--policy", str(path))
    assert result.returncode == 2
    lines = [row.removeprefix(f"kube-audit-filter: {path}") for row in result.stderr.decode().splitlines()]
    assert [row.split(": ")[0] for row in lines] == [":3", ":5", ":6", ":8", ":9", " is not used"]
    assert 'rules[0].level: Unsupported value: "metadata"' in lines[0]
    assert "rules[1].users[0]: expected a string, found the boolean false (put it in quotes)" in lines[1]
    assert "rules[1].verbs: expected a list, found the string 'get' (write [\"get\"])" in lines[2]
    assert 'duplicate field "rules[2].level" (kube-apiserver takes the last one)' in lines[3]
    assert 'rules[2].omitStages[0]: Invalid value: "Never"' in lines[4]
    assert lines[5].endswith("5 errors")


def test_record_sizes_have_units():
    for size in ("1", "64K", "2m", "1G"):
        assert run_exec(b"", "--policy", "builtin:recommended", "--max-record-size", size).returncode == 0


def test_a_wrong_format_is_hinted_at():
    result = run_exec(b'{"auditID":"a","verb":"get","user":{}}\n', "--policy", "builtin:recommended")
    assert b"no record was an audit event: the input looks like JSON text; use --format json" in result.stderr
    assert result.stdout == b'{"auditID":"a","verb":"get","user":{}}\n'


FORWARD_HEADINGS = "Policy Clients Upstreams Records Tags Logging Metrics Timeouts Shutdown Limits Other"


def sections(command):
    """The options of each section of a command's help."""
    found = {}
    for heading, rows in re.findall(r"^(\w[\w ]+):\n((?:  .*\n)+)", run(command, "--help").stdout, re.M):
        found[heading] = re.findall(r"^  (?:-., )?(--[\w-]+)", rows, re.M)
    return found


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        ("exec", ["Policy", "Records", "Logging", "Metrics", "Shutdown", "Limits", "Other"]),
        ("forward", FORWARD_HEADINGS.split()),
        ("compile", ["Script", "Policy", "Records", "Other"]),
    ],
)
def test_help_shows_options_under_headings(command, headings):
    found = sections(command)
    assert list(found) == headings
    options = [option for rows in found.values() for option in rows]
    assert len(options) == len(set(options))
    assert found["Other"] == ["--help"]


def test_help_begins_with_what_is_needed_first():
    assert sections("exec")["Policy"][0] == "--policy"
    forward = sections("forward")
    assert (forward["Clients"][0], forward["Upstreams"][0]) == ("--listen", "--upstream")
    assert sections("compile")["Script"][0] == "--output"


def test_exec_imports_nothing_that_only_other_commands_need():
    code = (
        "import sys\n"
        "from kube_audit_filter.cli import exec_command\n"
        "print([name for name in sys.modules if name.split('.')[:2] in (['asyncio'], ['rich'],"
        " ['kube_audit_filter', 'forward'], ['kube_audit_filter', 'compiler'], ['prometheus_client'])])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert result.stdout == b"[]\n"


@pytest.mark.parametrize("command", ["exec", "compile"])
def test_a_directory_in_place_of_a_policy_is_said_to_be_one(tmp_path, command):
    arguments = ["--policy", str(tmp_path)] if command == "exec" else [str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "kube_audit_filter", command, *arguments],
        input=b"",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.decode() == (
        f"kube-audit-filter: {tmp_path}: Is a directory: name the policy's file in it,"
        f" e.g. {tmp_path}/policy.yaml\n"
    )


def test_a_hundred_errors_are_counted(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(f"apiVersion: audit.k8s.io/v1\nrules: [{{level: None}}]\nomitStages: [{'x, ' * 100}]\n")
    lines = run_exec(b"", "--policy", str(path)).stderr.decode().splitlines()
    assert len(lines) == 22
    assert lines[-2:] == [
        f"kube-audit-filter: {path}: and 80 more problems",
        f"kube-audit-filter: {path} is not used: 100 errors",
    ]
