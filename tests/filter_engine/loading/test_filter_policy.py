"""What is wrong with a FilterPolicy: each fault with its line, its field, and what to do."""

import pytest
import yaml
from hypothesis import given

from filter_engine import Level, Policy, PolicyError
from filter_engine.loading.filter_policy_validation import parse_codes
from tests.support.filter_policies import filter_policies

HEAD = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\n"
RULES = HEAD + "rules:\n- level: Metadata\n"


def errors(text):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text, source="policy.yaml")
    return str(caught.value).splitlines()


# What is added to a policy with one rule, and the whole message.
IN_THE_RULE = {
    "  userz: [a]": 'unknown field "rules[0].userz" (did you mean "users"?)',
    "  codes: [404]": 'unknown field "rules[0].codes" (did you mean "responseCodes"?)',
    "  rate: 0.5": 'unknown field "rules[0].rate" ("rate" is a field of sample: check the indentation)',
    "  level: Request": 'duplicate field "rules[0].level" (remove one of them)',
    "  users: system:nodes": "rules[0].users: expected a list, found the string 'system:nodes'"
    ' (write ["system:nodes"])',
    "  verbs: [ge*]": "rules[0].verbs[0]: verbs have no patterns, found 'ge*' (leave verbs out to"
    " match every verb, or name each)",
    "  responseCodes: [4x]": "rules[0].responseCodes[0]: expected a code from 100 to 999, one of"
    " 1xx to 9xx, or a range such as 500-599, found the string '4x'",
    "  responseCodes: [599-500]": "rules[0].responseCodes[0]: the range ends before it begins:"
    " write 500-599, found the string '599-500'",
    "  stages: [Panik]": "rules[0].stages[0]: expected one of RequestReceived, ResponseStarted,"
    " ResponseComplete, Panic, found 'Panik'",
    "  levels: [None]": "rules[0].levels[0]: expected one of Metadata, Request, RequestResponse,"
    " found 'None'",
    "  sourceIPs: [10.0.0.1/8]": "rules[0].sourceIPs[0]: '10.0.0.1/8' is an address inside a network"
    " (write 10.0.0.0/8, or the address alone)",
    "  nonResourceURLs: [healthz]": "rules[0].nonResourceURLs[0]: expected a path or a pattern"
    " that begins with / or *, found 'healthz'",
    "  name: none": "rules[0].name: 'none' can't be a rule's name: expected a letter and then at"
    " most 62 letters, digits or ._/-, but not 'none'",
    "  sample: {rate: 0}": "rules[0].sample.rate: expected a number above 0 and up to 1, found the number"
    " 0 (to drop everything, write level: None)",
    "  except: [{except: [{verbs: [get]}]}]": 'unknown field "rules[0].except[0].except" (an'
    " exception has no exceptions: write another rule)",
}


@pytest.mark.parametrize("added", IN_THE_RULE)
def test_a_fault_in_a_rule_is_named_with_its_line_and_what_to_do(added):
    assert f"policy.yaml:5: {IN_THE_RULE[added]}" in errors(f"{RULES}{added}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RULES.replace("io/v1", "io/v2"), "apiVersion: expected kube-audit-filter.io/v1, found"),
        (RULES.replace("kind: FilterPolicy\n", ""), "kind: expected FilterPolicy, found nothing"),
        (
            RULES.replace("kube-audit-filter.io", "audit.k8s.io"),
            "apiVersion: expected kube-audit-filter.io/v1",
        ),
        (HEAD, "rules: the policy has no rules and no defaultLevel: it would drop everything"),
        (RULES + "defaultLevel: metadata\n", "defaultLevel: expected one of None, Metadata, Request"),
        (RULES + "redaction: {method: blur}\n", "redaction.method: expected one of mask, remove, hash"),
        (RULES + "redaction: {method: hash}\n", "redaction.keyFile: expected the path of a file"),
        (RULES.replace("level: Metadata", "users: [a]"), "rules[0].level: expected one of None, Metadata"),
        (RULES + "- {level: None, sample: {rate: 0.5}}\n", "rules[1].sample: the rule has level None"),
        (
            HEAD + "rules: [{name: a, level: None}, {name: a, level: Metadata}]",
            "rules[1].name: 'a' is also the name of rules[0]",
        ),
        (
            HEAD + "rules: [{level: None, resources: [{resources: [pods]}], nonResourceURLs: [/a]}]",
            "rules[0].nonResourceURLs: a request is for a resource or for another URL",
        ),
        (HEAD + "rules: [{level: None, except: [{}]}]", "rules[0].except[0]: without conditions it matches"),
        (HEAD + "rules: [{level: None, users: []}]", "rules[0].users:"),
    ],
)
def test_a_fault_is_named_with_its_field(text, message):
    assert any(message in line for line in errors(text)), errors(text)


@pytest.mark.parametrize("field", ["name: a", "except: []", "sample: {}", "userAgents: [a]", "redact: [a]"])
def test_a_field_of_a_filter_policy_in_a_policy_says_which_kind_has_it(field):
    (message,) = errors(f"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n  {field}\n")
    hint = "is a field of a FilterPolicy: write apiVersion: kube-audit-filter.io/v1 and kind: FilterPolicy)"
    assert message.endswith(hint)


@pytest.mark.parametrize(
    ("value", "codes"), [(200, (200, 200)), ("404", (404, 404)), ("4xx", (400, 499)), ("400-403", (400, 403))]
)
def test_response_codes_are_numbers_classes_and_ranges(value, codes):
    assert parse_codes(value) == codes


@given(document=filter_policies)
def test_a_policy_is_written_as_it_was_read(document):
    policy = Policy.from_dict(document)
    assert Policy.from_dict(policy.to_dict()) == policy
    assert Policy.from_yaml(yaml.safe_dump(document)) == policy


def test_the_fields_of_a_filter_policy_become_those_of_its_rules():
    policy = Policy.from_yaml(
        HEAD
        + """
defaultLevel: Request
reduce: false
rules:
- name: a
  level: Metadata
  responseCodes: [4xx]
  annotations: {k: [v]}
  except: [{users: [b]}]
  sample: {rate: 1}
"""
    )
    (rule,) = policy.rules
    assert (policy.kind, policy.default_level, policy.reduce) == ("FilterPolicy", Level.REQUEST, False)
    assert (policy.rule_name(0), policy.rule_name(None), policy.rule_line(0)) == ("a", "none", 7)
    assert (rule.response_codes, rule.annotations) == (((400, 499),), (("k", ("v",)),))
    assert (rule.exceptions[0].users, rule.sample.rate, rule.sample.annotate) == (("b",), 1.0, True)
