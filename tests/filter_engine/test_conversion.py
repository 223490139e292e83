"""Policies of other kinds, rewritten as FilterPolicies: the same verdicts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import Policy, PolicyEvaluator
from filter_engine.conversion import to_filter_policy, to_yaml
from tests.support import verdicts
from tests.support.filter_policies import events, some

names = ["alice", "a*b", r"a\b", "system:node:*", "*", "bob"]
elements = st.builds(
    lambda group, resources, objects: {"group": group, **resources, **(objects if resources else {})},
    st.sampled_from(["", "apps", "*", "batch", "coordination.k8s.io"]),
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {
                "resources": some(
                    [
                        "pods",
                        "*",
                        "*/status",
                        "pods/*",
                        "pods/log",
                        "po*",
                        "*/*",
                        "deploy*/*",
                        "secrets",
                        "Pods",
                    ]
                )
            }
        ),
    ),
    st.one_of(st.just({}), st.fixed_dictionaries({"resourceNames": some(["web", "w*", "*", ""])})),
)
where = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"resources": st.lists(elements, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"namespaces": some(["", "default", "kube-*", "*"])}),
    st.fixed_dictionaries({"nonResourceURLs": some(["/healthz*", "*", "/apis", "/a*"])}),
)
rules = st.builds(
    lambda level, conditions, place: {"level": level, **conditions, **place},
    st.sampled_from(["None", "Metadata", "Request", "RequestResponse"]),
    st.fixed_dictionaries(
        {},
        optional={
            "users": some([*names, "system:serviceaccount:kube:b"]),
            "userGroups": some(["developers", "system:*", "*"]),
            "verbs": some(["get", "list", "*", "ge*", "delete"]),
            "omitStages": some(["RequestReceived", "Panic"]),
            "omitManagedFields": st.booleans(),
        },
    ),
    where,
)
policies = st.builds(
    lambda found, head: {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", **head, "rules": found},
    st.lists(rules, min_size=1, max_size=5),
    st.fixed_dictionaries(
        {}, optional={"omitStages": some(["RequestReceived", "Panic"]), "omitManagedFields": st.booleans()}
    ),
)


def converted(policy, **options):
    result = Policy.from_yaml(to_yaml(to_filter_policy(policy, **options), source="policy.yaml"))
    assert result.kind == "FilterPolicy"
    return result


@settings(max_examples=200, deadline=None)
@given(document=policies, sent=st.lists(events, min_size=1, max_size=8))
def test_a_kubernetes_policy_decides_the_same_as_a_filter_policy(document, sent):
    policy = Policy.from_dict(document)
    before, after = PolicyEvaluator(policy), PolicyEvaluator(converted(policy))
    for each in sent:
        assert after.evaluate(each) == before.evaluate(each)


@settings(max_examples=80, deadline=None)
@given(document=policies, sent=st.lists(events, min_size=1, max_size=8), codes=some([200, 403, 404]))
def test_a_policy_of_k8s_audit_filter_decides_the_same(document, sent, codes):
    document = {**document, "rules": [{**document["rules"][0], "codes": codes}, *document["rules"]]}
    policy = Policy.from_dict(document, codes=True)
    before = PolicyEvaluator(policy, level_match="exact")
    after = PolicyEvaluator(converted(policy, level_match="exact"))
    for each in sent:
        assert after.evaluate(each) == before.evaluate(each)


def is_possible(event):
    """Whether there may be such a request: a FilterPolicy refuses names that no verb and no resource has."""
    ref = event.get("objectRef")
    resource = None if ref is None else ref.get("resource", "")
    return "*" not in event["verb"] and (resource is None or resource == resource.lower() != "")


@pytest.mark.parametrize("name", ["policy_evaluation.jsonl.gz", "gce_policy.jsonl.gz"])
def test_converted_policies_give_the_verdicts_of_kube_apiserver(name):
    for case in verdicts(name):
        policy = Policy.from_dict(case["policy"])
        before, after = PolicyEvaluator(policy), PolicyEvaluator(converted(policy))
        for event in filter(is_possible, case["events"]):
            assert after.evaluate(event) == before.evaluate(event), (event, case["policy"])


def test_names_lines_and_everything_else_are_kept():
    policy = Policy.from_yaml(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
        "metadata: {name: own, annotations: {kube-audit-filter/rule-0: nodes, team: a}}\n"
        "omitStages: [Panic]\nomitManagedFields: true\nrules:\n"
        "- {level: None, userGroups: ['system:nodes'], omitManagedFields: false}\n"
        r"- {level: Metadata, users: ['DOMAIN\bob', 'all*'], resources: [{}]}" + "\n"
    )
    text = to_yaml(to_filter_policy(policy), source="own.yaml")
    assert text == (
        "# Made from 'own.yaml'.\n"
        "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
        "metadata:\n  name: own\n  annotations: {team: a}\n"
        "omitStages: [Panic]\nomitManagedFields: true\nrules:\n"
        "# line 7\n- name: nodes\n  level: None\n  userGroups: ['system:nodes']\n  omitManagedFields: false\n"
        "# line 8\n- level: Metadata\n"
        r"  users: [DOMAIN\\bob, all\*]" + "\n  resources:\n  - {group: ''}\n"
    )
    assert Policy.from_yaml(text).rule_names == {0: "nodes"}


def test_a_filter_policy_stays_what_it_is():
    text = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\ndefaultLevel: Metadata\nrules: []\n"
    policy = Policy.from_yaml(text)
    assert to_filter_policy(policy) is policy
    assert converted(policy) == policy
