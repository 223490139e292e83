"""The table of ``metadata``, which all kinds of policies have."""

from __future__ import annotations

from datetime import datetime

from filter_engine.loading.schema import List, Map, Struct

STRINGS = List(str)
# ObjectMeta of k8s.io/apimachinery/pkg/apis/meta/v1; datetime stands for its Time.
_OWNER = Struct(
    "OwnerReference",
    {"apiVersion": str, "kind": str, "name": str, "uid": str, "controller": bool, "blockOwnerDeletion": bool},
)
_MANAGED_FIELDS = Struct(
    "ManagedFieldsEntry",
    {
        "manager": str,
        "operation": str,
        "apiVersion": str,
        "time": datetime,
        "fieldsType": str,
        "fieldsV1": None,
        "subresource": str,
    },
)
METADATA = Struct(
    "ObjectMeta",
    {
        "name": str,
        "generateName": str,
        "namespace": str,
        "selfLink": str,
        "uid": str,
        "resourceVersion": str,
        "generation": int,
        "creationTimestamp": datetime,
        "deletionTimestamp": datetime,
        "deletionGracePeriodSeconds": int,
        "labels": Map(str),
        "annotations": Map(str),
        "ownerReferences": List(_OWNER),
        "finalizers": STRINGS,
        "managedFields": List(_MANAGED_FIELDS),
    },
)
