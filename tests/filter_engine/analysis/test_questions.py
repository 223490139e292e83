"""What a policy does with the events of a question."""

import pytest

from filter_engine import GroupResources, Policy, PolicyEvaluator
from filter_engine.analysis.blind_spots import QUESTIONS
from filter_engine.analysis.questions import Question, query
from filter_engine.model import Conditions

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
FILTER_POLICY = "apiVersion: kube-audit-filter.io/v1\nkind: FilterPolicy\ndefaultLevel: Metadata\nrules:\n"
REST = "- level: Metadata\n"
ANYBODY = {"refused", "anonymous", "failed-authentication"}
BY_ID = {question.id: question for question in QUESTIONS}


def unrecorded(rules, head=HEAD):
    policy = Policy.from_yaml(head + rules)
    return {question.id for question in QUESTIONS if query(policy, question).unrecorded}


def test_a_policy_that_records_everything_has_no_blind_spots_and_one_that_drops_everything_has_all():
    assert unrecorded(REST) == set()
    assert unrecorded("- level: None\n") == set(BY_ID)


@pytest.mark.parametrize(
    ("rule", "ids"),
    [
        # A rule by user or verb drops what was refused, too.
        ("users: [system:kube-proxy], verbs: [watch]", {"refused"}),
        ("userGroups: ['system:serviceaccounts']", {"refused"}),
        ("userGroups: [system:unauthenticated]", {"refused", "anonymous"}),
        ("verbs: [get, list, watch]", {*ANYBODY, "exec", "secret-reads"}),
        ("nonResourceURLs: ['/healthz*']", {"refused", "failed-authentication"}),
        ('resources: [{group: "", resources: [pods/exec]}]', {*ANYBODY, "exec"}),
        ("resources: [{group: rbac.authorization.k8s.io}], users: [bob]", {"refused", "rbac-changes"}),
        ('resources: [{resources: [serviceaccounts/token]}], users: [bob]', {"refused", "token-creation"}),
        ("resources: [{group: admissionregistration.k8s.io}], users: [bob]", {"refused", "webhook-changes"}),
        ("resources: [{resources: [namespaces]}], users: [bob]", {"refused", "namespace-deletes"}),
        ("resources: [{group: batch}], users: [bob]", {"refused", "workload-deletes"}),
        ("resources: [{group: '', resources: [namespaces]}], users: [bob], verbs: [get]", {"refused"}),
    ],
)  # fmt: skip
def test_each_question_finds_the_rule_that_hides_its_events(rule, ids):
    assert unrecorded(f"- {{level: None, {rule}}}\n{REST}") == ids


def test_stages_that_are_omitted_are_not_recorded():
    rules = "- {level: Metadata, omitStages: [ResponseStarted]}\n"
    assert unrecorded(rules) == {"failed-authentication"}
    (part,) = query(Policy.from_yaml(HEAD + rules), BY_ID["failed-authentication"]).parts[:1]
    assert (part.level.value, part.stage_omitted, part.is_recorded) == ("Metadata", True, False)


def test_a_filter_policy_can_see_the_response():
    drop = "- {level: None, users: ['system:*'], except: [{responseCodes: [401, 403]}]}\n"
    assert unrecorded(drop, FILTER_POLICY) == {"anonymous"}


def test_an_answer_has_the_part_of_each_rule_with_a_witness():
    policy = Policy.from_yaml(
        FILTER_POLICY + "- {level: None, users: [bob]}\n"
        "- {level: Request, users: [carol], sample: {rate: 0.5}}\n"
    )
    question = Question(
        "pods",
        "deletes of pods",
        "",
        (Conditions(verbs=("delete",), resources=(GroupResources("", ("pods",)),)),),
    )
    answer = query(policy, question)
    assert [(part.rule, part.is_recorded, part.level.value) for part in answer.parts] == [
        (0, False, "None"), (1, True, "Request"), (None, True, "Metadata"),
    ]  # fmt: skip
    assert answer.parts[1].sample.rate == 0.5
    assert str(answer.parts[2].sets[0]) == (
        "requests for resources; users: any but bob, carol; verbs: delete; apiGroups: core; resources: pods;"
        " subresources: none"
    )
    evaluator = PolicyEvaluator(policy)
    for part in answer.parts:
        assert evaluator.evaluate(part.witness).rule == part.rule
        assert (part.witness["verb"], part.witness["objectRef"]["resource"]) == ("delete", "pods")


def test_questions_of_what_there_is_not_have_no_parts():
    question = Question("none", "", "", (Conditions(users=("system:anonymous",)),), (Conditions(),))
    assert query(Policy.from_yaml(HEAD + REST), question).parts == ()
    codes = Question(
        "early", "", "", (Conditions(stages=("RequestReceived",), response_codes=((403, 403),)),)
    )
    assert query(Policy.from_yaml(HEAD + REST), codes).parts == ()


def test_the_questions_are_different():
    assert len(BY_ID) == len(QUESTIONS)
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)
