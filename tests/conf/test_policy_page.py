"""The references of policies, redaction and OpenShift's filters: each example is run, no field is missing."""

import re

import pytest
import yaml

from filter_engine import sampling
from filter_engine.loading import filter_policy
from tests.support import ROOT
from tests.support.examples import check_example, read_examples

PAGE = ROOT / "docs/policy.md"
EXAMPLES = read_examples(PAGE)
MORE_EXAMPLES = [
    example for page in ("redaction", "openshift") for example in read_examples(ROOT / f"docs/{page}.md")
]
FIELDS = filter_policy.POLICY.fields
RULE = FIELDS["rules"].item.fields


@pytest.mark.parametrize(
    "example", [*EXAMPLES, *MORE_EXAMPLES], ids=lambda example: f"{example.heading}:{example.number}"
)
def test_each_example_does_what_it_says(example):
    check_example(example)


def names_in(data):
    if isinstance(data, dict):
        return {*data, *(name for value in data.values() for name in names_in(value))}
    return {name for value in data for name in names_in(value)} if isinstance(data, list) else set()


def test_each_field_of_a_filter_policy_is_in_an_example_and_in_a_table():
    structs = [filter_policy.POLICY, FIELDS["rules"].item, RULE["sample"], FIELDS["redaction"]]
    structs += [RULE[name].item for name in ("resources", "except")]
    fields = {name for struct in structs for name in struct.fields}
    shown = {name for example in EXAMPLES for name in names_in(yaml.safe_load(example.policy))}
    assert fields - shown == {"keyFile"}, "for which an example would need a file"
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {*RULE, *FIELDS} - {"apiVersion", "kind", "metadata"} <= documented


def test_the_vectors_of_the_sample_are_right():
    text = PAGE.read_text().partition("### sample")[2].partition("### reduce")[0]
    hashes = re.findall(r"^\| `?([^`|]+)`? \| `([0-9a-f]{13})` \|$", text, re.MULTILINE)
    assert len(hashes) == 5
    for value, digits in hashes:
        if value.startswith("0."):
            assert sampling.threshold(float(value)) == digits
        else:
            limit = (int(digits, 16) + 1) / 16**13
            audit_id = "" if value == "(empty)" else value
            assert sampling.keeps(audit_id, sampling.threshold(limit))
            assert not sampling.keeps(audit_id, digits)
