"""Kubernetes audit policies outside the API server: read a policy, decide on an event.

A pure library: no sockets, no log agents, nothing written to stdout.
"""

from filter_engine.actions import Actions, PolicyActions
from filter_engine.audit_filter import AuditFilter
from filter_engine.errors import PolicyError, PolicyProblem
from filter_engine.evaluator import Decision, PolicyEvaluator
from filter_engine.model import GroupResources, Level, PolicyRule
from filter_engine.policy import Policy
from filter_engine.reduction import reduce_event

__all__ = [
    "Actions",
    "AuditFilter",
    "Decision",
    "GroupResources",
    "Level",
    "Policy",
    "PolicyActions",
    "PolicyError",
    "PolicyEvaluator",
    "PolicyProblem",
    "PolicyRule",
    "reduce_event",
]
