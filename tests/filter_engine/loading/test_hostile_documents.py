"""What a document may cost: in proportion to its bytes, and never more than some memory."""

import subprocess
import sys
import time

import pytest

from filter_engine import Policy, PolicyError
from filter_engine.analysis import find
from filter_engine.errors import MAX_MESSAGE, MAX_SHOWN
from tests.filter_engine.loading.hostile_documents import DOCUMENTS, HEAD
from tests.support import ROOT

SIZE = 30_000


def answer(text, *, strict):
    """Load a policy and look at it; returns all that is said."""
    try:
        policy = Policy.from_yaml(text, strict=strict)
    except PolicyError as error:
        return str(error)
    return "\n".join([*policy.warnings, *(finding.message for finding in find(policy))][:MAX_SHOWN])


def cost(text):
    """CPU seconds, the least of two attempts."""
    attempts = []
    for _ in range(2):
        start = time.process_time()
        for strict in (True, False):
            answer(text, strict=strict)
        attempts.append(time.process_time() - start)
    return min(attempts)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_twice_the_text_takes_twice_the_time(name):
    make = DOCUMENTS[name]
    assert any(cost(make(2 * SIZE)) < 3 * cost(make(SIZE)) + 0.05 for _ in range(3))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_said_of_a_document_is_bounded(name):
    for strict in (True, False):
        said = answer(DOCUMENTS[name](SIZE), strict=strict)
        assert len(said) < (MAX_SHOWN + 1) * (MAX_MESSAGE + 50)


LOAD_ALL = """
import resource, sys
from tests.filter_engine.loading.test_hostile_documents import DOCUMENTS, answer
resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))
for name, make in DOCUMENTS.items():
    try:
        answer(make(150_000), strict=False)
    except MemoryError:
        sys.exit(name)
"""


def test_no_document_takes_much_memory():
    result = subprocess.run(
        [sys.executable, "-c", LOAD_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_first_problems_are_shown_and_the_others_counted():
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(f"{HEAD}rules: [{{level: None}}]\nomitStages: [{'x, ' * 1000}]\n", source="p.yaml")
    shown = str(caught.value).splitlines()
    assert len(shown) == MAX_SHOWN + 1
    assert shown[0].startswith('p.yaml:4: omitStages[0]: Invalid value: "x": allowed stages are ')
    assert shown[-1] == "p.yaml: and 980 more problems"
    assert caught.value.count == 1000


def test_an_error_is_found_behind_any_number_of_warnings():
    text = HEAD + "".join(f"x{i}: 1\n" for i in range(2000)) + "rules: [{level: Nine}]\n"
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text, strict=False)
    assert [problem.field for problem in caught.value.problems if not problem.lenient] == ["rules[0].level"]
    assert caught.value.count == 2001


def test_a_long_value_is_shortened_in_a_message():
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(f"{HEAD}rules: [{{level: {'x' * 5000}}}]\n")
    message = caught.value.problems[0].message
    assert '"… (5,000 characters): supported values: "None", "Metadata"' in message
    assert len(message) < 500


def test_a_policy_of_twenty_thousand_rules_is_no_attack():
    rule = "- level: None\n  users: [a, b]\n  resources: [{group: apps, resources: [deployments]}]\n"
    assert len(Policy.from_yaml(HEAD + "rules:\n" + rule * 20_000).rules) == 20_000
