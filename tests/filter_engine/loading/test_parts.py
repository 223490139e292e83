"""Policies that are parts of other files: how they are recognised and named."""

import json

import pytest

from filter_engine import Policy, PolicyError

POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"
FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\ndefaultLevel: Metadata\n"


def indented(text, depth):
    return "".join(f"{' ' * depth}{line}" for line in text.splitlines(keepends=True))


CONFIG_MAP = (
    f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  policy.yaml: |\n{indented(POLICY, 4)}"
)
OWN_CONFIG_MAP = f"kind: ConfigMap\ndata:\n  p: |\n{indented(FILTER_POLICY, 4)}"
RKE = f"services:\n  kube-api:\n    audit_log:\n      configuration:\n        policy:\n{indented(POLICY, 10)}"
LIST = f"kind: List\nitems:\n- kind: Namespace\n- kind: ConfigMap\n  data:\n    a.b: |\n{indented(POLICY, 6)}"
SEVERAL = f"kind: Namespace\n---\n# comment\n---\n{POLICY}---\n{CONFIG_MAP}"
PARTS = [
    (CONFIG_MAP, "data.policy.yaml", 9, "a ConfigMap"),
    (OWN_CONFIG_MAP, "data.p", None, "a ConfigMap"),
    (RKE, "services.kube-api.audit_log.configuration.policy", 9, "RKE's cluster.yml"),
    (LIST, "items[1].data.a.b", 10, "a List"),
]


@pytest.mark.parametrize(("text", "part", "line", "what"), PARTS)
def test_a_part_is_named_by_its_place(text, part, line, what):
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(text, source="file.yaml")
    assert f"this is {what} with a policy in it, at {part}, not the policy itself" in str(error.value)
    assert str(error.value).endswith(f"(name that part of it: file.yaml#{part})")
    policy = Policy.from_yaml(text, part=part)
    if line is None:
        assert policy == Policy.from_yaml(FILTER_POLICY)
    else:
        assert policy == Policy.from_yaml(POLICY)
        assert policy.rule_line(0) == line


def test_a_document_behind_the_first_is_named_by_its_number():
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(SEVERAL, source="file.yaml")
    assert "this is a Namespace, not an audit policy" in str(error.value)
    assert str(error.value).endswith("(line 5 begins a policy: name it as file.yaml#document-2)")
    assert Policy.from_yaml(SEVERAL, part="document-2").rule_line(0) == 8
    assert Policy.from_yaml(SEVERAL, part="data.policy.yaml") == Policy.from_yaml(POLICY)


def test_json_has_parts_too():
    text = json.dumps({"kind": "ConfigMap", "data": {"p": POLICY}})
    assert Policy.from_yaml(text, part="data.p") == Policy.from_yaml(POLICY)


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        (CONFIG_MAP, "data.other", "file.yaml: there is nothing called 'data.other' in this file (it has a"
         " policy at data.policy.yaml (line 5))"),
        (SEVERAL, "x", "(it has a policy at document-2 (line 5), data.policy.yaml (line 14))"),
        ("a: 1", "b", "(there is no policy in this file)"),
        (CONFIG_MAP, "data", "this is not"),
        (CONFIG_MAP, "metadata.name", "expected a policy"),
        ("a: [", "a", "yaml:"),
        (CONFIG_MAP.replace("Metadata", "Metdata"), "data.policy.yaml", "file.yaml:9: rules[0].level"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text, part, message):
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(text, source="file.yaml", part=part)
    if message != "this is not":
        assert message in str(error.value)
