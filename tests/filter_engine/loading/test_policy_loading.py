"""Policies as text, files and mappings: what loads, and what is said of what does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_engine import GroupResources, Level, Policy, PolicyError, PolicyRule

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"


def load(body, **options):
    return Policy.from_yaml(HEAD + body, **options)


def problems(text, **options):
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(text, **options)
    return error.value.problems


def test_every_field_of_the_format_is_read():
    policy = load(
        """
metadata: {name: all, annotations: {a: b}, creationTimestamp: 2024-01-02T03:04:05Z}
omitStages: [RequestReceived]
omitManagedFields: on
rules:
- level: Request
  users: [alice, 2024-01-01, 1:30, "no", '1']
  userGroups: [g]
  verbs: [get]
  namespaces: ["", default]
  resources:
  - group: apps
    resources: [deployments, "*/scale"]
    resourceNames: [web]
  - {}
  omitStages: [Panic]
  omitManagedFields: no
- level: None
  nonResourceURLs: ["*", /healthz*]
"""
    )
    assert policy == Policy(
        rules=(
            PolicyRule(
                Level.REQUEST,
                users=("alice", "2024-01-01", "1:30", "no", "1"),
                user_groups=("g",),
                verbs=("get",),
                namespaces=("", "default"),
                resources=(GroupResources("apps", ("deployments", "*/scale"), ("web",)), GroupResources()),
                omit_stages=("Panic",),
                omit_managed_fields=False,
            ),
            PolicyRule(Level.NONE, non_resource_urls=("*", "/healthz*")),
        ),
        omit_stages=("RequestReceived",),
        omit_managed_fields=True,
        metadata={"name": "all", "annotations": {"a": "b"}, "creationTimestamp": "2024-01-02T03:04:05Z"},
    )
    assert Policy.from_dict(policy.to_dict()) == policy
    assert Policy.from_yaml(json.dumps(policy.to_dict())) == policy


@pytest.mark.parametrize(
    "scalar",
    [
        "no",
        "y",
        "On",
        "TRUE",
        "1",
        "0x1F",
        "017",
        "1_000",
        "+1",
        "1e3",
        ".5",
        "-.inf",
        ".NaN",
        "12345678901234567890123",
    ],
)
def test_scalars_that_are_no_strings_in_yaml_1_1_are_refused_as_strings(scalar):
    (problem,) = problems(HEAD + f"rules:\n- level: None\n  users: [a, {scalar}]\n")
    assert (problem.field, problem.line) == ("rules[0].users[1]", 5)
    assert problem.hint == "put it in quotes"


@pytest.mark.parametrize(
    "scalar",
    [
        "2024-01-01",
        "1:30",
        "0o8",
        "0b2",
        "=",
        "nO",
        "1.2.3",
        "--1",
        "!!str 1",
        "!x no",
        "12e4567",
        "0xffffffffffffffffffff",
        "9" * 5000,
        "._1",
    ],
)
def test_scalars_that_only_look_odd_are_strings(scalar):
    (user,) = load(f"rules: [{{level: None, users: [{scalar}]}}]").rules[0].users
    assert user == scalar.split()[-1]


def test_null_is_absent_and_a_null_element_is_empty():
    rule = load("rules: [{level: None, users: ~, verbs: , resources: [~], namespaces: [null, ~]}]").rules[0]
    assert rule == PolicyRule(Level.NONE, resources=(GroupResources(),), namespaces=("", ""))


def test_only_the_first_document_counts():
    assert load("rules: [{level: None}]\n---\n{ not yaml").rules == (PolicyRule(Level.NONE),)


def test_anchors_and_merge_keys():
    policy = load(
        """
rules:
- &base {level: None, users: &users [a]}
- <<: *base
  verbs: [get]
- <<: [{level: Request, verbs: [list]}, *base]
  namespaces: *users
""",
        strict=False,
    )
    assert policy.rules[1] == PolicyRule(Level.NONE, users=("a",), verbs=("get",))
    # Of two maps that are merged, the earlier one wins.
    assert len(policy.warnings) == 1
    assert policy.rules[2] == PolicyRule(Level.REQUEST, users=("a",), verbs=("list",), namespaces=("a",))


def test_a_merged_key_that_is_set_again_is_a_duplicate_and_the_last_one_wins():
    text = HEAD + "rules:\n- &a\n  level: None\n- <<: *a\n  level: Metadata\n"
    (problem,) = problems(text)
    assert (problem.message, problem.line) == ('duplicate field "rules[1].level"', 7)
    assert Policy.from_yaml(text, strict=False).rules[1].level is Level.METADATA


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("rules:\n\t- level: None", 4, "found character"),
        ("rules: [", 4, "did not find expected"),
        ("rules: *gone", 3, "unknown anchor 'gone'"),
        ("rules: &a [*a]", 3, "contains itself"),
        ("? null\n: x", 3, "unsupported map key"),
        ("? [a]\n: x", 3, "unsupported map key"),
        ("omitManagedFields: !!bool x", 3, "cannot decode 'x' as a !!bool"),
        ("<<: 1", 3, "map merge requires"),
        ("a: " + "[" * 200, 3, "nested more than 100 levels"),
        ("a: b\n c: d", 4, "mapping values are not allowed"),
    ],
)
def test_yaml_that_cannot_be_read_is_reported_with_its_line(text, line, message):
    (problem,) = problems(HEAD + text)
    assert problem.line == line
    assert message in problem.message


def test_text_behind_the_value_of_a_document_is_an_error():
    (problem,) = problems("\ufeff{apiVersion: audit.k8s.io/v1, rules: [{level: None}]}\n@")
    assert "cannot start any token" in problem.message
    assert problem.line == 2


def test_aliases_cannot_make_a_document_explode():
    bomb = "\n".join([f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])
    (problem,) = problems("a0: &a0 x\n" + bomb)
    assert "excessive aliasing" in problem.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"apiVersion": "audit.k8s.io/v1",\n "rules": [{"level": "None"},]}', 2, "Expecting value"),
        ('{"rules": []} {}', 1, "expected the end of the document"),
        ("{'rules': []}", 1, "expected a field name in double quotes"),
        ('{"rules": [] # comment\n}', 1, "expected ','"),
        ('{"rules": [', 1, "Expecting value"),
        ('{"rules": []', 1, "expected ',', found the end of the text"),
        ('{"rules": [1 2]}', 1, "expected ','"),
        ('{"rules" []}', 1, "expected ':'"),
        ('{"rules": NaN}', None, "NaN is not a JSON value"),
        ('{"a": ' + "[" * 200, 1, "nested more than 100 levels"),
        ('{"a": ' + "1" * 5000 + "}", 1, "too many digits"),
    ],
)
def test_text_that_starts_with_a_brace_is_json_and_nothing_else(text, line, message):
    (problem,) = problems(text)
    assert message in problem.message
    assert problem.line == line


def test_json_errors_have_lines():
    text = '{"apiVersion": "audit.k8s.io/v1", "rules": [\n{"level": "None"},\n{"level":\n"x"}]}'
    (problem,) = problems(text)
    assert (problem.field, problem.line) == ("rules[1].level", 3)


def test_duplicate_keys_in_json_are_reported_and_merged_as_go_merges_them():
    text = (
        '{"apiVersion": "audit.k8s.io/v1",'
        ' "rules": [{"level": "None", "verbs": ["get"]}, {"level": "None"}],\n'
        '"rules": [{"level": "Metadata"}]}'
    )
    (problem,) = problems(text)
    assert (problem.message, problem.line) == ('duplicate field "rules"', 2)
    rules = Policy.from_yaml(text, strict=False).rules
    assert rules == (PolicyRule(Level.METADATA, verbs=("get",)),)


def test_all_errors_are_reported_at_once_in_the_order_of_the_file():
    found = problems(
        "apiVersion: audit.k8s.io/v1beta1\n"
        "kind: List\n"
        "rules:\n"
        "- level: x\n"
        "  nonResourceURLs: [a*b]\n"
        "- levle: None\n"
        "  users: alice\n"
        "- none\n"
        "- level: [None]\n"
        "  resources: [{group: Apps, resourceNames: [a]}]\n"
        "omitStages: [y]\n"
        "metadata: {nam: x}\n"
    )
    assert [(problem.line, problem.field) for problem in found] == [
        (1, "apiVersion"),
        (2, "kind"),
        (4, "rules[0].level"),
        (5, "rules[0].nonResourceURLs[0]"),
        (5, "rules[0].nonResourceURLs[0]"),
        (6, "rules[1].levle"),
        (6, "rules[1].level"),
        (7, "rules[1].users"),
        (8, "rules[2]"),
        (9, "rules[3].level"),
        (10, "rules[3].resources.group"),
        (10, "rules[3].resources.resourceNames"),
        (11, "omitStages[0]"),
        (12, "metadata.nam"),
    ]


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("nonResourceUrls: [/x]", 'did you mean "nonResourceURLs"?'),
        ("resources: [{resource: [pods]}]", 'did you mean "resources"?'),
        ("resources: [{verbs: [get]}]", '"verbs" is a field of the rule'),
        ("resourceNames: [a]", '"resourceNames" is a field of an element of resources'),
        ("codes: [200]", "an extension of k8s-audit-filter"),
        ("zzz: 1", "the rule matches more than it says"),
    ],
)
def test_an_unknown_field_is_explained(rule, hint):
    (problem,) = problems(HEAD + f"rules: [{{level: None, {rule}}}]")
    assert problem.lenient
    assert hint in problem.hint
    policy = load(f"rules: [{{level: None, {rule}}}]", strict=False)
    assert len(policy.warnings) == 1
    assert policy.warnings[0].startswith(f"policy:3: {problem.message}")


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode() + b"rules: [{level: None}]\r\n")
    assert Policy.from_file(path).rules == Policy.from_file(str(path)).rules == (PolicyRule(Level.NONE),)
    path.write_text(HEAD + "rules: [{}]\n")
    with pytest.raises(PolicyError) as error:
        Policy.from_file(path)
    assert str(error.value) == f"{path}:3: rules[0].level: Required value"
    with pytest.raises(FileNotFoundError):
        Policy.from_file(tmp_path / "none.yaml")


def test_a_mapping_needs_no_lines_and_may_hold_tuples_and_levels():
    mapping = {"apiVersion": "audit.k8s.io/v1", "rules": ({"level": Level.REQUEST, "users": ("a",)},)}
    assert Policy.from_dict(mapping).rules == (PolicyRule(Level.REQUEST, users=("a",)),)
    with pytest.raises(PolicyError, match=r"^policy: rules\[0\].level: Required value$"):
        Policy.from_dict({"apiVersion": "audit.k8s.io/v1", "rules": [{}]})
    for strange in ({1: 2}, {"rules": {"a", "b"}}, {"rules": [object()]}, {"rules": b"x"}):
        with pytest.raises(PolicyError, match="unsupported"):
            Policy.from_dict(strange)


def test_response_codes_load_where_asked_for():
    (rule,) = load("rules: [{level: None, codes: [403, 404]}]", codes=True).rules
    assert rule.codes == (403, 404)
    with pytest.raises(PolicyError, match="expected an integer, found the string '403'"):
        load("rules: [{level: None, codes: ['403']}]", codes=True)


def test_values_in_errors_are_quoted_as_go_quotes_them():
    names = '["a\\"<é", "\\u0001"]'
    found = problems(
        HEAD + f'rules: [{{level: "a\\n\\x01é\\u200b", resources: [{{resourceNames: {names}}}]}}]'
    )
    assert '"a\\n\\x01é\\u200b"' in found[0].message
    assert 'Invalid value: ["a\\"\\u003cé","\\u0001"]' in found[1].message


@given(st.text() | st.binary() | st.text(alphabet="{}[]:,-&*!|>'\"%@` \n\tab0").map(lambda text: HEAD + text))
def test_any_text_loads_or_raises_a_policy_error(text):
    for strict in (True, False):
        assert_loads_or_is_explained(lambda strict=strict: Policy.from_yaml(text, strict=strict))


def assert_loads_or_is_explained(load_it):
    try:
        return load_it()
    except PolicyError as error:
        explained = error
    assert explained.problems
    return None


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["rules", "level", "users", "resources", "group", "omitStages", "metadata", "codes", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_like, st.booleans(), st.booleans())
def test_any_data_loads_or_raises_a_policy_error(data, strict, codes):
    mapping = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": data}
    policy = assert_loads_or_is_explained(lambda: Policy.from_dict(mapping, strict=strict, codes=codes))
    if policy is not None:
        assert Policy.from_dict(policy.to_dict(), codes=codes).rules == policy.rules
