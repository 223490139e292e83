"""A realistic event for each place of ``builtin:secrets``: what is secret in it begins with ``s3cret-``."""

import json

SECRET = "s3cret-"
METADATA = {"name": "shop", "namespace": "shop", "uid": "9c2ab1de-31d5-4b2c-a18f-6a2c8e1f9d77"}
COPY = "kubectl.kubernetes.io/last-applied-configuration"


def recorded(verb, resource, group="", *, subresource=None, uri=None, code=200, **more):
    """An event of a request for a resource."""
    reference = {"resource": resource, "namespace": "shop", "name": "shop", "apiVersion": "v1"}
    reference |= {"apiGroup": group} if group else {}
    reference |= {"subresource": subresource} if subresource else {}
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": "6f1a8a2c-5d5e-4c3b-9a55-0c1f5a6f7b11",
        "stage": "ResponseComplete",
        "requestURI": uri or f"/apis/{group or 'core'}/v1/namespaces/shop/{resource}/shop",
        "verb": verb,
        "user": {"username": "alice@example.com", "groups": ["developers", "system:authenticated"]},
        "sourceIPs": ["10.0.0.7"],
        "userAgent": "kubectl/v1.34.1 (linux/amd64)",
        "objectRef": reference,
        "responseStatus": {"metadata": {}, "code": code},
        **more,
        "annotations": {"authorization.k8s.io/decision": "allow", **more.get("annotations", {})},
    }


def body(kind, version="v1", **more):
    return {"kind": kind, "apiVersion": version, "metadata": METADATA, **more}


def answered(verb, resource, kind, group="", **more):
    """An event whose response is an object."""
    return recorded(
        verb, resource, group, responseObject=body(kind, f"{group}/v1" if group else "v1", **more)
    )


def applied(kind, **more):
    """The metadata of an object with a copy of it, as kubectl apply writes it."""
    copy = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "shop"}, **more}
    copy = json.dumps(copy, separators=(",", ":")) + "\n"
    return {**METADATA, "annotations": {COPY: copy, "team": "shop"}}


def patched(resource, group, patch):
    return recorded("patch", resource, group, requestObject=patch)


ENV = [
    {"name": "TOKEN", "value": "s3cret-env"},
    {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "x"}}},
]
CONTAINER = {"name": "shop", "image": "registry.example/shop:1.42", "env": ENV}
POD = {"containers": [CONTAINER], "nodeName": "node-1"}
TEMPLATE = {"replicas": 2, "template": {"metadata": {"labels": {"app": "shop"}}, "spec": POD}}
CSI = {"name": "share", "csi": {"driver": "smb.csi.k8s.io", "volumeAttributes": {"password": "s3cret-csi"}}}
FLEX = {"name": "share", "flexVolume": {"driver": "example/cifs", "options": {"password": "s3cret-flex"}}}
WEBHOOK = {
    "name": "policy.example.com",
    "clientConfig": {"caBundle": "s3cret-bundle", "service": {"name": "policy", "namespace": "policy"}},
}
WEBHOOK_URL = {"name": "policy.example.com", "clientConfig": {"url": "s3cret-url"}}
CONVERSION = {
    "strategy": "Webhook",
    "webhook": {"clientConfig": {"caBundle": "s3cret-ca", "url": "s3cret-url"}},
}
HELM = {
    "repoURL": "https://charts.example",
    "helm": {"parameters": [{"name": "dbPassword", "value": "s3cret-parameter"}], "values": "s3cret-values"},
}
ADMISSION = {
    "configuration": "sidecars",
    "webhook": "sidecars.example.com",
    "patch": [
        {"op": "add", "path": "/spec/containers/0/env/-", "value": {"name": "KEY", "value": "s3cret-added"}}
    ],
    "patchType": "JSONPatch",
}
SECRET_DATA = {"password": "s3cret-password", "user": "s3cret-user"}
EXEC = "/api/v1/namespaces/shop/pods/shop/exec?command=s3cret-mysql&command=s3cret-argument&tty=true"


# The places in the order of docs/redaction.md, by what its table calls them.
PLACES = {
    "Secret: `data`": answered("get", "secrets", "Secret", data=SECRET_DATA, type="Opaque"),
    "Secret: `stringData`": recorded(
        "create", "secrets", requestObject=body("Secret", stringData=SECRET_DATA)
    ),
    "ConfigMap: `data`": answered("get", "configmaps", "ConfigMap", data={"app.yaml": "s3cret-dsn"}),
    "ConfigMap: `binaryData`": answered(
        "get", "configmaps", "ConfigMap", binaryData={"key.der": "s3cret-der"}
    ),
    "the copy of a Secret in its annotation `last-applied-configuration`": recorded(
        "patch",
        "secrets",
        requestObject={"metadata": applied("Secret", data=SECRET_DATA, stringData={"a": "s3cret-a"})},
    ),
    "the copy of a ConfigMap": answered(
        "update", "configmaps", "ConfigMap", metadata=applied("ConfigMap", data={"a": "s3cret-a"})
    ),
    "the copy of a workload": answered(
        "get", "deployments", "Deployment", "apps", metadata=applied("Deployment", spec=TEMPLATE)
    ),
    "a list of Secrets": recorded(
        "list",
        "secrets",
        responseObject={"kind": "SecretList", "apiVersion": "v1", "items": [{"data": SECRET_DATA}]},
    ),
    "a list of ConfigMaps": recorded(
        "list",
        "configmaps",
        responseObject={"kind": "ConfigMapList", "metadata": {}, "items": [{"data": {"a": "s3cret-a"}}]},
    ),
    "a list of mixed kinds": recorded(
        "list",
        "things",
        responseObject={"kind": "List", "items": [body("Secret", data=SECRET_DATA)]},
        code=500,
    ),
    "a table with whole objects": recorded(
        "list",
        "secrets",
        responseObject={
            "kind": "Table",
            "columnDefinitions": [{"name": "Name"}],
            "rows": [{"cells": ["shop", "Opaque", 2], "object": body("Secret", data=SECRET_DATA)}],
        },
    ),
    "an event of a watch": recorded(
        "watch", "secrets", responseObject={"type": "ADDED", "object": body("Secret", data=SECRET_DATA)}
    ),
    "a JSON patch of one key of a Secret": patched(
        "secrets", "", [{"op": "replace", "path": "/data/password", "value": "s3cret-new"}]
    ),
    "a JSON patch of all data of a Secret": patched(
        "secrets", "", [{"op": "add", "path": "/data", "value": SECRET_DATA}]
    ),
    "a JSON patch of a ConfigMap": patched(
        "configmaps", "", [{"op": "test", "path": "/data/app.yaml", "value": "s3cret-old"}]
    ),
    "a JSON patch of the environment of a container": patched(
        "deployments",
        "apps",
        [{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": ENV[0]}],
    ),
    "a merge patch or strategic merge patch of a Secret": patched("secrets", "", {"data": SECRET_DATA}),
    "a strategic merge patch of a workload": patched(
        "statefulsets", "apps", {"spec": {"template": {"spec": {"$setElementOrder/containers": [], **POD}}}}
    ),
    "a server-side apply of a ConfigMap": patched(
        "configmaps", "", body("ConfigMap", data={"a": "s3cret-a"})
    ),
    "a body that is text, where its kind has places": recorded(
        "patch", "secrets", requestObject="s3cret-yaml"
    ),
    "the answer to a request for a token of a service account": recorded(
        "create",
        "serviceaccounts",
        subresource="token",
        responseObject=body("TokenRequest", "authentication.k8s.io/v1", status={"token": "s3cret-jwt"}),
    ),
    "TokenReview: the token": recorded(
        "create",
        "tokenreviews",
        "authentication.k8s.io",
        requestObject=body(
            "TokenReview", "authentication.k8s.io/v1", spec={"token": "s3cret-jwt", "audiences": ["a"]}
        ),
    ),
    "CertificateSigningRequest: the request": answered(
        "create",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        "certificates.k8s.io",
        spec={"request": "s3cret-csr", "signerName": "kubernetes.io/kubelet-serving"},
    ),
    "PodCertificateRequest: the proof of possession": answered(
        "create",
        "podcertificaterequests",
        "PodCertificateRequest",
        "certificates.k8s.io",
        spec={"proofOfPossession": "s3cret-proof", "podName": "shop"},
    ),
    "MutatingWebhookConfiguration: `caBundle`": answered(
        "update",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        webhooks=[WEBHOOK],
    ),
    "MutatingWebhookConfiguration: `url`": answered(
        "update",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        webhooks=[WEBHOOK_URL],
    ),
    "ValidatingWebhookConfiguration: `caBundle` and `url`": answered(
        "update",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        webhooks=[WEBHOOK, WEBHOOK_URL],
    ),
    "CustomResourceDefinition: the conversion webhook": answered(
        "update",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "apiextensions.k8s.io",
        spec={"group": "example.com", "conversion": CONVERSION},
    ),
    "APIService: `caBundle`": answered(
        "update",
        "apiservices",
        "APIService",
        "apiregistration.k8s.io",
        spec={"caBundle": "s3cret-ca", "version": "v1"},
    ),
    "Pod: the environment of containers": answered("create", "pods", "Pod", spec=POD),
    "Pod: the environment of init containers": answered(
        "create", "pods", "Pod", spec={"containers": [], "initContainers": [CONTAINER]}
    ),
    "Pod: the environment of ephemeral containers": recorded(
        "patch",
        "pods",
        subresource="ephemeralcontainers",
        requestObject={"spec": {"ephemeralContainers": [CONTAINER]}},
    ),
    "Pod: attributes of CSI volumes": answered(
        "create", "pods", "Pod", spec={"containers": [], "volumes": [CSI]}
    ),
    "Pod: options of FlexVolumes": answered(
        "create", "pods", "Pod", spec={"containers": [], "volumes": [FLEX]}
    ),
    "Deployment": answered("update", "deployments", "Deployment", "apps", spec=TEMPLATE),
    "ReplicaSet": answered("create", "replicasets", "ReplicaSet", "apps", spec=TEMPLATE),
    "StatefulSet": answered("get", "statefulsets", "StatefulSet", "apps", spec=TEMPLATE),
    "DaemonSet": answered("get", "daemonsets", "DaemonSet", "apps", spec=TEMPLATE),
    "Job": answered("create", "jobs", "Job", "batch", spec=TEMPLATE),
    "CronJob": answered("create", "cronjobs", "CronJob", "batch", spec={"jobTemplate": {"spec": TEMPLATE}}),
    "ReplicationController": answered(
        "get", "replicationcontrollers", "ReplicationController", spec=TEMPLATE
    ),
    "PodTemplate": answered("get", "podtemplates", "PodTemplate", template={"spec": POD}),
    "ControllerRevision": answered(
        "create", "controllerrevisions", "ControllerRevision", "apps", data={"spec": TEMPLATE}, revision=3
    ),
    "StorageClass: `parameters`": answered(
        "create",
        "storageclasses",
        "StorageClass",
        "storage.k8s.io",
        parameters={"restuserkey": "s3cret-key"},
        provisioner="kubernetes.io/glusterfs",
    ),
    "PersistentVolume: attributes of CSI and FlexVolume": answered(
        "create",
        "persistentvolumes",
        "PersistentVolume",
        spec={"csi": CSI["csi"], "flexVolume": FLEX["flexVolume"], "capacity": {"storage": "1Gi"}},
    ),
    "VolumeAttachment: attributes of the volume": answered(
        "create",
        "volumeattachments",
        "VolumeAttachment",
        "storage.k8s.io",
        spec={"source": {"inlineVolumeSpec": {"csi": CSI["csi"]}}, "nodeName": "node-1"},
        status={"attached": True, "attachmentMetadata": {"key": "s3cret-attach"}},
    ),
    "`command=` of exec in `requestURI`, at level Metadata too": recorded(
        "create", "pods", subresource="exec", uri=EXEC, code=101
    ),
    "parameters of `requestURI` with names such as token, password, secret, key and signature": recorded(
        "get",
        "services",
        subresource="proxy",
        uri="/api/v1/namespaces/shop/services/shop/proxy/?access_token=s3cret-jwt&X-Amz-Signature=s3cret-sig&page=2",
    ),
    "PodExecOptions: `command`": recorded(
        "create",
        "pods",
        subresource="exec",
        requestObject={"kind": "PodExecOptions", "command": ["s3cret-a", "s3cret-b"]},
    ),
    "annotations `patch.webhook.admission.k8s.io/…`: what webhooks added": recorded(
        "create",
        "pods",
        annotations={
            "patch.webhook.admission.k8s.io/round_0_index_1": json.dumps(ADMISSION, separators=(",", ":"))
        },
    ),
    "the message about a request that was not valid, in `responseStatus`": recorded(
        "update",
        "secrets",
        code=422,
        responseStatus={"code": 422, "reason": "Invalid", "message": "s3cret-quoted"},
    ),
    "the same in the response": recorded(
        "update",
        "secrets",
        code=422,
        responseObject={
            "kind": "Status",
            "message": "s3cret-quoted",
            "details": {"causes": [{"message": "s3cret-q"}]},
        },
    ),
    "OpenShift, DeploymentConfig": answered(
        "update", "deploymentconfigs", "DeploymentConfig", "apps.openshift.io", spec=TEMPLATE
    ),
    "OpenShift, Route: the private key": answered(
        "update",
        "routes",
        "Route",
        "route.openshift.io",
        spec={"tls": {"key": "s3cret-key", "certificate": "public"}},
    ),
    "OpenShift, OAuthClient: `secret` and `additionalSecrets`": answered(
        "get",
        "oauthclients",
        "OAuthClient",
        "oauth.openshift.io",
        secret="s3cret-client",
        additionalSecrets=["s3cret-old"],
    ),
    "OpenShift, BuildConfig and Build: secrets of triggers, environment of strategies": answered(
        "update",
        "buildconfigs",
        "BuildConfig",
        "build.openshift.io",
        spec={
            "triggers": [{"github": {"secret": "s3cret-hook"}}],
            "strategy": {"dockerStrategy": {"env": ENV}},
        },
    ),
    "OpenShift, Template: the values of parameters": answered(
        "create",
        "processedtemplates",
        "Template",
        "template.openshift.io",
        parameters=[{"name": "PASSWORD", "value": "s3cret-generated"}],
    ),
    "Argo CD, Application: parameters and values of Helm charts": answered(
        "update", "applications", "Application", "argoproj.io", spec={"source": HELM, "sources": [HELM]}
    ),
}
