"""YAML as go-yaml v2 reads it, where PyYAML's parser does not. More of it: tests/conformance."""

import pytest

from filter_engine import Level, Policy, PolicyError, PolicyRule

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
RULES = "rules: [{level: None}]\n"


def users(scalars):
    return Policy.from_yaml(f"{HEAD}rules: [{{level: None, users: [{scalars}]}}]").rules[0].users


def problem(text, **options):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text, **options)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("scalars", "read"),
    [
        ("a:", ("a:",)),
        ("a:,b:,c", ("a:", "b:", "c")),
        ("!!binary YWI=", ("ab",)),
        ("!!binary /w==", ("\ufffd",)),
        ("! no, ! 'no'", ("no", "no")),
        ("!!timestamp 2001-12-14t21:59:43.10-05:00", ("2001-12-14t21:59:43.10-05:00",)),
        ("<<, '<<'", ("<<", "<<")),
        ("!!merge a", ("a",)),
        ("1:30, 190:20:30, 0o8, 2024-01-01", ("1:30", "190:20:30", "0o8", "2024-01-01")),
        ("a\x85b, 'c\u2028  d'", ("a b", "c\u2028d")),
    ],
)
def test_scalars_of_a_flow_list(scalars, read):
    assert users(scalars) == read


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("%YAML 1.2\n---\n" + HEAD + RULES, 1, "found incompatible YAML document"),
        (HEAD + "rules: [{level: None, nonResourceURLs: [/a?b]}]", 3, "did not find expected ',' or ']'"),
        (HEAD + "a: {b: c?}\n" + RULES, 3, "did not find expected ',' or ']' or '}'"),
        (HEAD + "a: [!b, c]\n" + RULES, 3, "a tag goes on up to the next space"),
        (HEAD + "\ufeff" + RULES, 3, "found a byte order mark in the text"),
        (HEAD + "a: !!timestamp 2024-02-30\n" + RULES, 3, "cannot decode '2024-02-30' as a !!timestamp"),
        (HEAD + "a: !!timestamp 2001-12-14 21:59:43.10 -5\n", 3, "as a !!timestamp"),
        (HEAD + "a: !!binary x\n" + RULES, 3, "contains invalid base64 data"),
        (HEAD + "a: !!binary YWJj=\n" + RULES, 3, "contains invalid base64 data"),
        (HEAD + "a: !!float 18446744073709551615\n" + RULES, 3, "as a !!float"),
        (HEAD + "18446744073709551615: a\n" + RULES, 3, "unsupported map key of type int"),
        (HEAD + "a: &a [{b: c}]\nd: {<<: *a}\n" + RULES, 4, "map merge requires map or sequence of maps"),
        (HEAD + "metadata: {generation: 9223372036854775808}\n" + RULES, 3, "expected an integer of 64 bits"),
        (HEAD + "metadata: {generation: 1e19}\n" + RULES, 3, "expected an integer of 64 bits"),
        (HEAD + "metadata: {managedFields: [{fieldsV1: {a: .nan}}]}\n" + RULES, 3, "unsupported value: nan"),
    ],
)
def test_what_kube_apiserver_refuses_is_refused_with_its_line(text, line, message):
    found = problem(text, strict=False)
    assert (found.line, message in found.message) == (line, True), found


def test_whole_numbers_may_be_written_as_others_in_yaml_and_not_in_json():
    text = HEAD + RULES + "metadata: {generation: 1e3}\n"
    assert Policy.from_yaml(text).metadata["generation"] == 1000
    text = '{"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "None"}], "metadata": {"generation": 1e3}}'
    assert "expected an integer" in problem(text).message


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize("as_json", [True, False])
def test_keys_that_are_set_twice_in_metadata_are_duplicates(field, as_json):
    text = HEAD + RULES + f"metadata:\n  {field}:\n    a: b\n    a: c\n"
    if as_json:
        text = (
            '{"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "None"}],\n"metadata": {"'
            + field
            + '": {"a": "b",\n"a":\n"c"}}}'
        )
    found = problem(text)
    assert found.message == f'duplicate field "metadata.{field}.a"'
    assert (found.line, found.lenient) == (3 if as_json else 7, True)
    assert Policy.from_yaml(text, strict=False).metadata[field] == {"a": "c"}


def test_merge_keys_are_told_by_their_tag_and_not_by_quotes():
    merged = PolicyRule(Level.NONE, verbs=("get",))
    for key in ("<<", "!!merge <<", "! <<", "'<<'"):
        text = f"{HEAD}rules:\n- level: None\n  {key}: {{verbs: [get]}}\n"
        if key == "'<<'":
            assert problem(text).message == 'unknown field "rules[0].<<"'
        else:
            assert Policy.from_yaml(text).rules == (merged,), key


def test_numbers_as_keys_are_written_as_go_writes_them():
    text = (
        HEAD + RULES + "metadata: {labels: {1.50: a, 1e6: b, 1e5: c, 0x10: d, true: e, .inf: f, 1e-5: g}}\n"
    )
    labels = Policy.from_yaml(text).metadata["labels"]
    assert list(labels) == ["1.5", "1e+06", "100000", "16", "true", ".inf", "1e-05"]


def test_utf_16_with_a_mark_is_text():
    text = HEAD + "rules: [{level: None, users: [\u00e9:]}]\n"
    for encoded in (text.encode("utf-16"), ("\ufeff" + text).encode("utf-16-be")):
        assert Policy.from_yaml(encoded).rules[0].users == ("é:",)


def test_a_document_with_many_such_words_is_refused():
    assert "found unexpected ':'" in problem(f"{HEAD}rules: [{{level: None, users: [{'a:,' * 40}]}}]").message


def test_times_are_those_that_go_takes():
    def accepts(time):
        try:
            Policy.from_yaml(f"{HEAD}{RULES}metadata: {{creationTimestamp: '{time}'}}\n")
        except PolicyError:
            return False
        return True

    good = ("2024-02-29T03:04:05Z", "2024-01-02T3:04:05.5+24:00", "0000-01-01T00:00:00,1Z")
    bad = ("2023-02-29T03:04:05Z", "2024-01-02T03:04:05", "2024-01-02T24:00:00Z", "2024-1-2T03:04:05Z", "")
    assert [accepts(time) for time in good + bad] == [True] * len(good) + [False] * len(bad)
