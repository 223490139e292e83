"""The interface that users of k8s-audit-filter know."""

import json

import pytest
import yaml

from filter_engine import AuditFilter, Policy, PolicyError
from tests.support import event

# The rules of the README of k8s-audit-filter 0.5.0.
RULES = [
    {"level": "Metadata", "verbs": ["get"]},
    {"level": "None", "verbs": ["create"]},
    {"level": "Request", "users": ["admin"]},
    {"level": "Request", "userGroups": ["system:admins"]},
    {"level": "Request", "namespaces": ["kube-system"]},
    {
        "level": "RequestResponse",
        "resources": [
            {"group": "", "resources": ["pods"], "resourceNames": ["web"]},
            {"group": "apps", "resources": ["deployments"]},
        ],
    },
]


def test_lines_are_filtered_in_a_list_comprehension(tmp_path):
    path = tmp_path / "audit-policy.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": RULES}))
    audit_filter = AuditFilter(str(path))
    events = [event(), event(verb="create"), event(level="Request"), event(verb="list")]
    lines = [json.dumps(e) for e in events]
    assert [line for line in lines if audit_filter.filter(line)] == lines[:1]
    assert [e for e in events if audit_filter.filter(e)] == events[:1]
    assert [line for line in map(str.encode, lines) if audit_filter.filter(line)] == [lines[0].encode()]


def test_rules_are_added_and_removed_while_it_runs():
    audit_filter = AuditFilter()
    assert not audit_filter.filter({"level": "Metadata"})
    audit_filter.add_rule({"level": "Metadata"})
    assert audit_filter.filter({"level": "Metadata"})
    audit_filter.remove_rule({"level": "Metadata", "users": []})
    assert not audit_filter.filter({"level": "Metadata"})
    audit_filter.add_rules(RULES)
    assert audit_filter.filter(event())
    audit_filter.remove_rules(RULES)
    assert audit_filter.config["rules"] == []


def test_a_change_that_fails_changes_nothing():
    audit_filter = AuditFilter({"rules": RULES[:2]})
    before = audit_filter.config
    with pytest.raises(PolicyError, match="Unsupported value"):
        audit_filter.add_rules([{"level": "Request"}, {"level": "x"}])
    with pytest.raises(ValueError, match="no such rule"):
        audit_filter.remove_rules([RULES[0], {"level": "Request"}])
    assert audit_filter.config == before


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (event(), True),
        (event(verb="create"), False),
        (event(verb="create", level="Request", user={"username": "admin"}), False),
        (event(verb="list", level="Request", user={"username": "admin"}), True),
        (event(verb="list", level="Metadata", user={"username": "admin"}), False),
        (event(verb="list", level="Request", user={"groups": ["system:admins"]}), True),
        (event(verb="list", level="RequestResponse"), True),
        (event(verb="list", level="RequestResponse", objectRef={"resource": "deployments"}), False),
        ({}, False),
        ({"verb": "get"}, False),
        ({"verb": "get", "level": "Metadata"}, True),
    ],
)
def test_levels_are_exact_none_drops_and_the_rest_is_dropped(sent, kept):
    assert AuditFilter({"rules": RULES}).filter(sent) is kept


def test_the_level_match_of_kubernetes():
    assert AuditFilter({"rules": [{"level": "Request"}]}, level_match="kubernetes").filter(event())
    assert AuditFilter.filter_with_rule(event(), {"level": "Request"}, level_match="kubernetes")
    assert not AuditFilter.filter_with_rule(event(), {"level": "Request"})
    assert AuditFilter().filter_with_rule(event(), {"level": "Metadata"})


def test_response_codes_and_what_k8s_audit_filter_does_not_support():
    rules = [
        {"level": "None", "nonResourceURLs": ["/healthz*"]},
        {"level": "Metadata", "codes": [403], "omitStages": ["RequestReceived"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["pods/log"]}]},
    ]
    audit_filter = AuditFilter({"rules": rules})
    refused = event(responseStatus={"code": 403})
    assert audit_filter.filter(refused)
    assert not audit_filter.filter({**refused, "stage": "RequestReceived"})
    assert not audit_filter.filter({**refused, "objectRef": None, "requestURI": "/healthz"})
    assert audit_filter.filter(event(objectRef={"resource": "pods", "subresource": "log"}))
    assert not audit_filter.filter(
        event(objectRef={"resource": "pods", "subresource": "log", "apiGroup": "x"})
    )


def test_text_that_is_no_json_object_is_kept():
    assert all(AuditFilter().filter(text) for text in ("klog line", "[1]", b"\xff", "[" * 100_000))


def test_the_policy_is_written_with_and_without_codes(tmp_path):
    audit_filter = AuditFilter({"rules": [{"level": "Metadata", "codes": [200], "users": ["jörg"]}]})
    standard, whole = tmp_path / "standard.yaml", tmp_path / "whole.yaml"
    audit_filter.dump_config(standard)
    audit_filter.dump_config(str(whole), k8s_standard=False)
    assert Policy.from_file(standard).rules[0].users == ("jörg",)
    assert AuditFilter(whole).config == audit_filter.config


def test_a_config_may_be_a_policy_and_nothing_else_that_is_strange(tmp_path):
    policy = Policy.from_yaml("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata}]")
    assert AuditFilter(policy).filter(event())
    with pytest.raises(TypeError, match="found int"):
        AuditFilter(5)
    with pytest.raises(FileNotFoundError):
        AuditFilter(tmp_path / "none.yaml")
    for wrong in (
        {"rules": [{"users": ["a"]}]},
        {"rules": [{"level": "None", "user": ["a"]}]},
        {"kind": "Pod"},
    ):
        with pytest.raises(PolicyError):
            AuditFilter(wrong)


def test_a_filter_policy_means_what_it_always_means():
    rules = [
        {"level": "None", "users": ["system:*"], "except": [{"responseCodes": ["4xx"]}]},
        {"name": "sampled", "level": "RequestResponse", "verbs": ["list"], "sample": {"rate": 0.5}},
    ]
    head = {"apiVersion": "kube-audit-filter.io/v1", "kind": "FilterPolicy", "defaultLevel": "Request"}
    audit_filter = AuditFilter(head | {"rules": rules})
    node = {"username": "system:node:n1"}
    assert not audit_filter.filter(event(user=node))
    assert audit_filter.filter(event(user=node, responseStatus={"code": 403}))
    assert audit_filter.filter(event())
    sampled = [audit_filter.filter(event(verb="list", auditID=f"id-{number}")) for number in range(40)]
    assert set(sampled) == {True, False}
    audit_filter.add_rule({"level": "None", "userAgents": ["kubelet/*"]})
    assert not audit_filter.filter(event(userAgent="kubelet/v1"))
    audit_filter.remove_rule({"level": "None", "userAgents": ["kubelet/*"]})
    assert audit_filter.filter(event(userAgent="kubelet/v1"))
    assert AuditFilter(audit_filter.config).config == audit_filter.config
