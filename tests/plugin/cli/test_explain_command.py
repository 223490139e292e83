"""``kube-audit-filter explain``: rule by rule, for events and for requests in words."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.filter_engine.analysis.test_explain import POLICY
from tests.support import event, line

NODE = event(
    user={"username": "system:node:a"}, verb="get", objectRef={"resource": "pods", "namespace": "shop"}
)
ALICE = event(user={"username": "alice"}, verb="list", objectRef={"resource": "secrets", "name": "db"})


@pytest.fixture
def explain(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)

    def explain(*arguments, stdin=b""):
        command = [sys.executable, "-m", "kube_audit_filter", "explain", "policy.yaml", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, check=False)

    return explain


def test_an_event_is_explained_rule_by_rule(explain):
    done = explain(stdin=line(ALICE))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == (
        "alice list secrets/db (ResponseComplete, recorded at Metadata)\n"
        "kept: rule 1 (secrets) at policy.yaml:12 has level Metadata\n"
        "\n"
        "rule 0 (node-reads) at policy.yaml:5 does not match\n"
        '    ✗ users: ["system:node:*"]; the event has alice\n'
        "rule 1 (secrets) at policy.yaml:12 matches\n"
        '    ✓ resources: [{"resources": ["secrets"]}]; the event has secrets, named db\n'
        "sample: the event is one of those that 1 keeps\n"
        "\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        line(NODE) + line(ALICE),
        json.dumps([NODE, ALICE]).encode(),
        json.dumps({"kind": "EventList", "items": [NODE, ALICE]}, indent=2).encode(),
        yaml.safe_dump_all([NODE, ALICE]).encode(),
        line({"log": json.dumps(NODE)}) + b"\n" + line({"message": json.dumps(ALICE)}),
    ],
    ids=["lines", "a list", "an EventList", "YAML", "text in records"],
)
def test_events_come_in_many_forms(explain, data):
    done = explain("--all", stdin=data)
    first, second = done.stdout.decode().splitlines()
    assert first.endswith("dropped: rule 0 (node-reads) at policy.yaml:5 has level None")
    assert second.endswith("kept: rule 1 (secrets) at policy.yaml:12 has level Metadata")
    assert done.stderr == b"kept=1 dropped=1\n"


def test_files_are_named_with_lines(explain, tmp_path):
    (tmp_path / "a.log").write_bytes(line(NODE) + line(ALICE))
    places = [each.partition(": ")[0] for each in explain("a.log", "--all").stdout.decode().splitlines()]
    assert places == ["a.log:1", "a.log:2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--as system:node:a --verb get --resource pods", "dropped: rule 0 (node-reads)"),
        (
            "--as system:node:a --verb get --resource pods --code 403",
            "kept: no rule matches, and defaultLevel is",
        ),
        ("--as alice --verb get --resource secrets -n shop --name db", "kept: rule 1 (secrets)"),
        ("--verb get --url /healthz", "kept: no rule matches, and defaultLevel is Metadata"),
    ],
)
def test_a_request_can_be_said_in_words(explain, options, expected):
    done = explain(*options.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[1].startswith(expected)


def test_json_has_all_that_the_text_has(explain):
    found = json.loads(
        explain("--output", "json", "--as", "alice", "--verb", "get", "--resource", "secrets").stdout
    )
    assert (found["kept"], found["rule"], found["name"], found["line"]) == (True, 1, "secrets", 12)
    assert found["rules"][0]["conditions"] == [
        {
            "name": "users",
            "wanted": ["system:node:*"],
            "saw": "alice",
            "is_met": False,
            "paths": ["user.username", "user.groups"],
        }
    ]
    assert found["becomes"]["objectRef"] == {"resource": "secrets"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([], b"text", "standard input: expected an audit event, found text"),
        (
            [],
            b'{"verb": "get"}',
            "standard input: expected an audit event, found an object without auditID and user",
        ),
        ([], line(ALICE) + b"{\n", "standard input:2: "),
        ([], b"a: [", "standard input: expected an audit event as JSON or YAML"),
        (["nothing.json"], b"", "nothing.json: No such file or directory"),
        (["--verb", "get"], b"", "a request has a --verb, and either a --resource or a --url"),
        (["--as", "a", "x.json"], b"", "explain a request (--as, --verb, …) or events, not both"),
    ],
)
def test_what_can_not_be_explained_is_an_error(explain, arguments, stdin, message):
    done = explain(*arguments, stdin=stdin)
    assert done.returncode == 1
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
