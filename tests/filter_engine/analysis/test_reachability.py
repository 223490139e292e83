"""Which rules can decide, and what no rule decides."""

import pytest

from filter_engine import Policy, PolicyEvaluator
from filter_engine.analysis.reachability import reachability
from filter_engine.request import is_event
from tests.support import ROOT

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\nrules:\n"
REST = "- level: Metadata\n"
IMPOSSIBLE = [(0, "impossible", (), False)]
COVERED = [(1, "covered", (0,), False)]
SECRETS = 'resources: [{group: "", resources: [secrets]}]'


def reach(rules, head=HEAD, **options):
    return reachability(Policy.from_yaml(head + rules), **options)


def unreachable(rules, head=HEAD):
    found = reach(rules, head).unreachable
    return [(rule.rule, rule.because, rule.covered_by, rule.changes_outcome) for rule in found]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        # One earlier rule, or several together.
        ("- {level: None, verbs: [get]}\n- {level: Request, verbs: [get]}\n", [(1, "covered", (0,), True)]),
        ("- {level: None, verbs: [get]}\n- {level: None, verbs: [get]}\n", COVERED),
        (
            f"- {{level: None, {SECRETS}}}\n- {{level: None, verbs: [list]}}\n"
            '- {level: None, namespaces: ["", a]}\n- {level: Request, namespaces: [a]}\n',
            [(3, "covered", (2,), True)],
        ),
        (
            "- {level: None, verbs: [get]}\n- {level: Metadata, verbs: [list, watch]}\n"
            "- {level: Metadata, verbs: [list, get]}\n",
            [(2, "covered", (0, 1), True)],
        ),
        # Only the stages that are recorded make a difference.
        (
            "- {level: Metadata, omitStages: [Panic], verbs: [get]}\n- {level: Metadata, verbs: [get]}\n",
            [(1, "covered", (0,), True)],
        ),
        # Users and their groups.
        (
            "- {level: None, userGroups: [system:authenticated, system:unauthenticated]}\n"
            "- {level: Metadata, users: [alice, system:anonymous]}\n",
            [(1, "covered", (0,), True)],
        ),
        (
            '- {level: None, userGroups: ["system:serviceaccounts:ci"]}\n'
            '- {level: None, users: ["system:serviceaccount:ci:build"]}\n',
            COVERED,
        ),
        (
            '- {level: None, users: ["system:serviceaccount:ci:build"]}\n'
            '- {level: None, userGroups: ["system:serviceaccounts:ci"]}\n',
            [],
        ),
        (
            "- {level: None, userGroups: [a]}\n- {level: None, userGroups: [b]}\n"
            "- {level: None, userGroups: [a, b]}\n",
            [(2, "covered", (0, 1), False)],
        ),
        ("- {level: None, userGroups: [a]}\n- {level: None, userGroups: [a, b]}\n", []),
        # What there is not.
        ("- {level: None, users: [system:anonymous], userGroups: [system:nodes]}\n", IMPOSSIBLE),
        ("- {level: None, users: ['system:node:*']}\n", IMPOSSIBLE),
        ("- {level: None, users: ['system:serviceaccount:ci']}\n", IMPOSSIBLE),
        ("- {level: None, verbs: [Get]}\n", IMPOSSIBLE),
        ("- {level: None, verbs: [list], nonResourceURLs: [/healthz]}\n", IMPOSSIBLE),
        ("- {level: None, nonResourceURLs: [/api/v1/pods]}\n", IMPOSSIBLE),
        ("- {level: None, nonResourceURLs: ['/api/v1/*']}\n", []),
        (f"- {{level: None, verbs: [create], namespaces: [''], {SECRETS}}}\n", IMPOSSIBLE),
        (
            '- {level: None, resources: [{group: "", resources: [secrets/status]}]}\n',
            IMPOSSIBLE,
        ),
        (
            '- {level: None, verbs: [create], resources: [{group: "", resources: [pods/log]}]}\n',
            IMPOSSIBLE,
        ),
        ('- {level: None, namespaces: [a], resources: [{group: "", resources: [nodes]}]}\n', IMPOSSIBLE),
        # A resource that is not Kubernetes' own may have any verb and scope.
        ('- {level: None, namespaces: [""], verbs: [create], resources: [{group: a.io}]}\n', []),
        # A namespace is in itself.
        (
            "- {level: None, namespaces: [a], resources: [{resources: [namespaces], resourceNames: [b]}]}\n",
            IMPOSSIBLE,
        ),
        (
            "- {level: None, namespaces: [a], resources: [{resources: [namespaces], resourceNames: [a]}]}\n",
            [],
        ),
    ],
)  # fmt: skip
def test_rules_that_never_decide_are_found_with_the_rules_that_cover_them(rules, found):
    assert unreachable(rules + REST) == found


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("- {level: None, users: ['system:node:*']}\n- {level: None, users: ['system:*']}\n", []),
        (
            "- {level: None, users: ['system:*']}\n- {level: None, users: ['system:node:*']}\n",
            COVERED,
        ),
        (
            "- {level: None, users: ['a*'], except: [{verbs: [get]}]}\n"
            "- {level: None, users: ['ab*'], verbs: [get]}\n",
            [],
        ),
        (
            "- {level: None, users: ['a*'], except: [{verbs: [get]}]}\n"
            "- {level: None, users: ['ab*'], verbs: [list]}\n",
            COVERED,
        ),
        ("- {level: None, users: ['*'], userGroups: [a], except: [{users: ['*']}]}\n", IMPOSSIBLE),
        ("- {level: None, stages: [RequestReceived], responseCodes: [403]}\n", IMPOSSIBLE),
        ("- {level: None, stages: [Panic], responseCodes: [200]}\n", IMPOSSIBLE),
        ("- {level: None, stages: [RequestReceived], impersonatedUsers: ['*']}\n", IMPOSSIBLE),
        (
            "- {level: None, annotations: {authorization.k8s.io/decision: [forbid]}, responseCodes: [2xx]}\n",
            IMPOSSIBLE,
        ),
        ("- {level: None, sourceIPs: [10.0.0.0/8]}\n- {level: None, sourceIPs: [10.1.0.0/16]}\n", COVERED),
        ("- {level: None, sourceIPs: [10.1.0.0/16]}\n- {level: None, sourceIPs: [10.0.0.0/8]}\n", []),
        (
            "- {level: None, sourceIPs: ['8000::/1', 'a::/16', '::ffff:0:0/96']}\n"
            "- {level: None, sourceIPs: [10.0.0.0/8, 'b000::/8']}\n",
            COVERED,
        ),
        # All addresses of a request have to be in the networks.
        (
            "- {level: None, sourceIPs: [10.0.0.0/8]}\n- {level: None, sourceIPs: [11.0.0.0/8]}\n"
            "- {level: None, sourceIPs: [10.0.0.0/7]}\n",
            [],
        ),
        (
            "- {level: None, ownNamespace: prefix}\n- {level: None, ownNamespace: same}\n",
            COVERED,
        ),
        ("- {level: None, ownNamespace: same}\n- {level: None, ownNamespace: prefix}\n", []),
        (
            "- {level: None, ownNamespace: same}\n"
            "- {level: None, users: ['system:serviceaccount:ci:*'], namespaces: [ci]}\n",
            COVERED,
        ),
        ("- {level: None, ownNamespace: same, users: [alice]}\n", IMPOSSIBLE),
        # What only ends in the same way is not the same.
        ("- {level: None, users: ['a*', '*a']}\n- {level: None, users: ['*a*']}\n", []),
        ("- {level: None, users: ['*a*']}\n- {level: None, users: ['b*a']}\n", COVERED),
    ],
)  # fmt: skip
def test_patterns_exceptions_and_the_conditions_of_a_filter_policy_count(rules, found):
    assert unreachable(rules + REST, FILTER_POLICY) == found


@pytest.mark.parametrize(
    ("rules", "is_unmatched"),
    [
        (REST, False),
        ("- {level: None, verbs: [get]}\n", True),
        ("- {level: Metadata, resources: [{group: '*'}]}\n- {level: None, nonResourceURLs: ['*']}\n", False),
        (
            "- {level: Metadata, userGroups: [system:authenticated, system:unauthenticated]}\n",
            True,
        ),  # no user
        ("- {level: Metadata, resources: [{group: '*', resources: ['*', '*/*']}]}\n", True),
    ],
)
def test_a_policy_that_does_not_match_everything_is_found_with_an_event(rules, is_unmatched):
    found = reach(rules)
    assert (found.unmatched_witness is not None) == bool(found.unmatched) == is_unmatched
    if found.unmatched_witness:
        decision = PolicyEvaluator(Policy.from_yaml(HEAD + rules)).evaluate(found.unmatched_witness)
        assert decision.rule is None


def test_the_stages_at_which_a_rule_decides_are_those_that_there_are():
    found = reach(
        "- {level: Request, verbs: [get], resources: [{group: '', resources: [secrets]}]}\n"
        "- {level: Request, verbs: [watch], resources: [{group: '', resources: [secrets]}]}\n"
    )
    assert [set(rule.stages) for rule in found.rules] == [
        {"RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"},
        {"RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"},
    ]
    found = reach("- {level: Request, users: [bob], verbs: [get], resources: [{resources: [secrets]}]}\n")
    assert set(found.rules[0].stages) == {"RequestReceived", "ResponseComplete", "Panic"}


def test_levels_are_conditions_where_they_are_compared():
    rules = "- level: Metadata\n- level: Request\n- level: RequestResponse\n- level: None\n"
    found = reach(rules, level_match="exact")
    assert [(rule.rule, rule.covered_by) for rule in found.unreachable] == [(3, (0, 1, 2))]
    assert found.unmatched_witness is None


def test_sets_are_in_words():
    found = reach("- {level: None, users: [alice, bob]}\n- {level: None, nonResourceURLs: ['*']}\n")
    assert [str(each) for each in found.unmatched] == ["requests for resources; users: any but alice, bob"]


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "conf/policies").iterdir()), *sorted((ROOT / "plugin/policies").glob("*.yaml"))]
)
def test_every_rule_of_the_policies_that_we_ship_can_decide_and_its_event_is_one(path):
    policy = Policy.from_file(path)
    found = reachability(policy)
    assert found.unreachable == ()
    evaluator = PolicyEvaluator(policy)
    for rule in found.rules:
        assert is_event(rule.witness)
        assert evaluator.evaluate(rule.witness).rule == rule.rule
