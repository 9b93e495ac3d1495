"""The Deployment of engine pods. Pure.

Decides what rolls pods: only what is in the pod template, so never a speculator revision, a table or the operator's
default image once a Deployment exists.
"""

from __future__ import annotations

from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.kinds import DEPLOYMENT
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.serving import command, pod_parts
from bowsprit_operator.serving.child import child_metadata
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.serving.pod_parts import Manifest

DEFAULT_IMAGE = "bowsprit.dev/default-image"
"""Annotation: the operator's default image that this Deployment was created with."""

_PROBE_SECONDS = 2
_GRACE_SECONDS = 60


def effective_image(model: SpeculativeModel, platform: Platform, observed: Manifest | None) -> str:
    """The spec's image, else the default that the observed Deployment was created with, else today's default."""
    if model.spec.engine.image:
        return model.spec.engine.image
    annotations = (observed or {}).get("metadata", {}).get("annotations") or {}
    return str(annotations.get(DEFAULT_IMAGE) or platform.engine_image)


def build(model: SpeculativeModel, platform: Platform, observed: Manifest | None) -> Manifest:
    """`observed`: the Deployment as it is, None when there is none yet."""
    spec = model.spec
    image = effective_image(model, platform, observed)
    selector = labels.of_component(model.name, labels.Component.ENGINE)
    surge = {"maxSurge": 0, "maxUnavailable": 1} if _uses_gpus(model) else {"maxSurge": 1, "maxUnavailable": 0}
    metadata = child_metadata(model, names.deployment(model.name))
    if not spec.engine.image:
        metadata["annotations"] = {DEFAULT_IMAGE: image}
    pod_metadata: Manifest = {"labels": spec.engine.pod_labels | labels.on_child(model.name)}
    if spec.engine.pod_annotations:
        pod_metadata["annotations"] = dict(spec.engine.pod_annotations)
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": metadata,
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "progressDeadlineSeconds": platform.progress_deadline_seconds,
            "revisionHistoryLimit": 3,
            "template": {"metadata": pod_metadata, "spec": _pod_spec(model, platform, image)},
        },
    }


def _pod_spec(model: SpeculativeModel, platform: Platform, image: str) -> Manifest:
    engine = model.spec.engine
    optional: Manifest = {
        "nodeSelector": dict(engine.node_selector),
        "tolerations": [dict(toleration) for toleration in engine.tolerations],
        "affinity": engine.affinity,
        "runtimeClassName": engine.runtime_class_name,
        "priorityClassName": engine.priority_class_name,
    }
    return {
        "serviceAccountName": names.service_account(model.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": pod_parts.pod_security(),
        "containers": [_container(model, platform, image)],
        "volumes": pod_parts.volumes(model),
        **{key: value for key, value in optional.items() if value},
    }


def _container(model: SpeculativeModel, platform: Platform, image: str) -> Manifest:
    engine = model.spec.engine
    container: Manifest = {
        "name": "engine",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["bowsprit-engine"],
        "args": command.serve(model),
        "env": pod_parts.environment(model, platform),
        "ports": [
            {"name": "http", "containerPort": names.SERVING_PORT, "protocol": "TCP"},
            {"name": "control", "containerPort": names.CONTROL_PORT, "protocol": "TCP"},
        ],
        # Loading and profiling happen before the first Ready; liveness begins only after it.
        "startupProbe": _probe(
            "/readyz", _PROBE_SECONDS, failures=-(-platform.progress_deadline_seconds // _PROBE_SECONDS)
        ),
        "readinessProbe": _probe("/readyz", _PROBE_SECONDS, failures=3),
        # Patient: on shared cores a healthy engine may answer late.
        "livenessProbe": _probe("/healthz", 10, failures=6),
        # The engine drains on SIGTERM; first let every proxy learn that this pod is going.
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
        # An engine that can't start says why (path and cause) in its last log lines: they end up in status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": pod_parts.container_security(),
        "volumeMounts": pod_parts.volume_mounts(model),
    }
    if engine.resources:
        container["resources"] = {key: dict(value) for key, value in engine.resources.items() if value}
    return container


def _probe(path: str, period: int, *, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "control"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _uses_gpus(model: SpeculativeModel) -> bool:
    limits = model.spec.engine.resources.get("limits") or {}
    return any(resource.endswith("/gpu") for resource in limits)
