"""What the exact analyses say holds for every event that can be drawn."""

from hypothesis import given, settings

from filter_engine import Level, Policy, PolicyEvaluator
from filter_engine.analysis.compare import compare
from filter_engine.analysis.reachability import reachability
from filter_engine.request import is_event
from tests.filter_engine.analysis.believable_events import believable_events
from tests.support.filter_policies import filter_policies


@settings(max_examples=300, deadline=None)
@given(filter_policies, believable_events())
def test_the_rule_that_decides_on_an_event_can_decide(document, event):
    policy = Policy.from_dict(document)
    found = reachability(policy)
    decision = PolicyEvaluator(policy).evaluate(event)
    if decision.rule is None:
        assert found.unmatched_witness is not None
    else:
        assert event["stage"] in found.rules[decision.rule].stages


@settings(max_examples=300, deadline=None)
@given(filter_policies, filter_policies, believable_events())
def test_an_event_that_shows_a_difference_is_in_one_of_the_differences(old, new, event):
    old, new = Policy.from_dict(old), Policy.from_dict(new)
    before, after = PolicyEvaluator(old).evaluate(event), PolicyEvaluator(new).evaluate(event)
    levels = [decision.level if decision.keep else Level.NONE for decision in (before, after)]
    comparison = compare(old, new)
    told = {(each.old_rule, each.new_rule, each.old_level, each.new_level) for each in comparison.differences}
    if levels[0] is not levels[1]:
        assert (before.rule, after.rule, *levels) in told


@settings(max_examples=100, deadline=None)
@given(filter_policies, filter_policies)
def test_witnesses_are_whole_events_that_are_decided_on_as_they_say(old, new):
    old, new = Policy.from_dict(old), Policy.from_dict(new)
    evaluators = PolicyEvaluator(old), PolicyEvaluator(new)
    for each in compare(old, new).differences:
        assert is_event(each.witness)
        decisions = [evaluator.evaluate(each.witness) for evaluator in evaluators]
        assert [decision.rule for decision in decisions] == [each.old_rule, each.new_rule]
        levels = [decision.level if decision.keep else Level.NONE for decision in decisions]
        assert levels == [each.old_level, each.new_level]
        assert each.sets


@settings(max_examples=50, deadline=None)
@given(filter_policies)
def test_a_policy_is_equivalent_to_itself(document):
    policy = Policy.from_dict(document)
    assert compare(policy, policy).is_equivalent
