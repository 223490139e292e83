"""What is done with an event after a rule has matched: sampling, reduction, and their order."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Policy, PolicyActions, PolicyEvaluator, sampling
from tests.support import event

POLICY = """
apiVersion: kube-audit-filter.io/v1
kind: FilterPolicy
reduce: true
omitManagedFields: true
omitStages: [Panic]
rules:
- {level: Metadata, verbs: [get], sample: {rate: %s}}
- {level: Request, verbs: [list], sample: {rate: 0.5, annotate: false}}
- {level: RequestResponse, verbs: [create]}
"""


def apply(sent, text=POLICY % 0.5, **options):
    policy = Policy.from_yaml(text)
    decision = PolicyEvaluator(policy).evaluate(sent)
    return PolicyActions(policy, **options).of(decision).apply(sent)


# An implementation of the sample in another language has to give the same.
VECTORS = {
    "": "d41d8cd98f00b",
    "a": "0cc175b9c0f1b",
    "5ce5e9e6-2a2b-4e0c-9f0f-7f6d1f0d8a11": "3552f0d370145",
    "é\U0001f600": "62b3afe3b01f6",
}


@pytest.mark.parametrize("audit_id", VECTORS)
def test_the_hash_is_the_beginning_of_the_md5_of_the_audit_id(audit_id):
    digest = hashlib.md5(audit_id.encode()).hexdigest()[:13]
    number = int(digest, 16)
    assert digest == VECTORS[audit_id]
    assert sampling.keeps(audit_id, sampling.threshold((number + 1) / 16**13))
    assert not sampling.keeps(audit_id, sampling.threshold(number / 16**13))


def test_thresholds_are_hexadecimal_digits_and_1_keeps_everything():
    assert sampling.threshold(0.5) == "8000000000000"
    assert sampling.threshold(0.01) == "028f5c28f5c28"
    assert sampling.threshold(1e-15) == "0000000000004"
    assert sampling.threshold(1) > "fffffffffffff"


@given(audit_id=st.text(), rates=st.tuples(st.floats(0, 1, exclude_min=True), st.floats(0, 1)))
def test_what_a_rate_keeps_each_higher_rate_keeps_too(audit_id, rates):
    lower, higher = map(sampling.threshold, sorted(rates))
    assert sampling.keeps(audit_id, higher) or not sampling.keeps(audit_id, lower)


def test_about_as_many_are_kept_as_the_rate_says():
    kept = sum(sampling.keeps(f"id-{number}", sampling.threshold(0.1)) for number in range(20_000))
    assert 1_800 < kept < 2_200


def test_all_stages_of_a_request_share_one_fate_and_a_dropped_stage_stays_dropped():
    fates = set()
    for number in range(40):
        sent = event(verb="list", auditID=f"id-{number}")
        stages = [apply(sent | {"stage": stage}) for stage in ("RequestReceived", "ResponseComplete")]
        assert (stages[0] is None) is (stages[1] is None)
        fates.add(stages[0] is None)
        assert apply(sent | {"stage": "Panic"}) is None
    assert fates == {True, False}


def test_the_rate_is_an_annotation_beside_those_that_stay():
    patch = {"patch.webhook.admission.k8s.io/round_0_index_0": "{}", "k": "v"}
    sent = event(verb="get", annotations=patch, requestObject={}, level="Request", auditID="a")
    kept = apply(sent, POLICY % 1)
    assert kept["annotations"] == {"k": "v", "kube-audit-filter.io/sample-rate": "1"}
    assert kept["level"] == "Metadata"
    assert "requestObject" not in kept
    assert sent["annotations"] is patch
    assert len(patch) == 2
    assert apply(event(verb="get", auditID="a"), POLICY % 0.25)["annotations"] == {
        "kube-audit-filter.io/sample-rate": "0.25"
    }


def test_without_annotate_an_event_that_needs_no_change_stays_as_it_is():
    sent = event(verb="list", auditID="a", level="Metadata")
    assert apply(sent) == sent


def test_the_policy_says_whether_to_reduce_and_the_caller_if_it_does_not():
    sent = event(verb="create", level="RequestResponse", responseObject={"metadata": {"managedFields": []}})
    reduced = {**sent, "responseObject": {"metadata": {}}}
    assert apply(sent) == reduced == apply(sent, reduce=False)
    off = POLICY.replace("reduce: true", "reduce: false")
    assert apply(sent, off % 1, reduce=True) is sent
    silent = POLICY.replace("reduce: true", "")
    assert apply(sent, silent % 1, reduce=True) == reduced
    assert apply(sent, silent % 1) is sent
