"""What each field of the tables means, in one or two sentences: editors show them. docs/policy.md says more.

The keys are the names of the tables' objects (:class:`~filter_engine.loading.schema.Struct`) and of their
fields. The key ``""`` has the description of the object itself.
"""

from __future__ import annotations

from collections.abc import Mapping

_OMIT_MANAGED_FIELDS = (
    "Whether metadata.managedFields are removed from the bodies of events that are reduced."
)
_LEVEL = (
    "None drops the events that the rule matches. The other levels keep them, and say how much of them is"
    " left if they are reduced."
)
_OMIT_STAGES = (
    "Events of these stages are dropped if the rule matches them, beside those of the policy's omitStages."
)
_NEVER_BOTH = "A rule for them has neither resources nor namespaces."

_KUBERNETES_RULE = {
    "": "The first rule that matches an event decides on it. All conditions of a rule have to be met.",
    "level": _LEVEL,
    "users": "Names of users, compared letter by letter: there are no wildcards.",
    "userGroups": "Groups: one of the user's groups has to be among them. There are no wildcards.",
    "verbs": "Verbs such as get, list, watch, create, update, patch, delete; for URLs that are not of a"
    " resource, the HTTP method in lower case. There are no wildcards.",
    "resources": "API groups and resources. The rule then matches requests for resources only.",
    "namespaces": 'Names of namespaces, without wildcards. "" stands for objects that are in no namespace,'
    " and for requests across all namespaces. The rule then matches requests for resources only.",
    "nonResourceURLs": "Paths of requests that are not for a resource, such as /healthz. A * at the end"
    f" stands for anything. {_NEVER_BOTH}",
    "omitStages": _OMIT_STAGES,
    "omitManagedFields": f"{_OMIT_MANAGED_FIELDS} Without this field, the policy's own says so.",
}
_CONDITIONS = {
    "users": "Patterns of users' names; * stands for any run of characters.",
    "userGroups": "Patterns of groups: one of the user's groups has to match one of them.",
    "verbs": "Verbs such as get, list, watch, create, update, patch, delete; for URLs that are not of a"
    " resource, the HTTP method in lower case. They are no patterns.",
    "resources": "API groups and resources. The rule then matches requests for resources only.",
    "namespaces": 'Patterns of namespaces. "" stands for objects that are in no namespace, and for requests'
    " across all namespaces. The rule then matches requests for resources only.",
    "nonResourceURLs": "Patterns of the paths of requests that are not for a resource, such as /healthz*."
    f" {_NEVER_BOTH}",
    "responseCodes": "Response codes: numbers, classes such as 4xx, ranges such as 500-599. Events without a"
    " code, such as those of the stage RequestReceived, do not match.",
    "stages": "The stages at which events were recorded.",
    "levels": "The levels at which events were recorded.",
    "userAgents": "Patterns of user agents. They are the client's own words: a rule that drops by them can be"
    " used to hide.",
    "sourceIPs": "Addresses and networks such as 10.0.0.0/8, IPv4 or IPv6. All addresses that were recorded"
    " have to be in them. All but the last of these are the client's own words.",
    "impersonatedUsers": "Patterns of the names of users that requests were made as, by impersonation.",
    "annotations": "Keys of annotations, each with patterns of its value. The event has to have all of them.",
    "ownNamespace": "Service accounts in the namespace that they belong to. With prefix, its name only"
    " has to begin with the request's namespace, as in OpenShift's default rules.",
}

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "Policy": {
        "": "An audit policy of Kubernetes, as kube-apiserver reads it with --audit-policy-file.",
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "metadata": "Name, labels and annotations. The annotation kube-audit-filter/rule-N gives the rule"
        " with index N a name.",
        "rules": "The rules, in their order. An event that no rule matches is dropped.",
        "omitStages": "Events of these stages are dropped, whatever the rules say.",
        "omitManagedFields": f"{_OMIT_MANAGED_FIELDS} A rule may say otherwise.",
    },
    "PolicyRule": _KUBERNETES_RULE,
    "GroupResources": {
        "": "Resources of an API group.",
        "group": 'The API group, without its version; "" or no group is the core group, with pods and'
        " secrets; * is every group.",
        "resources": "Resources such as pods, and subresources such as pods/log. The only patterns are *"
        " (all), */log (this subresource of all) and pods/* (pods and all their subresources). An empty list"
        " is all.",
        "resourceNames": "Names of objects, without wildcards. They need resources.",
    },
    "FilterPolicy": {
        "": "A policy of kube-audit-filter: an audit policy of Kubernetes with patterns, more conditions,"
        " exceptions, samples and redaction.",
        "apiVersion": "kube-audit-filter.io/v1",
        "kind": "FilterPolicy",
        "metadata": "Name, labels and annotations. They change nothing.",
        "defaultLevel": "The level of events that no rule matches. None, the default, drops them.",
        "omitStages": "Events of these stages are dropped, whatever the rules say.",
        "omitManagedFields": f"{_OMIT_MANAGED_FIELDS} A rule may say otherwise.",
        "reduce": "Whether kept events are reduced to the level of their rule. Without this field, the option"
        " --reduce says so.",
        "redaction": "How values are redacted.",
        "rules": "The rules, in their order. The first that matches an event decides on it.",
    },
    "FilterPolicyRule": {
        "": "Conditions, a level, and what is done with the events that the rule keeps. All conditions have"
        " to be met.",
        "name": "What the rule is called in metrics, messages and reports, in place of its index.",
        "level": _LEVEL,
        **_CONDITIONS,
        "except": "The rule does not match what any of these matches.",
        "omitStages": _OMIT_STAGES,
        "omitManagedFields": f"{_OMIT_MANAGED_FIELDS} Without this field, the policy's own says so.",
        "sample": "Keeps a part of the events only.",
        "redact": "Values to redact: paths such as requestObject.data.*, and sets such as builtin:secrets.",
    },
    "Exception": {
        "": "Conditions. All of them have to be met for the exception to hold.",
        **_CONDITIONS,
    },
    "PatternResources": {
        "": "Resources of an API group.",
        "group": 'A pattern of API groups, without their version; "" or no group is the core group, with pods'
        " and secrets; * is every group.",
        "resources": "Patterns of resources such as pods, and of subresources such as pods/log. * is all,"
        " */log this subresource of all, and pods/* pods and all their subresources. Without them, all are"
        " meant.",
        "resourceNames": "Patterns of the names of objects. They need resources.",
    },
    "Sample": {
        "": "Which part of the events that a rule matches is kept. All events of a request share one fate.",
        "rate": "The part to keep: 0.01 is one request in a hundred. What a rate keeps, each higher one keeps"
        " too.",
        "annotate": "Whether the rate is written into kept events, as the annotation"
        " kube-audit-filter.io/sample-rate. If not, events keep their bytes.",
    },
    "Redaction": {
        "": "How values are redacted.",
        "method": "mask puts a fixed text in a value's place, remove leaves the value out, hash puts a keyed"
        " hash in its place.",
        "keyFile": "The file with the key of the hashes, for the method hash.",
    },
    "ObjectMeta": {
        "": "metadata as all objects of Kubernetes have it.",
        "name": "The policy's name.",
        "generateName": "A prefix of the name, for a server that makes names up.",
        "namespace": "A namespace; policies are in none.",
        "selfLink": "A URL of the object, which Kubernetes no longer sets.",
        "uid": "An identifier that a server gives.",
        "resourceVersion": "A version that a server gives.",
        "generation": "A number that a server counts up with each change.",
        "creationTimestamp": "When the object was made.",
        "deletionTimestamp": "When the object is to be deleted.",
        "deletionGracePeriodSeconds": "Seconds before the object is deleted.",
        "labels": "Labels.",
        "annotations": "Annotations.",
        "ownerReferences": "Objects that this one belongs to.",
        "finalizers": "What has to be done before the object is deleted.",
        "managedFields": "Who set which field.",
    },
    "OwnerReference": {
        "": "An object that owns this one.",
        "apiVersion": "The owner's API version.",
        "kind": "The owner's kind.",
        "name": "The owner's name.",
        "uid": "The owner's identifier.",
        "controller": "Whether the owner is the object's controller.",
        "blockOwnerDeletion": "Whether the owner can't be deleted before this object.",
    },
    "ManagedFieldsEntry": {
        "": "The fields that one client has set.",
        "manager": "The client.",
        "operation": "Apply or Update.",
        "apiVersion": "The version of the API in which the fields are named.",
        "time": "When the fields were set.",
        "fieldsType": "The format of fieldsV1.",
        "fieldsV1": "The fields.",
        "subresource": "The subresource through which they were set.",
    },
}
