"""``ownNamespace``: service accounts that do something in their own namespace."""

from __future__ import annotations

from filter_engine import fields
from filter_engine.request import Request
from filter_engine.vocabulary import Words

_PREFIX = "system:serviceaccount:"


def namespace_of(user: str) -> str:
    """The namespace of a service account, by its user's name; empty for any other user."""
    return user.removeprefix(_PREFIX).partition(":")[0] if user.startswith(_PREFIX) else ""


class OwnNamespace:
    """``ownNamespace``: the user is a service account of the namespace that the request is for.

    Args:
        relation: ``same``, or ``prefix``: the name of the service account's namespace only has to begin with
            that of the request's, as in the default rules of OpenShift's kubeAPIAudit filter.
    """

    reads = (
        fields.USERNAME, fields.GROUPS, fields.NAMESPACE, fields.VERB, fields.REQUEST_URI, fields.API_GROUP,
        fields.RESOURCE,
    )  # fmt: skip

    def __init__(self, relation: str) -> None:
        self.relation = relation

    def is_met(self, request: Request) -> bool:
        if not (request.user and request.resource_request and request.namespace):
            return False
        own = namespace_of(request.user)
        return own.startswith(request.namespace) if self.relation == "prefix" else own == request.namespace

    def add_words(self, words: Words) -> None:
        # Which of the two a request has makes a difference, and so each name is a class of its own.
        words.add_test(fields.USERNAME, namespace_of)
        words.add_test(fields.NAMESPACE, str)
