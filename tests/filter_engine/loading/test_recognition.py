"""What is said of files that are no policy."""

import gzip
import json

import pytest

from filter_engine import Policy, PolicyError

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
POLICY = HEAD + "rules:\n- level: Metadata\n"


def indented(text, by):
    return "".join(" " * by + line + "\n" for line in text.splitlines())


CONFIG_MAP = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: audit, namespace: logging}\ndata:\n  policy.yaml: |\n"
    + indented(POLICY, 4)
)
RKE = (
    "nodes: []\nservices:\n  kube-api:\n    audit_log:\n      enabled: true\n      configuration:\n"
    "        policy:\n" + indented(POLICY, 10)
)
EVENT = {"kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": "a", "verb": "get", "user": {}}
POD = """apiVersion: v1
kind: Pod
spec: {containers: [{command: [kube-apiserver, --audit-policy-file=/etc/kubernetes/audit.yaml]}]}
"""
# What is in the file; the words that say what it is; the line; the words that say what to do.
CASES = {
    "nothing": ("", "the policy is empty", None, "expected apiVersion: audit.k8s.io/v1"),
    "space": (" \n\n", "the policy is empty", None, "builtin:recommended"),
    "a byte order mark": ("\ufeff", "the policy is empty", None, ""),
    "comments": ("# a policy\n---\n# none\n", "nothing but comments", None, "builtin:recommended"),
    "an empty first document": (
        "---\n---\n" + POLICY,
        "first YAML document is empty",
        2,
        "remove the line ---",
    ),
    "no rules": (HEAD, "the policy has no rules: add at least one, e.g. '- level: Metadata'", 1, "0 rules"),
    "an empty list of rules": (
        HEAD + "rules: []",
        "the policy has no rules: add",
        3,
        "loaded illegal policy",
    ),
    "tabs": (
        POLICY.replace("- level", "\t- level"),
        "cannot start any token",
        4,
        "only spaces as indentation",
    ),
    "a ConfigMap": (
        CONFIG_MAP,
        "this is a ConfigMap with a policy in it, at data.policy.yaml, not the policy itself",
        5,
        "name that part of it: policy#data.policy.yaml",
    ),
    "a ConfigMap with an odd name": (
        CONFIG_MAP.replace("name: audit,", 'name: "$(reboot)",').replace("policy.yaml", '"a b`c`"'),
        "this is a ConfigMap with a policy",
        5,
        "name that part of it: policy#data.a b`c`",
    ),
    "another ConfigMap": (
        "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n",
        "this is a ConfigMap (v1), not an audit policy",
        2,
        "expected apiVersion: audit.k8s.io/v1",
    ),
    "a Helm template": (
        POLICY + "{{- if .Values.audit }}\n- level: None\n{{- end }}\n",
        "yaml: ",
        6,
        "render it first, with helm template if",
    ),
    "a Helm value": (
        POLICY.replace("Metadata", "{{ .Values.level }}"),
        "unsupported map key",
        4,
        "helm template",
    ),
    "another template": (POLICY.replace("Metadata", "{{ level }}"), "unsupported map key", 4, "a template"),
    "RKE's cluster.yml": (
        RKE,
        "this is RKE's cluster.yml with a policy in it, at services.kube-api.audit_log.configuration",
        7,
        "name that part of it: policy#services.kube-api.audit_log.configuration.policy",
    ),
    "a List": (
        "apiVersion: v1\nkind: List\nitems:\n- " + indented(POLICY, 2).lstrip(),
        "at items[0], not the policy",
        4,
        "name that part of it: policy#items[0]",
    ),
    "an EventList": (
        json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [EVENT]}),
        "an audit log",
        1,
        "filtered",
    ),
    "an audit log": (
        (json.dumps(EVENT) + "\n") * 3,
        "this is an audit log, not an audit policy",
        None,
        "by a policy",
    ),
    "an event": (json.dumps(EVENT), "this is an audit log", 1, "builtin:recommended"),
    "an array of events": (json.dumps([EVENT]), "this is an audit log", 1, ""),
    "a Deployment": (
        "apiVersion: apps/v1\nkind: Deployment\n",
        "this is a Deployment (apps/v1), not",
        2,
        "kind: Policy",
    ),
    "kube-apiserver's manifest": (POD, "this is a Pod (v1)", 2, "reads is /etc/kubernetes/audit.yaml"),
    "a list of rules": (
        "- level: None\n- level: Metadata\n",
        "a list of rules, not",
        1,
        "put it below 'rules:'",
    ),
    "a page": (
        "<!DOCTYPE html>\n<html><p>policy: </p></html>",
        "an HTML or XML page",
        None,
        "the link named Raw",
    ),
    "gzip data": (
        gzip.compress(POLICY.encode()),
        "this is gzip data, not an audit policy",
        None,
        "gunzip -c",
    ),
    "UTF-16 without a mark": (
        POLICY.encode("utf-16-le"),
        "UTF-16 text without a mark",
        None,
        "save it as UTF-8",
    ),
    "binary data": (b"\x7fELF\x02\x01\0\0\0\0\0\0\0\0\x3e\0abcdefghi", "binary data, not", None, ""),
    "plain text": ("see the other file", "expected a policy, found text that is not a YAML mapping", 1, ""),
    "an older version": (
        POLICY.replace("v1", "v1beta1"),
        "'audit.k8s.io/v1beta1' is not supported",
        1,
        "same fields",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_no_policy_is_told_by_what_it_is(name):
    text, message, line, hint = CASES[name]
    for strict in (True, False):
        with pytest.raises(PolicyError) as caught:
            Policy.from_yaml(text, strict=strict)
        (problem,) = caught.value.problems
        assert message in problem.message
        assert hint in problem.hint
        assert problem.line == line


def test_a_policy_that_mentions_a_template_in_a_comment_is_a_policy():
    assert len(Policy.from_yaml("# {{ .Values.x }}\n" + POLICY).rules) == 1


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("users", "alice", 'write ["alice"]'),
        ("users", '"system:node:*"', 'users has no wildcards: write userGroups: ["system:nodes"]'),
        ("users", "'*'", "leave users out to match every user"),
        ("verbs", "'*'", "leave verbs out to match every verb"),
        ("nonResourceURLs", "/healthz*", 'write ["/healthz*"]'),
    ],
)
def test_a_text_in_place_of_a_list_gets_advice_that_works(field, value, hint):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(f"{POLICY}  {field}: {value}\n")
    (problem,) = caught.value.problems
    assert hint in problem.hint


def test_a_version_in_a_group_is_explained():
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(f"{POLICY}  resources: [{{group: apps/v1}}]\n")
    (problem,) = caught.value.problems
    assert problem.hint == 'a group is written without its version: "apps"'
