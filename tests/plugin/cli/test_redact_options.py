"""``--redact`` and what belongs to it: for every kind of policy, on the command line."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import POLICY
from tests.support.secret_places import EXEC, recorded

EVENT = recorded("create", "pods", subresource="exec", uri=EXEC)
KEEP = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"
OWN = (
    "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\nredaction: {method: remove}\n"
    "rules: [{level: Metadata, redact: [userAgent]}]\n"
)


@pytest.fixture
def run(tmp_path):
    def run(policy, *options):
        (tmp_path / "policy.yaml").write_text(policy)
        command = [
            sys.executable,
            "-m",
            "kube_audit_filter",
            "exec",
            "--format",
            "json",
            "--policy",
            "policy.yaml",
        ]
        sent = json.dumps(EVENT).encode() + b"\n"
        return subprocess.run(
            [*command, *options], input=sent, capture_output=True, cwd=tmp_path, check=False
        )

    return run


def test_a_kubernetes_policy_redacts_what_the_option_says(run):
    done = run(KEEP, "--redact", "builtin:secrets", "--redact", "user.groups[*]")
    left = json.loads(done.stdout)
    assert left["requestURI"] == EXEC.replace("s3cret-mysql", "REDACTED").replace(
        "s3cret-argument", "REDACTED"
    )
    assert left["user"] == {**EVENT["user"], "groups": ["REDACTED", "REDACTED"]}
    assert left | {"requestURI": 0, "user": 0} == EVENT | {"requestURI": 0, "user": 0}
    assert b"rewritten=1 reduced=0 redacted=1 " in done.stderr


def test_hashes_have_a_key(run, tmp_path):
    (tmp_path / "key").write_bytes(os.urandom(32))
    first, second = (
        json.loads(
            run(KEEP, "--redact", "user", "--redact-method", "hash", "--redact-key-file", "key").stdout
        )["user"]
        for _ in range(2)
    )
    assert first == second
    assert first["username"].startswith("hmac-sha256:")


def test_the_option_adds_to_what_a_filter_policy_says(run):
    done = run(OWN, "--redact", "sourceIPs")
    left = json.loads(done.stdout)
    assert left == {name: EVENT[name] for name in EVENT if name not in ("userAgent", "sourceIPs")}


@pytest.mark.parametrize(
    ("policy", "options", "status", "message"),
    [
        (
            KEEP,
            ["--redact", "builtin:secret"],
            1,
            "there is no such set; there is builtin:secrets, builtin:personal",
        ),
        (KEEP, ["--redact", "data"], 1, "'data': expected the name of a field of audit events first"),
        (KEEP, ["--redact-method", "mask"], 1, "--redact is missing"),
        (KEEP, ["--redact", "user", "--redact-method", "hash"], 1, "go together: hashes need a key"),
        (KEEP, ["--redact", "user", "--redact-key-file", "key"], 1, "go together: hashes need a key"),
        (
            KEEP,
            ["--redact", "user", "--redact-method", "hash", "--redact-key-file", "key"],
            2,
            "policy.yaml: redaction.keyFile: key: No such file or directory (head -c 32 /dev/urandom > FILE",
        ),
        (
            OWN,
            ["--redact", "user", "--redact-method", "mask"],
            2,
            "policy.yaml: redaction: the policy says how to redact, and --redact-method says something else",
        ),
    ],
)
def test_options_that_cannot_be_used_are_errors(run, policy, options, status, message):
    done = run(policy, *options)
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert done.stdout == b""


def test_nothing_is_redacted_in_a_dry_run_but_it_is_counted(run):
    done = run(KEEP, "--redact", "builtin:secrets", "--dry-run")
    assert json.loads(done.stdout) == EVENT
    assert b"redacted=1" in done.stderr


def test_a_policy_without_redaction_leaves_secrets_where_they_are(run):
    assert json.loads(run(POLICY + "- level: Metadata\n").stdout) == EVENT
