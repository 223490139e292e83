"""How two policies differ."""

import pytest

from filter_engine import Policy, PolicyEvaluator
from filter_engine.analysis.compare import compare

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
REST = "- level: Metadata\n"


def policy(rules, head=HEAD):
    return Policy.from_yaml(head + rules)


def changes(old, new):
    return [
        (each.change, each.old_rule, each.new_rule, [str(one) for one in each.sets])
        for each in compare(old, new).differences
    ]


SECRETS = 'resources: [{group: "", resources: [secrets]}]'
OF_SECRETS = "requests for resources; apiGroups: core; resources: secrets; subresources: none"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (REST, REST, []),
        (REST, f"- {{level: Metadata, {SECRETS}}}\n{REST}", []),
        # Another order, or another way to say it.
        (
            f"- {{level: None, {SECRETS}}}\n- {{level: None, verbs: [get]}}\n{REST}",
            f"- {{level: None, verbs: [get]}}\n- {{level: None, {SECRETS}}}\n{REST}",
            [],
        ),
        (
            "- {level: None, verbs: [get, list]}\n",
            "- {level: None, verbs: [get]}\n- {level: None, verbs: [list]}\n",
            [],
        ),
        (REST, f"- {{level: None, {SECRETS}}}\n{REST}", [("lost", 0, 0, [OF_SECRETS])]),
        (REST, f"- {{level: Request, {SECRETS}}}\n{REST}", [("higher", 0, 0, [OF_SECRETS])]),
        (f"- {{level: Request, {SECRETS}}}\n{REST}", REST, [("lower", 0, 0, [OF_SECRETS])]),
        (f"- {{level: None, {SECRETS}}}\n{REST}", REST, [("gained", 0, 0, [OF_SECRETS])]),
        # What an earlier rule decides is not told.
        (
            f"- {{level: Metadata, users: [bob]}}\n{REST}",
            f"- {{level: Metadata, users: [bob]}}\n- {{level: None, {SECRETS}}}\n{REST}",
            [("lost", 1, 1, [OF_SECRETS.replace("; apiGroups", "; users: any but bob; apiGroups")])],
        ),
        # Groups of users: one of some, and none of others.
        (
            f"- {{level: None, userGroups: [a]}}\n{REST}",
            f"- {{level: None, userGroups: [a, b]}}\n{REST}",
            [
                (
                    "lost", 1, 0,
                    ["requests for resources; userGroups: b; not userGroups: a",
                     "non-resource requests; userGroups: b; not userGroups: a"],
                )
            ],
        ),
        # No service account is in another group.
        (
            f"- {{level: None, users: ['system:serviceaccount:ci:x']}}\n{REST}",
            f"- {{level: None, users: ['system:serviceaccount:ci:x'],"
            f" userGroups: [system:serviceaccounts]}}\n{REST}",
            [],
        ),
        # A stage that is omitted is lost for all who had it.
        (
            REST,
            "- {level: Metadata, omitStages: [Panic]}\n",
            [
                (
                    "lost", 0, 0,
                    ["requests for resources; stages: Panic", "non-resource requests; stages: Panic"],
                ),
            ],
        ),
    ],
)  # fmt: skip
def test_differences_are_told_by_the_rules_that_decide(old, new, found):
    assert changes(policy(old), policy(new)) == found


def test_the_other_direction_is_the_mirror():
    old, new = (
        policy(REST),
        policy(f"- {{level: None, {SECRETS}}}\n- {{level: Request, verbs: [get]}}\n{REST}"),
    )
    mirror = {"lost": "gained", "gained": "lost", "higher": "lower", "lower": "higher"}
    there, back = compare(old, new).differences, compare(new, old).differences
    assert sorted((each.change, each.sets) for each in there) == sorted(
        (mirror[each.change], each.sets) for each in back
    )


def test_a_witness_is_decided_on_as_the_difference_says():
    old = policy(f"- {{level: Request, {SECRETS}, userGroups: [admins]}}\n{REST}")
    new = policy(f"- {{level: None, verbs: [get]}}\n{REST}")
    found = compare(old, new)
    assert found.of("lost")
    assert found.of("lower")
    for each in found.differences:
        before = PolicyEvaluator(old).evaluate(each.witness)
        after = PolicyEvaluator(new).evaluate(each.witness)
        assert (before.rule, after.rule) == (each.old_rule, each.new_rule)
        assert (before.level, after.level) == (each.old_level, each.new_level)


def test_policies_of_both_kinds_are_compared():
    old = policy(f"- {{level: None, userGroups: [system:nodes]}}\n{REST}")
    same = policy(
        "defaultLevel: Metadata\nrules:\n- {level: None, users: ['system:node:*']}\n", FILTER_POLICY
    )
    assert compare(old, same).differences == ()  # all nodes are in the group, and nobody else is
    refused = policy(
        "defaultLevel: Metadata\nrules:\n"
        "- {level: None, users: ['system:node:*'], except: [{responseCodes: [403]}]}\n",
        FILTER_POLICY,
    )
    (gained,) = {each.change for each in compare(old, refused).differences}
    assert gained == "gained"
    assert compare(old, refused).differences[0].witness["responseStatus"]["code"] == 403


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("sample: {rate: 0.5}", "sample: {rate: 0.1}", [("sample", {"rate": 0.5}, {"rate": 0.1})]),
        ("sample: {rate: 0.5}", "", [("sample", {"rate": 0.5}, None)]),
        ("redact: [userAgent]", "redact: [userAgent, 'builtin:secrets']",
         [("redact", ["userAgent"], ["builtin:secrets", "userAgent"])]),
        ("omitManagedFields: true", "", [("omitManagedFields", True, False)]),
    ],
)  # fmt: skip
def test_other_actions_are_told_where_both_keep(old, new, found):
    text = "rules:\n- {{level: Request, verbs: [get], {}}}\n- level: None\n"
    comparison = compare(policy(text.format(old), FILTER_POLICY), policy(text.format(new), FILTER_POLICY))
    assert comparison.differences == ()
    assert [(each.field, each.old, each.new) for each in comparison.action_changes] == found
    assert all((each.old_rule, each.new_rule) == (0, 0) for each in comparison.action_changes)
    assert not comparison.is_equivalent


def test_more_sets_than_can_be_shown_are_left_out_and_that_is_said():
    rules = (
        f"- {{level: None, users: [u{number}], verbs: [get], namespaces: [n{number}]}}\n"
        for number in range(40)
    )
    old = policy("".join(rules) + REST)
    new = policy("- {level: None}\n")
    (difference,) = compare(old, new).of("lost")
    assert not difference.is_complete
    assert 0 < len(difference.sets) <= 20
