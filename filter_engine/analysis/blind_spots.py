"""What an audit log is asked for after an incident: the published list of questions.

Each question is about the events that tell what became of a request: those of the stage ResponseComplete, and
of ResponseStarted for a failed authentication, which has no other. A *person* is a user whose name does not
begin with ``system:``, and so no service account, node or part of the control plane.
"""

from __future__ import annotations

from filter_engine.analysis.questions import Question
from filter_engine.model import Conditions, GroupResources

_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_CHANGES = ("create", "update", "patch", "delete", "deletecollection")
_READS = ("get", "list", "watch")
_DELETES = ("delete", "deletecollection")
_ANSWERED = ("ResponseComplete",)
_NOT_A_PERSON = (Conditions(users=("system:*",)),)


def _of_people(group: str, resources: tuple[str, ...], verbs: tuple[str, ...]) -> Conditions:
    return Conditions(resources=(GroupResources(group, resources),), verbs=verbs, stages=_ANSWERED)


QUESTIONS: tuple[Question, ...] = (
    Question(
        "failed-authentication",
        "requests whose authentication failed (401)",
        "they show stolen, expired and guessed credentials",
        (Conditions(response_codes=((401, 401),), stages=("ResponseStarted",)),),
        (Conditions(users=("*",)),),
    ),
    Question(
        "refused",
        "requests that were refused (403)",
        "somebody who has got in tries what they may do, and the refusals show it",
        (Conditions(response_codes=((403, 403),), stages=_ANSWERED),),
    ),
    Question(
        "anonymous",
        "anonymous requests for resources",
        "nobody should get at resources without a name; if somebody does, the log is the only witness",
        (Conditions(users=("system:anonymous",), resources=(GroupResources("*"),), stages=_ANSWERED),),
    ),
    Question(
        "rbac-changes",
        "a person's changes of roles and their bindings",
        "they give rights away",
        (_of_people(_RBAC, ("roles", "clusterroles", "rolebindings", "clusterrolebindings"), _CHANGES),),
        _NOT_A_PERSON,
    ),
    Question(
        "exec",
        "a person's exec, attach and port-forward",
        "what is done inside of a container is recorded nowhere else",
        (_of_people("", ("pods/exec", "pods/attach", "pods/portforward"), ("get", "create")),),
        _NOT_A_PERSON,
    ),
    Question(
        "secret-reads",
        "a person's reading of secrets",
        "after a leak, the question is who has seen the secret",
        (_of_people("", ("secrets",), _READS),),
        _NOT_A_PERSON,
    ),
    Question(
        "token-creation",
        "a person's creation of tokens of service accounts",
        "whoever has the token is the service account",
        (_of_people("", ("serviceaccounts/token",), ("create",)),),
        _NOT_A_PERSON,
    ),
    Question(
        "webhook-changes",
        "a person's changes of admission webhooks",
        "a webhook sees and changes what is written to the cluster, and without it, its rules do not hold",
        (
            _of_people(
                _ADMISSION, ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"), _CHANGES
            ),
        ),
        _NOT_A_PERSON,
    ),
    Question(
        "namespace-deletes",
        "a person's deletion of namespaces",
        "all that is in a namespace goes with it",
        (_of_people("", ("namespaces",), _DELETES),),
        _NOT_A_PERSON,
    ),
    Question(
        "workload-deletes",
        "a person's deletion of workloads",
        "after an outage, the question is who has deleted what",
        (
            _of_people("apps", ("deployments", "statefulsets", "daemonsets"), _DELETES),
            _of_people("batch", ("jobs", "cronjobs"), _DELETES),
        ),
        _NOT_A_PERSON,
    ),
)
