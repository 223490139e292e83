"""OpenShift's kubeAPIAudit filter as a policy: the verdicts of a reference that was written from its program.

The reference follows ``internal/generator/vector/filter/apiaudit/policy.vrl.tmpl`` of OpenShift's
cluster-logging-operator line by line, with the regular expressions that it generates.
"""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_engine import Policy, PolicyActions, PolicyError, PolicyEvaluator
from filter_engine.conversion import to_filter_policy, to_yaml
from tests.support import event


def any_of(wildcards, suffix=""):
    def regex(wildcard):
        start = ".*" if wildcard.startswith("*") else ""
        wildcard = wildcard[1:] if start else wildcard
        end = ".*" if wildcard.endswith("*") else ""
        return start + re.escape(wildcard[:-1] if end else wildcard) + end

    return re.compile(f"^({'|'.join(map(regex, wildcards))}){suffix}$", re.DOTALL)


def matches(rule, sent):
    ref = sent.get("objectRef") or {}
    res, sub, namespace = (ref.get(name) or "" for name in ("resource", "subresource", "namespace"))
    res = f"{res}/{sub}" if sub else res
    user = sent["user"].get("username") or ""
    groups = sent["user"].get("groups")

    def element(each):
        return (
            (ref.get("apiGroup") == each["group"] if each.get("group") else not ref.get("apiGroup"))
            and (not each.get("resourceNames") or any_of(each["resourceNames"]).match(ref.get("name") or ""))
            and (not each.get("resources") or any_of(each["resources"]).match(res))
        )

    return (
        (not rule.get("verbs") or sent["verb"] in rule["verbs"])
        and (not rule.get("users") or (user != "" and any_of(rule["users"]).match(user)))
        and (
            not rule.get("userGroups")
            or (groups is not None and any(any_of(rule["userGroups"]).match(each) for each in groups))
        )
        and (not rule.get("namespaces") or (namespace != "" and any_of(rule["namespaces"]).match(namespace)))
        and (
            not rule.get("nonResourceURLs")
            or (
                sent.get("objectRef") is None
                and any_of(rule["nonResourceURLs"], r"(\?.*)?").match(sent["requestURI"])
            )
        )
        and (not rule.get("resources") or any(map(element, rule["resources"])))
    )


def reference(audit, sent):
    """The level that OpenShift writes into an event, with None for one that it drops."""
    level, code = sent["level"], sent["responseStatus"].get("code")
    codes = audit.get("omitResponseCodes")
    if sent["stage"] in audit.get("omitStages", ()):
        return None
    if code in ([404, 409, 422, 429] if codes is None else codes):
        return None
    for rule in audit.get("rules", ()):
        if matches(rule, sent):
            dropped = rule["level"] == "None" or sent["stage"] in rule.get("omitStages", ())
            return None if dropped else rule["level"]
    user = sent["user"].get("username") or ""
    if re.search(r"^$|^system:.*", user):
        namespace = (sent.get("objectRef") or {}).get("namespace") or ""
        if re.search("get|list|watch|head|options", sent["verb"]):
            return None
        if (code is None or code < 300) and user.startswith("system:serviceaccount:" + namespace):
            return None
        level = "Request" if level == "RequestResponse" else level
    return level


def some(values, **options):
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, **options)


USERS = [
    "alice",
    "system:node:n1",
    "system:serviceaccount:kube-system:a",
    "system:serviceaccount:kube:b",
    "a*b",
]
NAMESPACES = ["", "kube", "kube-system", "openshift-console", "default"]
elements = st.fixed_dictionaries(
    {},
    optional={
        "group": st.sampled_from(["", "apps", "*", "apps.*"]),
        "resources": some(
            [
                "pods",
                "pods/*",
                "pods*",
                "*pods",
                "*po*",
                "*",
                "*/*",
                "*/status",
                "pods/log",
                "p*s",
                "",
                "*/",
                "/log",
            ]
        ),
        "resourceNames": some(["web", "w*", "*b", "*", ""]),
    },
)
rules = st.builds(
    lambda level, conditions: {"level": level, **conditions},
    st.sampled_from(["None", "Metadata", "Request", "RequestResponse"]),
    st.fixed_dictionaries(
        {},
        optional={
            "verbs": some(["get", "create", "delete", "ge*"]),
            "users": some([*USERS, "system:*", "*b", "*", "", "al*ce"]),
            "userGroups": some(["devs", "system:*", "*"]),
            "namespaces": some([*NAMESPACES, "kube*", "*", "*-system"]),
            "resources": st.lists(elements, max_size=3),
            "nonResourceURLs": some(["/healthz*", "*", "/version", "*z", "/healthz", "healthz"]),
            "omitStages": some(["ResponseStarted", "Panic"]),
        },
    ),
)
audits = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.lists(rules, max_size=4),
        "omitStages": some(["RequestReceived", "Panic"]),
        "omitResponseCodes": st.one_of(
            st.none(), st.lists(st.sampled_from([200, 403, 404, 500]), max_size=2)
        ),
    },
)
targets = st.one_of(
    st.builds(
        lambda group, resource, subresource, namespace, name: {
            "objectRef": {
                **({"apiGroup": group} if group else {}),
                "resource": resource,
                "subresource": subresource,
                "namespace": namespace,
                "name": name,
            },
            "requestURI": "",
        },
        st.sampled_from(["", "apps"]),
        st.sampled_from(["pods", "deployments", "podsets"]),
        st.sampled_from(["", "", "status", "log", "podstatus"]),
        st.sampled_from(NAMESPACES),
        st.sampled_from(["", "web", "db"]),
    ),
    st.builds(
        lambda uri: {"objectRef": None, "requestURI": uri},
        st.sampled_from(["/healthz", "/healthz?verbose", "/healthz/ping", "/version", "/"]),
    ),
)
events = st.builds(
    lambda user, verb, target, stage, level, code: {
        **event(user=user, stage=stage, level=level, responseStatus={} if code is None else {"code": code}),
        **target,
        "verb": verb,
    },
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {"username": st.sampled_from(USERS)}, optional={"groups": some(["devs", "system:nodes", "other"])}
        ),
    ),
    # The name that the event of a create has came out of its body, which no policy of an API server sees.
    st.sampled_from(["get", "list", "watch", "delete", "patch", "deletecollection"]),
    targets,
    st.sampled_from(["ResponseComplete", "RequestReceived", "ResponseStarted", "Panic"]),
    st.sampled_from(["Metadata", "Request", "RequestResponse"]),
    st.sampled_from([None, 200, 201, 301, 403, 404, 409, 500]),
)
RANK = ["Metadata", "Request", "RequestResponse"]


@settings(max_examples=250, deadline=None)
@given(audit=audits, sent=st.lists(events, min_size=1, max_size=8))
def test_it_decides_as_openshift_does(audit, sent):
    policy = Policy.from_dict({"kubeAPIAudit": audit})
    converted = Policy.from_yaml(to_yaml(to_filter_policy(policy), source="audit.yaml"))
    assert converted.rules == policy.rules
    evaluator, actions = PolicyEvaluator(policy), PolicyActions(policy)
    for each in sent:
        level = reference(audit, each)
        went_on = actions.of(evaluator.evaluate(each)).apply(each)
        assert (went_on is None) == (level is None), evaluator.evaluate(each)
        if went_on is not None and level is not None:
            # OpenShift may raise the level that stands in an event. Here it is only ever lowered.
            assert went_on["level"] == min(each["level"], level, key=RANK.index)


FORWARDER = """\
apiVersion: observability.openshift.io/v1
kind: ClusterLogForwarder
metadata: {name: collector}
spec:
  filters:
  - name: labels
    type: openshiftLabels
  - name: noise
    type: kubeAPIAudit
    kubeAPIAudit:
      omitResponseCodes: []
      rules:
      - level: None
        users: [system:*]
"""
SECOND = """\
  - name: second
    type: kubeAPIAudit
    kubeAPIAudit: {omitStages: [Panic]}
"""


def test_a_cluster_log_forwarder_is_a_policy():
    policy = Policy.from_yaml(FORWARDER)
    assert policy.kind == "FilterPolicy"
    assert policy.metadata == {"name": "noise"}
    assert policy.rule_name(0) == "rule-0"
    assert policy.rule_line(0) == 13
    assert policy.rule_name(1) == "default-system-reads"
    assert policy == Policy.from_dict(yaml.safe_load(FORWARDER))
    legacy = FORWARDER.replace("observability.openshift.io/v1", "logging.openshift.io/v1")
    assert Policy.from_yaml(legacy) == policy


def test_one_of_several_filters_is_named():
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(FORWARDER + SECOND, source="clf.yaml")
    assert str(error.value) == (
        "clf.yaml:2: this ClusterLogForwarder has 2 filters of type kubeAPIAudit: noise (line 10), second"
        " (line 17) (name one of them: clf.yaml#noise)"
    )
    assert Policy.from_yaml(FORWARDER + SECOND, part="noise") == Policy.from_yaml(FORWARDER)
    assert Policy.from_yaml(FORWARDER + SECOND, part="second").omit_stages == ("Panic",)


@pytest.mark.parametrize(
    "text",
    ["kubeAPIAudit: {omitResponseCodes: [404]}", "omitResponseCodes: [404]\nrules: []"],
    ids=["a filter", "its object"],
)
def test_the_filter_alone_is_a_policy(text):
    assert Policy.from_yaml(text).rules[0].response_codes == ((404, 404),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            FORWARDER.replace("level: None", "level: Metdata"),
            "policy:13: spec.filters[1].kubeAPIAudit.rules[0].level: expected one of None, Metadata, Request,"
            " RequestResponse, found 'Metdata' (OpenShift writes whatever stands here into events,",
        ),
        (
            FORWARDER.replace("level: None", "verbs: [get]"),
            "policy:13: spec.filters[1].kubeAPIAudit.rules[0].level: expected one of None, Metadata, Request,"
            " RequestResponse, found nothing (OpenShift writes whatever stands here into events,",
        ),
        (
            "kubeAPIAudit:\n  omitStages: [Done]",
            "policy:2: kubeAPIAudit.omitStages[0]: expected one of RequestReceived, ResponseStarted,"
            " ResponseComplete, Panic, found 'Done'",
        ),
        (
            "kubeAPIAudit:\n  omitResponseCodes: [4040]",
            "policy:2: kubeAPIAudit.omitResponseCodes[0]: expected a response code from 100 to 999,",
        ),
        (
            "kind: ClusterLogForwarder\nspec: {filters: [{type: prune}]}",
            "policy:1: this ClusterLogForwarder has no filter of type kubeAPIAudit in spec.filters",
        ),
        ("kubeAPIAudit:\n  rule: []", 'policy:2: unknown field "kubeAPIAudit.rule"'),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(text)
    assert message in str(error.value)
