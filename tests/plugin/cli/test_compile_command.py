"""``kube-audit-filter compile``, as a user runs it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from plugin.service.files import replace_file
from tests.support import DROPPED, KEPT, POLICY
from tests.support.lua_filter import LuaFilter

COMPILE = [sys.executable, "-m", "kube_audit_filter", "compile"]


def run(*arguments, **options):
    return subprocess.run([*COMPILE, *arguments], capture_output=True, timeout=60, check=False, **options)


def test_the_script_goes_to_stdout_or_to_a_file(policy_file, tmp_path):
    printed = run(policy_file)
    assert (printed.returncode, printed.stderr) == (0, b"")
    lua = LuaFilter(script=printed.stdout.decode("ascii"))
    assert (lua.keeps(KEPT), lua.keeps(DROPPED)) == (True, False)
    target = tmp_path / "policy.lua"
    for _ in range(2):
        assert run(policy_file, "-o", str(target)).returncode == 0
        assert target.read_bytes() == printed.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.lua", "policy.yaml"]


def test_a_policy_comes_from_stdin_or_is_built_in(tmp_path):
    script = run("-", input=POLICY.encode())
    assert script.returncode == 0
    assert b"policy     standard input, 5 rules\n" in script.stdout
    assert b"policy     recommended.yaml" in run("builtin:recommended").stdout
    for name in ("builtin:other", "builtin:../x"):
        result = run(name)
        assert (result.returncode, result.stdout) == (1, b"")
        assert b"is not built in; there is builtin:recommended" in result.stderr


def test_the_options_are_those_of_exec(policy_file):
    script = run(policy_file, "--event-key", "a.b", "--reduce", "--report-interval", "0").stdout.decode()
    assert "options    --event-key a.b --reduce --report-interval 0" in script
    assert not LuaFilter(script=script).keeps({"a": {"b": DROPPED}})
    for wrong in (["--event-key", "a."], ["--report-interval", "-1"], ["--level-match", "x"], ["--nonsense"]):
        result = run(policy_file, *wrong)
        assert (result.returncode, result.stdout) == (1, b"")
        assert wrong[0].encode() in result.stderr
    assert run().returncode == 1


CODES = b"apiVersion: audit.k8s.io/v1\nrules:\n- level: Metadata\n  codes: [403]\n"
UNKNOWN = b"apiVersion: audit.k8s.io/v1\nrules:\n- level: None\n  nonResourceUrls: [/a]\n"


def test_a_policy_that_is_not_understood_is_not_compiled(tmp_path):
    policy, target = tmp_path / "policy.yaml", tmp_path / "policy.lua"
    target.write_text("the old one")
    policy.write_bytes(UNKNOWN)
    result = run(str(policy), "-o", str(target))
    assert result.returncode == 2
    assert b'policy.yaml:4: unknown field "rules[0].nonResourceUrls"' in result.stderr
    assert b"--lenient accepts it" in result.stderr
    assert target.read_text() == "the old one"
    lenient = run(str(policy), "--lenient")
    assert lenient.returncode == 0
    assert b"nonResourceUrls" in lenient.stderr
    assert b"options    --lenient\n" in lenient.stdout
    assert run("-", input=CODES).returncode == 2
    assert run("-", "--level-match", "exact", input=CODES).returncode == 0
    missing = run("missing.yaml")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert b"missing.yaml: No such file or directory" in missing.stderr


def test_a_policy_that_redacts_is_refused_before_anything_is_written(tmp_path):
    target = tmp_path / "policy.lua"
    target.write_text("the old one")
    text = (
        b"apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
        b"rules:\n- {name: logins, level: Request, redact: [userAgent]}\n"
    )
    result = run("-", "-o", str(target), input=text)
    assert (result.returncode, result.stdout) == (2, b"")
    said = " ".join(result.stderr.decode().split())
    assert "standard input:4: rules[0], logins, can't be compiled: the script can't redact" in said
    assert "take exec or forward" in said
    assert target.read_text() == "the old one"


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path):
    target, link = tmp_path / "policy.lua", tmp_path / "link.lua"
    link.symlink_to(target)
    old = os.umask(0o027)
    try:
        replace_file(str(link), b"1")
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o600)
    with target.open("rb") as before:
        replace_file(str(link), b"2")
        assert before.read() == b"1"
    target.chmod(0o666)
    replace_file(str(link), b"3")
    assert stat.S_IMODE(target.stat().st_mode) == 0o666  # whatever the umask is
    target.chmod(0o600)
    replace_file(str(link), b"2")
    assert link.is_symlink()
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"2", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.lua", "policy.lua"]


def test_a_target_that_cannot_be_written_is_named(policy_file, tmp_path):
    for target in (tmp_path, tmp_path / "missing" / "policy.lua"):
        result = run(policy_file, "-o", str(target))
        assert result.returncode == 1
        assert f"{target}: ".encode() in result.stderr
        assert b"Traceback" not in result.stderr
    with pytest.raises(OSError, match="Not a directory"):
        replace_file(f"{policy_file}/x", b"")


def test_a_device_is_written_to(policy_file):
    assert run(policy_file, "-o", "/dev/null").returncode == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_pipe_is_written_to(policy_file):
    assert run(policy_file, "-o", "/dev/stdout").stdout == run(policy_file).stdout


@pytest.mark.parametrize("way", ["same", "dots", "absolute", "symbolic link", "hard link", "directory link"])
@pytest.mark.parametrize("is_stdin", [False, True])
def test_the_policy_is_not_overwritten(way, is_stdin, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    (tmp_path / "symbolic").symlink_to("p.yaml")
    (tmp_path / "hard").hardlink_to(policy)
    (tmp_path / "there").symlink_to(".")
    output = {
        "same": "p.yaml",
        "dots": f"./../{tmp_path.name}//p.yaml",
        "absolute": str(policy),
        "symbolic link": "symbolic",
        "hard link": "hard",
        "directory link": "there/p.yaml",
    }[way]
    with policy.open("rb") as file:
        result = run("-" if is_stdin else "p.yaml", "-o", output, stdin=file, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, b"")
    assert policy.read_text() == POLICY
    said = " ".join(result.stderr.decode().split())
    assert f"--output: {output} is the policy's own file" in said
    assert "Name another file" in said


def test_a_copy_of_the_policy_may_be_overwritten(policy_file, tmp_path):
    copy = tmp_path / "copy.yaml"
    copy.write_text(POLICY)
    assert run(policy_file, "-o", str(copy)).returncode == 0
    assert copy.read_bytes() == run(policy_file).stdout


def test_a_policy_that_keeps_nothing_is_compiled_with_a_warning():
    result = run(
        "-", input=b"apiVersion: audit.k8s.io/v1\nrules: [{level: None, users: ['system:node:*']}]\n"
    )
    assert result.returncode == 0
    assert result.stderr.decode().splitlines() == [
        "kube-audit-filter: warning: standard input:2: nothing is kept: the rule rules[0] has level None, and"
        " events that no rule matches are dropped too; add a last rule '- level: Metadata' to keep the rest"
        " [nothing-kept]",
        'kube-audit-filter: warning: standard input:2: rules[0].users: "system:node:*" matches nothing,'
        ' because users has no wildcards: write userGroups: ["system:nodes"] [literal-wildcard]',
    ]
