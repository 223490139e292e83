"""Decisions: the corners that a user trips over, and events that are broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import Decision, Level, Policy, PolicyEvaluator
from tests.support import event


def evaluator(*rules, **fields):
    policy = Policy.from_dict({"apiVersion": "audit.k8s.io/v1", "rules": list(rules), **fields}, codes=True)
    return PolicyEvaluator(policy)


def matches(rule, sent):
    return evaluator({"level": "Metadata", **rule}).evaluate(sent).rule == 0


def test_the_first_rule_that_matches_decides():
    decide = evaluator(
        {"level": "None", "users": ["bob"]},
        {"level": "Request", "omitStages": ["Panic"], "omitManagedFields": False},
        omitStages=["RequestReceived"],
        omitManagedFields=True,
    ).evaluate
    assert decide(event(user={"username": "bob"})) == Decision(Level.NONE, 0, False, True)
    assert decide(event()) == Decision(Level.REQUEST, 1, False, False)
    assert [decide(event(stage=stage)).keep for stage in ("Panic", "RequestReceived", "ResponseStarted")] == [
        False,
        False,
        True,
    ]


def test_what_no_rule_matches_is_dropped():
    decision = evaluator({"level": "Request", "users": ["bob"]}).evaluate(event())
    assert decision == Decision(Level.NONE, None, False, False)
    assert not decision.keep


POD = event()
LOG = event(objectRef={"resource": "pods", "subresource": "log", "namespace": "default", "name": "web"})
NODE = event(objectRef={"resource": "nodes"})
HEALTH = event(objectRef=None, requestURI="/healthz/etcd?verbose")
NO_USER = event(user={})


@pytest.mark.parametrize(
    ("rule", "sent", "expected"),
    [
        ({}, HEALTH, True),
        ({"users": ["*"]}, POD, False),
        ({"users": [""]}, event(user={"groups": ["g"]}), True),
        ({"users": [""]}, NO_USER, False),
        ({"userGroups": ["developers"]}, POD, True),
        ({"userGroups": ["dev*"]}, POD, False),
        ({"users": ["alice"], "userGroups": ["admins"]}, POD, False),
        ({"verbs": ["list"]}, event(verb="watch"), False),
        ({"namespaces": [""]}, NODE, True),
        ({"namespaces": [""]}, POD, False),
        ({"namespaces": ["default"]}, HEALTH, False),
        ({"resources": [{"resources": ["pods"]}]}, LOG, False),
        ({"resources": [{"resources": ["pods/*"]}]}, POD, True),
        ({"resources": [{"resources": ["*/log"]}]}, LOG, True),
        ({"resources": [{"resources": ["*/log"]}]}, POD, False),
        ({"resources": [{"resources": ["*/*"]}]}, LOG, False),
        ({"resources": [{"group": "*", "resources": ["*"]}]}, LOG, True),
        ({"resources": [{"group": "apps"}, {}]}, POD, True),
        ({"resources": [{"group": "apps"}]}, POD, False),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["web"]}]}, POD, True),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["other"]}]}, POD, False),
        ({"nonResourceURLs": ["/healthz*"]}, HEALTH, True),
        ({"nonResourceURLs": ["/healthz/"]}, HEALTH, False),
        ({"nonResourceURLs": ["/a b"]}, event(objectRef=None, requestURI="/a%20b"), True),
        ({"nonResourceURLs": ["*"]}, POD, False),
        ({"codes": [403]}, event(responseStatus={"code": 403}), True),
        ({"codes": [403]}, POD, False),
    ],
)
def test_conditions(rule, sent, expected):
    assert matches(rule, sent) is expected


def test_a_create_is_matched_by_the_name_in_its_url_not_by_that_in_its_body():
    names = {"resources": [{"resources": ["pods", "pods/exec"], "resourceNames": ["web"]}]}
    assert matches(names, event(verb="update"))
    create = event(verb="create", requestURI="/api/v1/namespaces/default/pods?dryRun=All")
    assert not matches(names, create)
    assert matches({"resources": [{"resources": ["pods"], "resourceNames": [""]}]}, create)
    assert not matches(names, event(verb="create", requestURI=""))
    exec_ref = {"resource": "pods", "subresource": "exec", "name": "web"}
    assert matches(names, event(verb="create", objectRef=exec_ref))


def test_the_user_is_the_real_one_not_the_impersonated_one():
    sent = event(impersonatedUser={"username": "bob", "groups": ["admins"]})
    assert matches({"users": ["alice"]}, sent)
    assert not matches({"users": ["bob"]}, sent)


def test_exact_levels_match_only_events_recorded_at_them():
    rules = [{"level": "None", "users": ["bob"]}, {"level": "Request"}]
    policy = Policy.from_dict({"apiVersion": "audit.k8s.io/v1", "rules": rules})
    decide = PolicyEvaluator(policy, level_match="exact").evaluate
    assert decide(event(level="Request")).keep
    assert decide(event(level="RequestResponse")).rule is None
    assert decide(event(level="Metadata", user={"username": "bob"})).rule == 0
    with pytest.raises(ValueError, match="level_match"):
        PolicyEvaluator(policy, level_match="loose")


def test_levels_are_ordered_and_are_their_names():
    assert list(Level) == sorted(Level, reverse=True)[::-1]
    assert Level.NONE < Level.METADATA < Level.REQUEST < Level.REQUEST_RESPONSE
    assert Level.REQUEST >= Level.REQUEST > Level.METADATA <= Level.METADATA
    assert f"{Level.REQUEST} {Level('Metadata')}" == "Request Metadata"
    assert Level.REQUEST == "Request"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["username", "groups", "resource", "subresource", "name", "namespace", "code", "x"]
            )
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = ["verb", "user", "objectRef", "requestURI", "stage", "level", "responseStatus", "auditID"]
BROAD = evaluator(
    {"level": "None", "users": ["a", ""], "userGroups": ["g"], "verbs": ["get"]},
    {
        "level": "Metadata",
        "namespaces": [""],
        "resources": [{"resources": ["*/x"], "resourceNames": ["n"]}, {}],
    },
    {"level": "Request", "nonResourceURLs": ["/a*", ""][:1], "codes": [200]},
)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.integers(), anything))
def test_no_event_is_too_broken_to_decide_on(broken):
    assert isinstance(BROAD.evaluate(broken), Decision)


@given(st.sampled_from(FIELDS), anything)
def test_a_field_of_a_wrong_type_counts_as_absent(field, value):
    if isinstance(value, (str, bytes, dict)):
        return
    whole = event()
    absent = {key: item for key, item in whole.items() if key != field}
    assert BROAD.evaluate({**whole, field: value}) == BROAD.evaluate(absent)
