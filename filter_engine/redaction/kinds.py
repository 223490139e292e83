"""The places of the named sets in objects: what of each kind is secret, or says who somebody is.

A kind's name is compared without its API group: an object of another group that has the same name and the
same fields is redacted too, which does no harm. Sources: the API reference of Kubernetes 1.34, and for kinds
of OpenShift and Argo CD the reference of their projects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from filter_engine.redaction.paths import Key, Path, parse_path
from filter_engine.redaction.walk import SAME_KIND

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
# Where a pod's specification has secrets, relative to it.
_POD_SPEC = (
    *(f"{containers}[*].env[*].value" for containers in _CONTAINERS),
    "volumes[*].csi.volumeAttributes",
    "volumes[*].flexVolume.options",
)
_CLIENT_CONFIG = ("webhooks[*].clientConfig.caBundle", "webhooks[*].clientConfig.url")
_BUILD = ("sourceStrategy", "dockerStrategy", "customStrategy", "jenkinsPipelineStrategy")


def _pod_spec(*parents: str) -> tuple[str, ...]:
    return tuple(f"{parent}.{path}" for parent in parents for path in _POD_SPEC)


_TEMPLATE = _pod_spec("spec.template.spec")

# Kind: paths to secrets in an object of that kind.
SECRETS: dict[str, tuple[str, ...]] = {
    "Secret": ("data", "stringData"),
    "ConfigMap": ("data", "binaryData"),
    "TokenRequest": ("status.token",),
    "TokenReview": ("spec.token",),
    "CertificateSigningRequest": ("spec.request",),
    "PodCertificateRequest": ("spec.proofOfPossession",),
    "MutatingWebhookConfiguration": _CLIENT_CONFIG,
    "ValidatingWebhookConfiguration": _CLIENT_CONFIG,
    "CustomResourceDefinition": (
        "spec.conversion.webhook.clientConfig.caBundle",
        "spec.conversion.webhook.clientConfig.url",
        "spec.conversion.webhookClientConfig.caBundle",
        "spec.conversion.webhookClientConfig.url",
    ),
    "APIService": ("spec.caBundle",),
    "Pod": _pod_spec("spec"),
    "PodTemplate": _pod_spec("template.spec"),
    "ReplicationController": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": _pod_spec("spec.jobTemplate.spec.template.spec"),
    "ControllerRevision": _pod_spec("data.spec.template.spec"),
    "PodExecOptions": ("command",),
    "StorageClass": ("parameters",),
    "PersistentVolume": ("spec.csi.volumeAttributes", "spec.flexVolume.options"),
    "VolumeAttachment": (
        "spec.source.inlineVolumeSpec.csi.volumeAttributes",
        "status.attachmentMetadata",
    ),
    # OpenShift.
    "DeploymentConfig": _TEMPLATE,
    "Route": ("spec.tls.key",),
    "OAuthClient": ("secret", "additionalSecrets"),
    "BuildConfig": (
        *(f"spec.triggers[*].{each}.secret" for each in ("github", "gitlab", "bitbucket", "generic")),
        *(f"spec.strategy.{each}.env[*].value" for each in _BUILD),
    ),
    "Build": tuple(f"spec.strategy.{each}.env[*].value" for each in _BUILD),
    "Template": ("parameters[*].value",),
    # Argo CD, of the custom resources that hold values of Helm charts the one that most clusters have.
    "Application": (
        "spec.source.helm.parameters[*].value",
        "spec.source.helm.values",
        "spec.source.helm.valuesObject",
        "spec.sources[*].helm.parameters[*].value",
        "spec.sources[*].helm.values",
        "spec.sources[*].helm.valuesObject",
    ),
}
_SUBJECT = tuple(f"spec.{name}" for name in ("user", "groups", "uid", "extra"))
_REQUESTER = tuple(f"spec.{name}" for name in ("username", "groups", "uid", "extra"))
# Kind: paths to names of users and groups.
PERSONAL: dict[str, tuple[str, ...]] = {
    "TokenReview": ("status.user",),
    "SubjectAccessReview": _SUBJECT,
    "LocalSubjectAccessReview": _SUBJECT,
    "SelfSubjectReview": ("status.userInfo",),
    "CertificateSigningRequest": _REQUESTER,
    "RoleBinding": ("subjects[*].name",),
    "ClusterRoleBinding": ("subjects[*].name",),
}
# Resource, or resource and subresource: the kind of what is sent and answered. Other subresources have the
# kind of their resource, or one of their own without secrets.
RESOURCES: dict[str, str] = {
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "serviceaccounts/token": "TokenRequest",
    "tokenreviews": "TokenReview",
    "certificatesigningrequests": "CertificateSigningRequest",
    "podcertificaterequests": "PodCertificateRequest",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    "customresourcedefinitions": "CustomResourceDefinition",
    "apiservices": "APIService",
    "pods": "Pod",
    "pods/exec": "PodExecOptions",
    "podtemplates": "PodTemplate",
    "replicationcontrollers": "ReplicationController",
    "replicasets": "ReplicaSet",
    "deployments": "Deployment",
    "statefulsets": "StatefulSet",
    "daemonsets": "DaemonSet",
    "jobs": "Job",
    "cronjobs": "CronJob",
    "controllerrevisions": "ControllerRevision",
    "storageclasses": "StorageClass",
    "persistentvolumes": "PersistentVolume",
    "volumeattachments": "VolumeAttachment",
    "deploymentconfigs": "DeploymentConfig",
    "routes": "Route",
    "oauthclients": "OAuthClient",
    "buildconfigs": "BuildConfig",
    "builds": "Build",
    "templates": "Template",
    "processedtemplates": "Template",
    "applications": "Application",
    "subjectaccessreviews": "SubjectAccessReview",
    "localsubjectaccessreviews": "LocalSubjectAccessReview",
    "selfsubjectreviews": "SelfSubjectReview",
    "rolebindings": "RoleBinding",
    "clusterrolebindings": "ClusterRoleBinding",
}
# Where a Status has texts. Those about a request that was not valid quote what was sent; those about a
# request that was not allowed, who sent it.
STATUS = ("message", "details.causes[*].message")
QUOTING_CODES = (400, 422)
# A copy of the object that kubectl apply keeps, as JSON text.
_COPIES = ("metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")


Table = Mapping[str, tuple[str, ...]]
_SET_PREFIX = "builtin:"
SETS: Mapping[str, Table] = {"builtin:secrets": SECRETS, "builtin:personal": PERSONAL}


def is_set(text: str) -> bool:
    """Whether a text of ``redact`` names a set of places. Raises ValueError for an unknown set."""
    if text.startswith(_SET_PREFIX) and text not in SETS:
        raise ValueError(f"there is no such set; there is {', '.join(SETS)}")
    return text in SETS


def check_redact(text: str) -> None:
    """Raise ValueError if a text of ``redact`` is neither the name of a set nor a path."""
    if not is_set(text):
        parse_path(text)


def paths_of(places: Iterable[str]) -> frozenset[Path]:
    """Places in an object as paths, and the paths to copies of the object in itself; none for no places."""
    # parse_path reads paths of events, which begin with the name of a body.
    paths = frozenset(parse_path(f"requestObject.{place}")[1:] for place in places)
    return paths | {(*map(Key, _COPIES), SAME_KIND)} if paths else paths


def kind_of_resource(resource: str, subresource: str) -> str:
    """The kind of the bodies of requests for a resource; empty if no set has places in it."""
    whole = f"{resource}/{subresource}" if subresource else resource
    return RESOURCES.get(whole) or RESOURCES.get(resource, "")
