"""Every verdict of the real kube-apiserver, against this engine."""

import base64
import json

import msgpack
import pytest

from filter_engine import (
    Decision,
    GroupResources,
    Level,
    Policy,
    PolicyError,
    PolicyEvaluator,
    PolicyRule,
    reduce_event,
)
from filter_engine.request import is_event
from tests.support import filter_bytes, line, make_stream, verdicts


def as_verdict(decision: Decision):
    return {
        "level": decision.level.value,
        "rule": -1 if decision.rule is None else decision.rule,
        "stageOmitted": decision.stage_omitted,
        "omitManagedFields": decision.omit_managed_fields,
    }


@pytest.mark.parametrize("name", ["policy_evaluation.jsonl.gz", "gce_policy.jsonl.gz"])
def test_decisions_are_those_of_kube_apiserver(name):
    decided = 0
    for case in verdicts(name):
        evaluator = PolicyEvaluator(Policy.from_dict(case["policy"]))
        for event, expected in zip(case["events"], case["expected"], strict=True):
            assert as_verdict(evaluator.evaluate(event)) == expected, (event, case["policy"])
            decided += 1
    assert decided > 3000


@pytest.mark.parametrize("name", ["policy_evaluation.jsonl.gz", "gce_policy.jsonl.gz"])
@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_a_stream_is_filtered_as_kube_apiserver_would(name, format):
    """The same verdicts on the filter's own way through encoded events, with all that it remembers."""
    write = msgpack.packb if format == "msgpack" else line
    for case in verdicts(name):
        kept = [
            write(event)
            for event, expected in zip(case["events"], case["expected"], strict=True)
            if (expected["level"] != "None" and not expected["stageOmitted"]) or not is_event(event)
        ]
        undecided = sum(not is_event(event) for event in case["events"])
        sent = b"".join(map(write, case["events"]))
        stream = make_stream(format, policy_text=json.dumps(case["policy"]))
        assert filter_bytes(sent, stream=stream)[1] == b"".join(kept)
        assert b"".join(stream.feed(sent)) == b"".join(kept), "the second time, from memory"
        # Some have the path of a resource and no objectRef: kube-apiserver never writes such an event.
        assert stream.counters.undecided_records == 2 * undecided


REQUESTS = verdicts("request_verdicts.jsonl.gz")


def test_decisions_on_recorded_events_are_those_on_their_requests():
    """Though kube-apiserver has filled in what objectRef lacked from the body."""
    decided = 0
    for case in REQUESTS:
        for one in case["policies"]:
            evaluator = PolicyEvaluator(Policy.from_dict(one["policy"]))
            for event, expected in zip(case["events"], one["expected"], strict=True):
                if expected is not None:
                    assert list(as_verdict(evaluator.evaluate(event)).values()) == expected, event
                    decided += 1
    assert decided == 20_750


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_recorded_events_are_filtered_by_their_requests(format):
    write = msgpack.packb if format == "msgpack" else line
    for case in REQUESTS:
        for one in case["policies"]:
            decided = [
                (write(event), expected)
                for event, expected in zip(case["events"], one["expected"], strict=True)
                if expected is not None
            ]
            sent = b"".join(record for record, _ in decided)
            kept = b"".join(
                record for record, (level, _, omitted, _) in decided if level != "None" and not omitted
            )
            stream = make_stream(format, policy_text=json.dumps(one["policy"]))
            assert filter_bytes(sent, stream=stream)[1] == kept
            assert b"".join(stream.feed(sent)) == kept, "the second time, from memory"
            assert stream.counters.undecided_records == 0


def test_patterns_match_as_in_kube_apiserver():
    kinds = set()
    for case in verdicts("matching_matrix.jsonl.gz"):
        if case["kind"] == "path":
            rule = PolicyRule(Level.METADATA, non_resource_urls=(case["spec"],))
            event = {"requestURI": "".join(f"%{byte:02X}" for byte in case["path"].encode())}
        else:
            rule = PolicyRule(Level.METADATA, resources=(GroupResources(resources=(case["pattern"],)),))
            event = {"objectRef": {"resource": case["resource"], "subresource": case["subresource"]}}
        # The matrix has patterns that validation refuses, so the policy is not loaded but made.
        decision = PolicyEvaluator(Policy((rule,))).evaluate(event)
        assert (decision.rule == 0) is case["match"], case
        kinds.add(case["kind"])
    assert kinds == {"path", "resource"}


def test_reduced_events_are_those_that_kube_apiserver_writes():
    for case in verdicts("level_reduction.jsonl.gz"):
        evaluator = PolicyEvaluator(Policy.from_dict(case["policy"]))
        decided = [(event, evaluator.evaluate(event)) for event in case["recorded"]]
        assert [reduce_event(event, decision) for event, decision in decided if decision.keep] == case[
            "expected"
        ]


LOADING = [case for case in verdicts("policy_loading.jsonl") if case.get("policyYAML") != "null"]


@pytest.mark.parametrize("case", LOADING, ids=[case["description"] for case in LOADING])
def test_policies_load_as_in_kube_apiserver(case):
    def load(*, strict):
        if "policy" in case:
            return Policy.from_dict(case["policy"], strict=strict)
        return Policy.from_yaml(case["policyYAML"], strict=strict)

    if not case["accepted"]:
        with pytest.raises(PolicyError) as error:
            load(strict=False)
        for text in validation_errors(case["error"]):
            assert text in [problem.message for problem in error.value.problems]
        with pytest.raises(PolicyError):
            load(strict=True)
        return
    policy = load(strict=False)
    assert policy.to_dict() == case["loaded"]
    assert bool(policy.warnings) == bool(case["warnings"])
    if case["warnings"]:
        with pytest.raises(PolicyError):
            load(strict=True)
    else:
        assert load(strict=True) == policy


READING = verdicts("policy_reading.jsonl.gz")
# What is not decoding: kube-apiserver says it later, or never.
OF_VALIDATION = ("Required value", "Unsupported value", "Invalid value", "the policy has no rules")


def test_texts_are_read_as_kube_apiserver_reads_them():
    for case in READING:
        text = base64.b64decode(case["base64"]) if "base64" in case else case["text"]
        read, is_strict = reading(text)
        if case.get("here") == "refused":
            assert case["accepted"], case
            assert read == "refused", case
            continue
        assert (read != "refused") == case["accepted"], case
        if isinstance(read, dict):
            metadata = read.pop("metadata")
            assert read == case["policy"] | {"rules": case["policy"]["rules"] or []}, case
            if case.get("here") != "other metadata":
                fields = ("name", "labels", "annotations", "generation")
                assert {key: metadata[key] for key in fields if metadata.get(key)} == case["metadata"], case
            assert is_strict == (case["strict"] and case.get("here") != "stricter"), case


def reading(text):
    """What a text is read as: a policy as JSON data, ``invalid`` (read, but not valid) or ``refused``."""
    try:
        policy = Policy.from_yaml(text, strict=False)
    except PolicyError as error:
        errors = [problem.message for problem in error.problems if not problem.lenient]
        is_decoded = all(any(words in message for words in OF_VALIDATION) for message in errors)
        return ("invalid" if is_decoded else "refused"), None
    fields = policy.to_dict()
    del fields["kind"], fields["apiVersion"]
    return fields, not policy.warnings


def validation_errors(text):
    """The single errors in kube-apiserver's text: ``[a, b]`` where there are several."""
    if not text.startswith(("rules[", "omitStages[", "[")):
        return []
    text = text.removeprefix("[").removesuffix("]") if text.startswith("[") else text
    separators = [", rules[", ", omitStages["]
    for separator in separators:
        text = text.replace(separator, "\n" + separator[2:])
    return text.split("\n")
