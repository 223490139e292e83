"""The JSON Schema of the policy formats: it takes and refuses what the loader takes and refuses."""

import copy
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from filter_engine import Policy, PolicyError
from filter_engine.loading import filter_policy, policy_v1
from filter_engine.loading.descriptions import DESCRIPTIONS
from filter_engine.loading.json_schema import json_schema
from filter_engine.loading.schema import List, Map, Struct
from tests.support import ROOT, verdicts
from tests.support.filter_policies import filter_policies

KINDS = (None, "Policy", "FilterPolicy")
VALIDATORS = {kind: Draft202012Validator(json_schema(kind)) for kind in KINDS}
FILTER_POLICY = {"apiVersion": "kube-audit-filter.io/v1", "kind": "FilterPolicy"}
POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}


def loads(data):
    try:
        Policy.from_dict(data)
    except PolicyError:
        return False
    return True


def validates(data):
    """Whether the schema of both kinds takes a policy; that of one kind has to agree."""
    found = VALIDATORS[None].is_valid(data)
    assert sum(VALIDATORS[kind].is_valid(data) for kind in ("Policy", "FilterPolicy")) == found
    return found


def structs(type_):
    """An object of a table, and all objects in it."""
    if isinstance(type_, Struct):
        yield type_
        for inner in type_.fields.values():
            yield from structs(inner)
    elif isinstance(type_, (List, Map)):
        yield from structs(type_.item if isinstance(type_, List) else type_.value)


def test_every_field_of_the_tables_has_a_description_and_nothing_else_has():
    tables = {each.name: each for root in (policy_v1.POLICY, filter_policy.POLICY) for each in structs(root)}
    assert {name: list(texts) for name, texts in DESCRIPTIONS.items()} == {
        name: ["", *table.fields] for name, table in tables.items()
    }
    texts = [text for each in DESCRIPTIONS.values() for text in each.values()]
    assert all(re.fullmatch(r"\S.*\S", text) for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_a_schema_and_uses_all_that_it_defines(kind):
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == set(schema["$defs"])


def policies_of_the_repository():
    """All policies in files, in ConfigMaps of manifests and in the documentation."""
    texts = []
    for path in [*ROOT.glob("conf/**/*.yaml"), *ROOT.glob("plugin/**/*.yaml")]:
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") == "ConfigMap":
                texts += document["data"].values()
            elif isinstance(document, dict) and document.get("kind") in ("Policy", "FilterPolicy"):
                texts.append(path.read_text())
    for path in ROOT.glob("docs/*.md"):
        texts += re.findall(r"^```yaml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for text in texts if re.search(r"^kind: (Filter)?Policy$", text, re.MULTILINE)]


def test_every_policy_of_the_repository_fits_the_schema():
    policies = policies_of_the_repository()
    assert len(policies) >= 8
    for text in policies:
        assert validates(yaml.safe_load(text)), text


@given(filter_policies)
def test_every_filter_policy_fits_the_schema(document):
    assert validates(document)
    assert validates(Policy.from_dict(document).to_dict())


def test_a_policy_that_kube_apiserver_takes_or_refuses_is_taken_or_refused():
    cases = [case for case in verdicts("policy_loading.jsonl") if isinstance(case.get("policy"), dict)]
    assert len(cases) > 80
    for case in cases:
        is_taken = case["accepted"] and not case["warnings"]
        if is_taken and (has_null(case["policy"]) or case["policy"].get("kind") == ""):
            is_taken = False  # docs/schema.md: for kube-apiserver, such a field is not there
        assert validates(case["policy"]) == is_taken, case["description"]


def has_null(data):
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return data is None or any(map(has_null, inside))


# A policy with every field, and what is put in the place of one of its values. Both refuse each of these.
WHOLE = {
    **FILTER_POLICY,
    "metadata": {"name": "whole", "annotations": {"a": "b"}, "creationTimestamp": None},
    "defaultLevel": "Metadata",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "reduce": False,
    "redaction": {"method": "hash", "keyFile": "/etc/key"},
    "rules": [
        {
            "name": "first",
            "level": "Request",
            "users": ["a*"],
            "userGroups": ["g"],
            "verbs": ["get"],
            "namespaces": [""],
            "resources": [{"group": "apps", "resources": ["deployments/scale"], "resourceNames": ["web-*"]}],
            "responseCodes": [200, "4xx", "500-599"],
            "stages": ["Panic"],
            "levels": ["Metadata"],
            "userAgents": ["kubectl/*"],
            "sourceIPs": ["10.0.0.0/8"],
            "impersonatedUsers": ["b"],
            "annotations": {"k": ["v"]},
            "ownNamespace": "same",
            "except": [{"users": ["ab"]}, {"annotations": {"k": ["w"]}}],
            "omitStages": ["ResponseStarted"],
            "omitManagedFields": False,
            "sample": {"rate": 0.5, "annotate": False},
            "redact": ["builtin:secrets"],
        },
        {"level": "None", "nonResourceURLs": ["/healthz*"]},
    ],
}
RULE = "rules.0"
BROKEN = [
    ("apiVersion", ["kube-audit-filter.io/v2", "audit.k8s.io/v1", 1, None]),
    ("kind", ["Policy", "filterpolicy", None]),
    ("metadata", ["x", {"nam": "x"}, {"labels": {"a": 1}}, {"generation": "1"}]),
    ("defaultLevel", ["metadata", "", None, ["None"]]),
    ("omitStages", [["Never"], "Panic", [None]]),
    ("omitManagedFields", ["yes", 1, None]),
    ("reduce", ["no", None]),
    (
        "redaction",
        [{"method": "encrypt"}, {"method": "hash"}, {"keyFile": "x"}, {"method": "hash", "keyFile": ""}],
    ),
    ("rule", [[]]),
    ("rules", [{}, [None], ["x"], None]),
    (f"{RULE}.name", ["", "1", "none", "a b", "a" * 64, None]),
    (f"{RULE}.level", ["", "metadata", None, 1]),
    *((f"{RULE}.{name}", [[], "a", [None], [1], None]) for name in ("users", "userGroups", "namespaces")),
    *((f"{RULE}.{name}", [[], "a", [None], [1], None]) for name in ("userAgents", "impersonatedUsers")),
    (f"{RULE}.verbs", [[], ["*"], ["get*"]]),
    (f"{RULE}.nonResourceURLs", [["/healthz"]]),
    ("rules.1.nonResourceURLs", [[], ["healthz"], [""]]),
    ("rules.1.namespaces", [["a"]]),
    ("rules.1.sample", [{"rate": 0.1}]),
    ("rules.1.redact", [["builtin:secrets"]]),
    (f"{RULE}.resources", [[], [None], ["pods"], [{"verbs": ["get"]}], [{"resourceNames": ["a"]}]]),
    (f"{RULE}.resources.0.group", ["apps/v1", "Apps", "a b", 1, None]),
    (f"{RULE}.resources.0.resources", [[], ["Pods"], ["/log"], ["pods/"], [""]]),
    (f"{RULE}.resources.0.resourceNames", [[]]),
    (f"{RULE}.responseCodes", [[], [99], [1000], ["4XX"], ["0xx"], ["400-"], ["400-1000"], [True], 403]),
    (f"{RULE}.stages", [[], ["never"]]),
    (f"{RULE}.levels", [[], ["None"]]),
    (f"{RULE}.sourceIPs", [[], ["localhost"], ["10.0.0.0/1000"], ["10.0.0.0/255.0.0.0"]]),
    (f"{RULE}.ownNamespace", ["", "other", True]),
    (f"{RULE}.annotations", [{}, {"a": []}, {"a": "b"}, ["a"], {"a": [1]}]),
    (
        f"{RULE}.except",
        [[{}], [{"level": "None"}], [{"except": []}], [{"users": []}], {"users": ["a"]}, [None]],
    ),
    (f"{RULE}.except.0", [{"resources": [{}], "nonResourceURLs": ["/a"]}]),
    (
        f"{RULE}.sample",
        [{}, {"rate": 0}, {"rate": 1.5}, {"rate": "1"}, {"rate": 1, "annotate": "x"}, 0.5, None],
    ),
    (f"{RULE}.redact", ["builtin:secrets", [1]]),
    (f"{RULE}.codes", [[403]]),
]
WHOLE_KUBERNETES = {
    **POLICY,
    "metadata": {"name": "whole"},
    "omitStages": ["Panic"],
    "omitManagedFields": True,
    "rules": [
        {
            "level": "Request",
            "users": ["a"],
            "userGroups": [],
            "verbs": ["get"],
            "resources": [{"group": "apps", "resources": ["*/scale"], "resourceNames": ["web"]}],
            "namespaces": [""],
            "omitStages": ["RequestReceived"],
            "omitManagedFields": False,
        },
        {"level": "None", "nonResourceURLs": ["*", "/healthz*"], "resources": []},
    ],
}
BROKEN_KUBERNETES = [
    ("apiVersion", ["audit.k8s.io/v1beta1", "kube-audit-filter.io/v1", ""]),
    ("kind", ["FilterPolicy", "List"]),
    ("rules", [[], {}]),
    ("omitStages", [["never"], "Panic"]),
    *((name, [value]) for name, value in (("defaultLevel", "None"), ("reduce", True), ("redaction", {}))),
    (f"{RULE}.level", ["", "metadata", 1]),
    *(
        (f"{RULE}.{name}", [WHOLE["rules"][0][name]])
        for name in ("name", "except", "sample", "redact", "stages")
    ),
    *((f"{RULE}.{name}", [WHOLE["rules"][0][name]]) for name in ("responseCodes", "levels", "userAgents")),
    *(
        (f"{RULE}.{name}", [WHOLE["rules"][0][name]])
        for name in ("sourceIPs", "impersonatedUsers", "annotations", "ownNamespace")
    ),
    (f"{RULE}.nonResourceUrls", [["/healthz"]]),
    (f"{RULE}.nonResourceURLs", [["/healthz"]]),
    (f"{RULE}.users", ["a", [1]]),
    (f"{RULE}.omitStages", [["x"]]),
    ("rules.1.nonResourceURLs", [["healthz"], ["/a*b"], [""]]),
    ("rules.1.resources", [[{}]]),
    (f"{RULE}.resources.0.group", ["apps/v1", "Apps", "a..b", "a" * 254]),
    (f"{RULE}.resources.0.resources", [[], [1]]),
]


def with_value(data, path, value):
    data = copy.deepcopy(data)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = data
    for step in parents:
        place = place[step]
    place[last] = value
    return data


BROKEN_POLICIES = [
    pytest.param(with_value(whole, path, value), id=f"{whole['kind']} {path}: {json.dumps(value)[:40]}")
    for whole, table in ((WHOLE, BROKEN), (WHOLE_KUBERNETES, BROKEN_KUBERNETES))
    for path, values in table
    for value in values
]


def test_the_policies_that_are_broken_next_are_whole():
    for whole in (WHOLE, WHOLE_KUBERNETES):
        assert loads(whole)
        assert validates(whole)
    assert {*WHOLE["rules"][0], "nonResourceURLs"} == set(DESCRIPTIONS["FilterPolicyRule"]) - {""}


@pytest.mark.parametrize("broken", BROKEN_POLICIES)
def test_what_the_loader_refuses_the_schema_refuses_too(broken):
    assert not loads(broken)
    assert not validates(broken)


@pytest.mark.parametrize(
    "path", ["apiVersion", "kind", f"{RULE}.level", f"{RULE}.sample.rate", "redaction.keyFile"]
)
def test_what_has_to_be_there_has_to_be_there_for_the_schema_too(path):
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    broken = copy.deepcopy(WHOLE)
    place = broken
    for step in parents:
        place = place[step]
    del place[last]
    assert not loads(broken)
    assert not validates(broken)


def test_without_rules_there_has_to_be_a_default_level():
    for policy in ({}, {"rules": []}):
        assert not loads(FILTER_POLICY | policy)
        assert not validates(FILTER_POLICY | policy)
        assert loads(FILTER_POLICY | policy | {"defaultLevel": "None"})
        assert validates(FILTER_POLICY | policy | {"defaultLevel": "None"})


class StringTimes(yaml.SafeLoader):
    """Reads times as strings, as editors and kube-apiserver do."""


StringTimes.add_constructor("tag:yaml.org,2002:timestamp", StringTimes.construct_yaml_str)


def differences():
    """The table of docs/schema.md."""
    table = (ROOT / "docs/schema.md").read_text().partition("## Where the schema and the program differ")[2]
    rows = re.findall(r"^\| .*? \| `(.*)` \| (takes|refuses) \| (takes|refuses) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n| ") - 2
    return [(example, schema == "takes", program == "takes") for example, schema, program in rows]


@pytest.mark.parametrize(("example", "by_schema", "by_program"), differences())
def test_where_they_differ_is_documented(example, by_schema, by_program):
    kind, body = POLICY, example.removeprefix("kind: Policy, ")
    if body == example:
        kind = FILTER_POLICY
    text = "".join(f"{name}: {value}\n" for name, value in kind.items()) + body
    if "rules:" not in body:
        text += "\nrules: [{level: Metadata}]"
    data = yaml.load(text, StringTimes)
    assert validates(data) == by_schema
    try:
        loaded = bool(Policy.from_yaml(text))
    except PolicyError:
        loaded = False
    assert loaded == by_program


def places(data, path=()):
    """The paths of all values in a policy."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*path, index))


VALUES = [None, True, 5, 404, 0.5, "", "x", "None", "4xx", "*", "/a", "10.0.0.0/8", [], {}, ["a"], [""], [{}]]


@given(filter_policies, st.data())
def test_a_policy_with_another_value_somewhere_is_taken_by_both_or_by_none(document, data):
    whole = copy.deepcopy(document)
    path = data.draw(st.sampled_from([path for path in places(whole) if path]))
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = data.draw(st.sampled_from(VALUES))
    if isinstance(whole["rules"], list):
        # docs/schema.md: the schema does not see that nothing is redacted.
        whole["rules"].append({"level": "Metadata", "redact": ["builtin:secrets"]})
    assert loads(whole) == validates(whole)
