"""Names that annotations give to rules."""

import pytest

from filter_engine import Policy, PolicyError

TWO_RULES = "rules: [{level: None, verbs: [watch]}, {level: Metadata}]\n"


def policy(annotations, **options):
    lines = "".join(f"    {key}: {name}\n" for key, name in annotations)
    metadata = f"metadata:\n  annotations:\n{lines}"
    return Policy.from_yaml(f"apiVersion: audit.k8s.io/v1\n{metadata}{TWO_RULES}", **options)


def test_a_rule_is_called_by_its_annotation_or_else_by_its_index():
    named = policy([("kube-audit-filter/rule-0", "watches"), ("example.com/rule-1", "something else")])
    assert [named.rule_name(index) for index in (0, 1, None)] == ["watches", "1", "none"]
    assert named.to_dict()["metadata"]["annotations"]["kube-audit-filter/rule-0"] == "watches"


def test_names_do_not_stay_when_rules_are_exchanged():
    named = policy([("kube-audit-filter/rule-0", "watches")])
    assert named.with_rules(named.rules[::-1]).rule_name(0) == "0"


@pytest.mark.parametrize(
    ("key", "name", "complaint"),
    [
        ("rule-2", "late", "the policy has 2"),
        ("rule-01", "octal", "expected kube-audit-filter/rule-N"),
        ("rules-0", "plural", "expected kube-audit-filter/rule-N"),
        ("rule-0", '"7"', "can't be a rule's name"),
        ("rule-0", "none", "can't be a rule's name"),
        ("rule-0", '""', "can't be a rule's name"),
        ("rule-0", "two words", "can't be a rule's name"),
        ("rule-0", "a" * 64, "can't be a rule's name"),
        ("rule-0", '"Größe"', "can't be a rule's name"),
    ],
)
def test_a_name_that_can_not_be_used_is_an_error_with_its_line(key, name, complaint):
    annotations = [("kube-audit-filter/rule-1", "rest"), (f"kube-audit-filter/{key}", name)]
    with pytest.raises(PolicyError) as caught:
        policy(annotations)
    (problem,) = caught.value.problems
    assert complaint in problem.message
    assert (problem.field, problem.line) == (f"metadata.annotations[kube-audit-filter/{key}]", 5)
    lenient = policy(annotations, strict=False)
    assert lenient.rule_name(1) == "rest"
    assert len(lenient.warnings) == 1
