"""``kube-audit-filter test``: tests of policies, run from files of tests."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.filter_engine.analysis.test_explain import POLICY
from tests.support import event, line

TESTS = """\
policy: policy.yaml
tests:
- name: nodes read in silence
  requests:
    users: ["system:node:a", "system:node:b"]
    verbs: [get, list]
    resources: [pods, deployments.apps/status]
    namespaces: [shop]
  level: None
  rule: node-reads
- name: secrets are seen
  requests: {users: [alice, "system:node:a"], verbs: [get], resources: [secrets]}
  level: Metadata
- name: one event
  event: {verb: get, user: {username: alice}, objectRef: {resource: secrets}, annotations: {a: b}}
  keep: true
  rule: secrets
  becomes: {verb: get, annotations: {a: b, kube-audit-filter.io/sample-rate: "1"}, responseObject: null}
- name: several events
  events:
  - {verb: get, user: {username: "system:node:a"}, objectRef: {resource: pods}}
  - {verb: list, user: {username: "system:node:a"}, requestURI: /healthz}
  level: None
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(*arguments, tests=TESTS):
        (tmp_path / "own.test.yaml").write_text(tests)
        command = [sys.executable, "-m", "kube_audit_filter", "test", *arguments]
        return subprocess.run(command, capture_output=True, cwd=tmp_path, check=False, text=True)

    return run


def test_tests_that_pass_say_what_they_cover(run):
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "policy.yaml: 2 of 2 rules decide on an event of the tests\n"
        "  policy.yaml:5: rule node-reads verbs is met by all events that come so far\n"
        "  policy.yaml:12: rule secrets resources is met by all events that come so far\n"
        "4 tests, 13 events, all as expected\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "level: Metadata\n- name: one",
            "level: Request\n- name: one",
            "expected level Request, found Metadata",
        ),
        ("rule: secrets", "rule: node-reads", "expected rule node-reads to decide, found secrets"),
        ("keep: true", "keep: false", "expected it to be dropped, and it is kept"),
        ("a: b, kube", "a: c, kube", "annotations.a: expected 'c', found 'b'"),
        ('rate: "1"', "rate: null", "expected no annotations.kube-audit-filter.io/sample-rate, found '1'"),
        (
            "responseObject: null",
            "responseObject: {a: 1}",
            "responseObject: expected {'a': 1}, found nothing",
        ),
    ],
)
def test_what_is_not_as_expected_is_shown_and_ends_with_2(run, old, new, message):
    assert old in TESTS
    done = run(tests=TESTS.replace(old, new))
    assert done.returncode == 2
    assert message in done.stdout
    assert "FAILED own.test.yaml:" in done.stdout
    assert "rule 1 (secrets) at policy.yaml:12" in done.stdout
    assert done.stdout.endswith("of them not as expected\n")


def test_a_rule_that_decides_on_nothing_is_named(run):
    done = run("--run", "secrets|one")
    assert done.stdout == "2 tests, 3 events, all as expected\n"
    tests = (
        TESTS[: TESTS.index("- name: nodes")]
        + TESTS[TESTS.index("- name: secrets") : TESTS.index("- name: sev")]
    )
    assert "policy.yaml:5: rule node-reads decides on no event of the tests" in run(tests=tests).stdout


def test_junit_has_a_case_for_each_test(run, tmp_path):
    run("--junit", "out.xml", tests=TESTS.replace("rule: secrets", "rule: none"))
    (suite,) = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert suite.attrib == {"name": "own.test.yaml", "tests": "4", "failures": "1"}
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["one event"]
    assert "expected rule none to decide, found secrets" in suite[2].find("failure").text


def test_created_tests_pass_until_the_policy_changes(run, tmp_path):
    sent = [
        event(verb="get", user={"username": "system:node:a"}, objectRef={"resource": "pods"}),
        event(verb="get", user={"username": "alice"}, objectRef={"resource": "secrets"}),
        event(verb="delete", user={"username": "alice"}, objectRef={"resource": "pods"}),
    ]
    (tmp_path / "audit.log").write_bytes(b"".join(map(line, sent * 3)))
    created = run("--create", "policy.yaml", "audit.log").stdout
    assert created.count("- name: ") == 3
    assert run(tests=created).returncode == 0
    (tmp_path / "policy.yaml").write_text(
        POLICY.replace("level: Metadata\n  res", "level: None\n  res").replace("  sample: {rate: 1}\n", "")
    )
    assert run(tests=created).returncode == 2


@pytest.mark.parametrize(
    ("tests", "status", "message"),
    [
        ("policy: policy.yaml\n", 2, "own.test.yaml:1: tests: there are no tests"),
        ("tests: [{event: {verb: get}, keep: true}]\n", 2, "policy: expected the policy that is tested"),
        (
            "policy: a.yaml\ntests: [{event: {verb: get}, keep: true}]\n",
            1,
            "a.yaml: No such file or directory",
        ),
        ("policy: builtin:x\ntests: [{event: {verb: get}, keep: true}]\n", 1, "'builtin:x' is not built in"),
        (
            TESTS.replace("level: None", "level: none"),
            2,
            "own.test.yaml:9: tests[0].level: expected one of None",
        ),
        (TESTS.replace("verbs: [get, list]", "verb: [get]"), 2, 'unknown field "tests[0].requests.verb"'),
        (
            TESTS.replace("  keep: true\n  rule: secrets\n  becomes", "  was"),
            2,
            "expects nothing: give it level",
        ),
        (
            TESTS.replace("events:\n  - {verb: get, ", "events:\n  - {"),
            2,
            "expected an audit event with a verb",
        ),
        ("policy: [", 2, "own.test.yaml:"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_with_its_line(run, tests, status, message):
    done = run(tests=tests)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_test_is_a_failure(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments in (["empty"], ["--run", "nothing like it"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert "there is no test" in done.stderr
