"""Explanations say what the evaluator did: the same rule, and the condition that decided."""

import inspect

from hypothesis import given, settings

from filter_engine import Policy, PolicyActions, PolicyEvaluator, conditions
from filter_engine.analysis.explain import SEEN, Explainer
from tests.support import event
from tests.support.filter_policies import events, filter_policies

POLICY = """\
apiVersion: kube-audit-filter.io/v1
kind: FilterPolicy
defaultLevel: Metadata
rules:
- name: node-reads
  level: None
  users: ["system:node:*"]
  verbs: [get, list]
  except:
  - responseCodes: ["4xx"]
  - resources: [{group: "", resources: [secrets]}]
- name: secrets
  level: Metadata
  resources: [{group: "", resources: [secrets]}]
  sample: {rate: 1}
"""


def explained(**fields):
    return Explainer(Policy.from_yaml(POLICY)).explain(event(**fields))


def test_the_condition_that_is_not_met_says_what_it_saw():
    found = explained(user={"username": "alice"}, objectRef={"resource": "pods", "namespace": "shop"})
    assert found.decision.rule is None
    first, second = found.rules
    assert (first.name, first.line, first.matched) == ("node-reads", 5, False)
    (users,) = first.looked
    assert (users.name, users.wanted, users.saw, users.is_met) == ("users", ["system:node:*"], "alice", False)
    assert users.paths == ("user.username", "user.groups")
    assert second.looked[-1].saw == "pods"


def test_an_exception_that_matched_is_named():
    found = explained(user={"username": "system:node:a"}, verb="get", objectRef={"resource": "secrets"})
    first, second = found.rules
    assert (first.matched, first.exception) == (False, 1)
    assert [each.name for each in first.exception_looked] == ["resources"]
    assert second.matched
    assert found.changed is not None
    assert found.changed.event["annotations"] == {"kube-audit-filter.io/sample-rate": "1"}


@settings(max_examples=100)
@given(document=filter_policies, sent=events)
def test_an_explanation_agrees_with_the_evaluator(document, sent):
    policy = Policy.from_dict(document)
    decision = PolicyEvaluator(policy).evaluate(sent)
    found = Explainer(policy).explain(sent)
    assert found.decision == decision
    assert [rule.matched for rule in found.rules].count(True) == (decision.rule is not None)
    for rule in found.rules[:-1]:
        assert not rule.matched
        assert rule.exception is not None or not rule.looked[-1].is_met
    becomes = PolicyActions(policy).of(decision).apply(sent)
    assert (found.changed.event if found.changed else None) == becomes


def test_no_condition_is_missing():
    classes = {each for _, each in inspect.getmembers(conditions, inspect.isclass) if hasattr(each, "is_met")}
    assert classes - {conditions.Condition, conditions.Except} == set(SEEN)
