"""The Job of one training run: the engine's own image, one thread, nothing that it could take from the engines.

Decides the command, the mounts and the limits of the pod. Refuses to know whether a run should exist and how it went.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.kinds import JOB
from bowsprit_operator.resources.quantities import format_bytes, parse
from bowsprit_operator.resources.speculative_model import SpeculativeModel, StorageSpec, TrainingSpec
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.serving import pod_parts
from bowsprit_operator.serving.platform import Platform
from bowsprit_policy.wire import COUNT_BASED

CONTAINER = "train"
FREE_REQUESTS = {"cpu": "50m", "memory": "256Mi"}  # training yields to engines: least CPU shares, first to be evicted
SCRATCH_FOLDER = "/scratch"
SCRATCH_BYTES = 16 * 1024**3  # a million of the target's states of 8,192 numbers; smaller targets take less
_SCRATCH_PERCENT = 90  # of an ephemeral-storage limit: logs and caches count to it too
_REPORTING_SECONDS = 30  # of the deadline, for the run to end by itself and say so


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """All that a run's Job is made from. `parent`: the incumbent to start from and to be compared with, if any."""

    model: SpeculativeModel
    training: SpeculatorTraining
    settings: TrainingSpec
    storage: StorageSpec
    revision: str
    image: str
    parent: SpeculatorRevision | None
    threads: int = 1
    min_holdout_requests: int = 200


def build(plan: TrainingPlan, platform: Platform) -> dict[str, Any]:
    """Named like the revision that it makes. All of it is final: a Job's template is immutable."""
    deadline_seconds = int(plan.settings.budget.deadline.total_seconds())
    pod_labels = labels.on_child(plan.model.name, labels.Component.TRAINING)
    resources = plan.settings.resources
    scratch = {"name": "scratch", "emptyDir": {"sizeLimit": format_bytes(_scratch_bytes(resources))}}
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": {
            "name": plan.revision,
            "namespace": plan.model.namespace,
            "labels": {**pod_labels, labels.DRAFTER: plan.training.spec.drafter},
            "ownerReferences": [plan.training.owner_reference()],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": deadline_seconds,
            "template": {
                "metadata": {"labels": dict(pod_labels)},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 5,
                    "securityContext": pod_parts.pod_security(),
                    "nodeSelector": dict(plan.settings.node_selector),
                    "tolerations": [dict(toleration) for toleration in plan.settings.tolerations],
                    "containers": [
                        {
                            "name": CONTAINER,
                            "image": plan.image,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["bowsprit-engine"],
                            "args": _arguments(plan, deadline_seconds=deadline_seconds),
                            "env": pod_parts.environment(plan.model, platform),
                            "ports": [{"name": "control", "containerPort": names.CONTROL_PORT}],
                            "resources": {**resources, "requests": resources.get("requests") or dict(FREE_REQUESTS)},
                            "securityContext": pod_parts.container_security(),
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "volumeMounts": [
                                *pod_parts.volume_mounts(plan.model),
                                {"name": "scratch", "mountPath": SCRATCH_FOLDER},
                            ],
                        }
                    ],
                    "volumes": [*pod_parts.volumes(plan.model), scratch],
                },
            },
        },
    }


def _scratch_bytes(resources: Mapping[str, Any]) -> int:
    """What the target's states may take of the node's disk: the pod is evicted when it goes beyond the user's limit."""
    limit = (resources.get("limits") or {}).get("ephemeral-storage")
    if limit is None:
        return SCRATCH_BYTES
    try:
        return min(SCRATCH_BYTES, parse(limit) * _SCRATCH_PERCENT // 100)
    except (ValueError, OverflowError):
        return SCRATCH_BYTES  # no quantity: the API server refuses the Job that bears it, and says why


def _arguments(plan: TrainingPlan, *, deadline_seconds: int) -> list[str]:
    place = {
        "claim": plan.storage.claim_name,
        "namespace": plan.model.namespace,
        "model_name": plan.model.name,
        "uid": plan.model.metadata.uid or "",
    }
    draft_tokens_max = plan.model.spec.speculation.effective_draft_tokens_max
    arguments = [
        "train",
        f"--model={plan.model.spec.model.uri}",
        f"--capture-uri={names.capture_uri(**place)}",
        f"--output-uri={names.speculator_uri(**place, revision=plan.revision)}",
        f"--revision={plan.revision}",
        f"--drafter={plan.training.spec.drafter}",
        f"--model-name={plan.model.served_name}",
        f"--min-holdout-requests={plan.min_holdout_requests}",
        f"--draft-tokens={min(4, draft_tokens_max)}",
        f"--draft-tokens-max={draft_tokens_max}",
        f"--deadline-seconds={max(1, deadline_seconds - _REPORTING_SECONDS)}",
        f"--threads={plan.threads}",
        f"--scratch-dir={SCRATCH_FOLDER}",
        f"--scratch-limit={_scratch_bytes(plan.settings.resources)}",
        f"--control-port={names.CONTROL_PORT}",
        "--termination-log=/dev/termination-log",
    ]
    # What judges the head is the pool that it would serve in. Draft models would have to run: they are left out.
    arguments += [
        f"--beside={drafter.name}={drafter.type}"
        for drafter in plan.model.spec.speculation.drafters
        if drafter.type in COUNT_BASED
    ]
    if plan.parent is not None:
        artifact = plan.parent.spec.artifact
        arguments += [
            f"--parent-uri={artifact.uri}",
            f"--parent-sha256={artifact.sha256}",
            f"--parent-revision={plan.parent.name}",
        ]
    return arguments
