"""The recipes of docs/cookbook.md: each policy is run on the events beside it."""

import re

import pytest

from filter_engine import Policy
from filter_engine.analysis import find
from filter_engine.model import Level
from tests.support import ROOT
from tests.support.examples import check_example, read_examples

PAGE = ROOT / "docs/cookbook.md"
EXAMPLES = read_examples(PAGE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
def test_each_recipe_does_what_it_says(example):
    check_example(example)


def test_each_recipe_has_a_policy_and_events():
    recipes = re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [example.heading for example in EXAMPLES] == recipes
    assert len(recipes) >= 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
def test_the_events_show_each_rule_and_both_fates(example):
    policy = Policy.from_yaml(example.policy)
    assert policy.kind == "FilterPolicy"
    assert {case["rule"] for case in example.cases if "rule" in case} == set(policy.rule_names.values())
    assert len(policy.rule_names) == len(policy.rules)
    assert find(policy) == []
    fates = {fate for case in example.cases for fate in case.keys() & {"keep", "drop"}}
    some_go = policy.omit_stages or any(rule.level is Level.NONE or rule.sample for rule in policy.rules)
    assert fates == ({"keep", "drop"} if some_go else {"keep"})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
def test_no_recipe_drops_by_what_a_client_calls_itself(example):
    for rule in Policy.from_yaml(example.policy).rules:
        assert not (rule.level is Level.NONE and rule.user_agents)
