"""The facts about Kubernetes' own resources, and that no condition is unknown to the exact analyses."""

import inspect

from filter_engine import conditions
from filter_engine.analysis.condition_sets import KNOWN
from filter_engine.analysis.kubernetes_resources import built_in, facts_version
from filter_engine.own_namespace import OwnNamespace

VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}


def test_resources_have_their_scope_and_verbs():
    resources = built_in()
    assert resources["", "secrets"].verbs == VERBS
    assert resources["", "secrets"].is_namespaced
    assert not resources["rbac.authorization.k8s.io", "clusterroles"].is_namespaced
    assert resources["", "pods"].verbs_of("exec") == {"get", "create"}
    assert resources["", "pods"].verbs_of("nothing") == set()
    assert resources["authentication.k8s.io", "tokenreviews"].verbs == {"create"}
    assert all(resource.verbs and resource.verbs <= VERBS for resource in resources.values())
    assert facts_version()


def test_no_condition_is_missing():
    classes = {each for _, each in inspect.getmembers(conditions, inspect.isclass) if hasattr(each, "is_met")}
    assert classes - {conditions.Condition, conditions.Except} | {OwnNamespace} == KNOWN
