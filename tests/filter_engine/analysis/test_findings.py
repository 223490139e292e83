"""What a policy that loads may not mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Level, Policy, PolicyEvaluator, PolicyRule
from filter_engine.analysis import IDS, find
from filter_engine.model import STAGES, GroupResources
from tests.support import ROOT

STAGES_OMITTED = f"omitStages: [{', '.join(STAGES)}]"
HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
REST = "- level: Metadata\n"
NO_RESOURCES = "- {level: None, nonResourceURLs: [/*]}\n"


def findings(rules, **options):
    return find(Policy.from_yaml(HEAD + rules), **options)


def test_a_rule_of_level_none_alone_keeps_nothing_and_the_finding_says_what_to_add():
    (finding,) = findings("- level: None\n  resources: [{group: coordination.k8s.io, resources: [leases]}]\n")
    assert finding.message == (
        "nothing is kept: the rule rules[0] has level None, and events that no rule matches are dropped too;"
        " add a last rule '- level: Metadata' to keep the rest"
    )
    assert (finding.id, finding.rule, finding.line) == ("nothing-kept", None, 4)
    assert finding.describe("p.yaml") == f"p.yaml:4: {finding.message} [nothing-kept]"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("- {level: None, verbs: [get]}\n- {level: None, verbs: [list]}\n", "up to rules[1] has level"),
        ("- {level: Metadata, " + STAGES_OMITTED + "}\n", "omits all"),
        ("- level: None\n- level: Metadata\n", "no rule below it is ever asked; move it to the end"),
        ("- level: None\n", "rules[0] matches every event; give it another level"),
    ],
)
def test_a_policy_that_keeps_nothing_is_found(rules, words):
    (finding,) = findings(rules)
    assert finding.id == "nothing-kept"
    assert finding.message.startswith("nothing is kept: ")
    assert words in finding.message


@pytest.mark.parametrize(
    ("rules", "is_found"),
    [
        ("- {level: Metadata, verbs: [get]}\n", True),
        ("- {level: Metadata, verbs: [get]}\n- level: None\n", False),
        ("- {level: Metadata, resources: [{group: '*'}]}\n", True),
        ("- {level: Metadata, resources: [{group: '*'}]}\n" + NO_RESOURCES, False),
        ("- {level: Metadata, resources: [{group: '*', resources: ['*']}]}\n" + NO_RESOURCES, False),
        ("- {level: Metadata, resources: [{group: ''}]}\n" + NO_RESOURCES, True),
        ("- {level: Metadata, resources: [{group: '*'}], namespaces: [a]}\n" + NO_RESOURCES, True),
    ],
)
def test_a_policy_in_which_events_match_no_rule_is_found(rules, is_found):
    assert [finding.id for finding in findings(rules)] == ["no-catch-all"] * is_found


def test_levels_are_conditions_where_they_are_compared():
    assert [finding.id for finding in findings(REST, level_match="exact")] == ["no-catch-all"]
    every = "- level: Metadata\n- level: Request\n- level: RequestResponse\n"
    assert findings(every, level_match="exact") == []
    assert findings(every + "- {level: None, verbs: [x]}\n", level_match="exact") == []


@pytest.mark.parametrize(
    ("rule", "id_", "words"),
    [
        (
            "users: ['system:node:*']",
            "literal-wildcard",
            'because users has no wildcards: write userGroups: ["system:nodes"]',
        ),
        (
            "users: ['system:serviceaccount:ci:*']",
            "literal-wildcard",
            'write userGroups: ["system:serviceaccounts:ci"]',
        ),
        ("users: ['admin-*']", "literal-wildcard", "name each user, or a group of them in userGroups"),
        ("userGroups: ['*']", "literal-wildcard", "leave userGroups out to match every group"),
        ("verbs: ['*']", "literal-wildcard", "leave verbs out to match every verb"),
        ("namespaces: ['kube-*']", "literal-wildcard", "name each namespace"),
        (
            "resources: [{resources: [pods], resourceNames: ['web-*']}]",
            "literal-wildcard",
            "[0].resourceNames: ",
        ),
        ("verbs: [get, Get]", "upper-case", 'write "get"'),
        ("resources: [{resources: [Pods]}]", "upper-case", 'write "pods"'),
        ("resources: [{group: v1}]", "version-as-group", 'the core group, with pods and secrets, is ""'),
        ("resources: [{group: v1beta1}]", "version-as-group", "rules[0].resources[0].group"),
        *(
            (
                f"resources: [{{resources: ['{pattern}']}}]",
                "pattern-matches-nothing",
                f'"{pattern}" matches nothing',
            )
            for pattern in ("pods*", "*/*", "*s", "pods/l*", "*/", "/*", "*/lo*", "**", "po*/*")
        ),
        ("users: ['{{ .Values.user }}']", "unrendered-template", "run helm template first"),
    ],
)
def test_a_value_that_matches_nothing_is_found(rule, id_, words):
    (finding,) = findings(f"- {{level: None, {rule}}}\n{REST}")
    assert id_ in IDS
    assert (finding.id, finding.rule, finding.line) == (id_, 0, 4)
    assert words in finding.message


@pytest.mark.parametrize(
    "rule",
    [
        "users: ['system:kube-proxy', '']",
        "verbs: [get, post, connect]",
        "resources: [{group: apps, resources: ['*', '*/log', 'pods/*', 'pods/log']}]",
        "resources: [{group: v1.example.com}]",
        "nonResourceURLs: ['*', '/healthz*']",
        "namespaces: ['']",
    ],
)
def test_what_can_match_is_not_found(rule):
    assert findings(f"- {{level: None, {rule}}}\n{REST}") == []


FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
DROP_REST = "- level: None\n"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("rules:\n- {level: None, users: ['system:*'], namespaces: ['*-dev']}\n" + REST, []),
        ("rules:\n- {level: None, resources: [{group: '*.io', resources: ['pods*']}]}\n" + REST, []),
        ("rules:\n- {level: None, verbs: [Get]}\n" + REST, ["upper-case"]),
        ("rules:\n- {level: None, resources: [{group: v1}]}\n" + REST, ["version-as-group"]),
        ("defaultLevel: Metadata\n", []),
        ("defaultLevel: Metadata\nrules:\n- {level: None, users: [bob]}\n", []),
        ("rules:\n- {level: Metadata, users: [bob]}\n", ["no-catch-all"]),
        ("rules:\n- {level: None, users: [bob]}\n", ["nothing-kept"]),
        ("defaultLevel: Metadata\nrules:\n" + DROP_REST, ["nothing-kept"]),
        ("defaultLevel: Metadata\n" + STAGES_OMITTED + "\n", ["nothing-kept"]),
    ],
)
def test_in_a_filter_policy_stars_are_patterns_and_the_default_level_is_a_last_rule(text, ids):
    assert [finding.id for finding in find(Policy.from_yaml(FILTER_POLICY + text))] == ids


@pytest.mark.parametrize(
    "conditions",
    [
        "responseCodes: [403]",
        "stages: [Panic]",
        "levels: [Request]",
        "userAgents: ['*']",
        "sourceIPs: ['::/0']",
        "impersonatedUsers: ['*']",
        "annotations: {a: ['*']}",
        "except: [{users: [bob]}]",
    ],
)
def test_no_condition_of_a_filter_policy_matches_every_event(conditions):
    text = f"{FILTER_POLICY}rules:\n- level: None\n  {conditions}\n"
    assert [finding.id for finding in find(Policy.from_yaml(text + REST))] == []
    assert [finding.id for finding in find(Policy.from_yaml(text.replace("None", "Metadata")))] == [
        "no-catch-all"
    ]


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "conf/policies").iterdir()), *sorted((ROOT / "plugin/policies").glob("*.yaml"))]
)
def test_the_policies_that_we_ship_are_meant(path):
    assert find(Policy.from_file(path)) == []


def test_a_policy_without_text_has_findings_without_lines():
    policy = Policy.from_dict({"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "None"}]})
    assert [finding.line for finding in find(policy)] == [None]
    assert [finding.id for finding in find(Policy(()))] == ["nothing-kept"]


def test_lines_make_no_difference_between_policies():
    text = HEAD + REST
    policy, same = Policy.from_yaml(text), Policy.from_yaml("\n\n" + text)
    assert policy == same
    assert policy.rules == same.rules
    assert (policy.rule_line(0), same.rule_line(0), policy.rule_line(1)) == (4, 6, None)
    assert policy.with_rules(policy.rules * 2).rule_line(0) is None


rules = st.builds(
    PolicyRule,
    st.sampled_from(Level),
    verbs=st.sampled_from([(), ("get",)]),
    resources=st.sampled_from(
        [(), (GroupResources("*"),), (GroupResources("*", ("*",)),), (GroupResources(),)]
    ),
    namespaces=st.sampled_from([(), ("a",)]),
    non_resource_urls=st.sampled_from([(), ("*",), ("/a*",)]),
    omit_stages=st.sampled_from([(), STAGES, STAGES[:1]]),
)
requests = [
    {"auditID": "a", "verb": verb, "stage": stage, "user": {}, "requestURI": uri, "level": "Request"} | rest
    for verb in ("get", "list")
    for stage in STAGES
    for uri, rest in (
        ("/a/b", {}),
        ("/c", {}),
        ("/apis/apps/v1/x", {"objectRef": {"resource": "x", "apiGroup": "apps"}}),
        ("/api/v1/namespaces/a/y", {"objectRef": {"resource": "y", "namespace": "a"}}),
    )
]


@given(st.lists(rules, max_size=4), st.sampled_from(["kubernetes", "exact"]))
def test_findings_do_not_contradict_decisions(rules, level_match):
    policy = Policy(tuple(rules))
    evaluator = PolicyEvaluator(policy, level_match=level_match)
    decisions = [evaluator.evaluate(request) for request in requests]
    found = {finding.id for finding in find(policy, level_match=level_match)}
    if "nothing-kept" in found:
        assert not any(decision.keep for decision in decisions)
    elif "no-catch-all" not in found:
        assert all(decision.rule is not None for decision in decisions)
