"""Why engines don't come up: the one fault that a user has to know first, out of pods and the Deployment. Pure.

Decides what is terminal (Stalled) and what may pass by itself (a pod that waits for a node). The cause of a crash is
the engine's own words: its termination message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bowsprit_operator.resources.conditions import Condition, ModelCondition, ModelReason, find
from bowsprit_operator.resources.workloads import Deployment, Pod, Terminated

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_QUOTED_CHARACTERS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`is_terminal`: waiting won't help, the user (or a new spec) has to."""

    reason: ModelReason
    message: str
    is_terminal: bool


def first_fault(pods: Sequence[Pod], deployment: Deployment | None, stored: Sequence[Condition] = ()) -> Fault | None:
    """The gravest fault, None when there is none. `stored`: conditions in status, so that a crash loop between two
    restarts doesn't look healthy for a moment."""
    was_crashing = _was_crashing(stored)
    found = [fault for pod in pods if pod.is_alive and (fault := _of_pod(pod, was_crashing=was_crashing))]
    terminal = next((fault for fault in found if fault.is_terminal), None)
    if terminal is not None:
        return terminal
    if deployment is not None:
        for condition in deployment.status.conditions:
            if condition.type == "ReplicaFailure" and condition.status == "True":
                return Fault(reason=ModelReason.POD_CONFIG_REFUSED, message=condition.message, is_terminal=True)
            if condition.type == "Progressing" and condition.reason == "ProgressDeadlineExceeded":
                cause = found[0].message if found else condition.message
                return Fault(
                    reason=ModelReason.PROGRESS_DEADLINE_EXCEEDED,
                    message=f"no progress within the deadline: {cause}",
                    is_terminal=True,
                )
    return found[0] if found else None


def _of_pod(pod: Pod, *, was_crashing: bool) -> Fault | None:
    for container in pod.status.container_statuses:
        waiting = container.state.waiting
        if waiting is not None and waiting.reason in _IMAGE:
            message = f"pod {pod.name}: {waiting.reason}: {waiting.message}"
            return Fault(reason=ModelReason.IMAGE_PULL_FAILED, message=message, is_terminal=True)
        if waiting is not None and waiting.reason in _CONFIG:
            message = f"pod {pod.name}: {waiting.reason}: {waiting.message}"
            return Fault(reason=ModelReason.POD_CONFIG_REFUSED, message=message, is_terminal=True)
        ended = pod.last_termination
        if not container.ready and ended is not None and ended.exit_code != 0:
            is_looping = waiting is not None and waiting.reason == "CrashLoopBackOff"
            message = f"pod {pod.name}: engine ended {_ending(ended)} (restarts: {container.restart_count})"
            return Fault(
                reason=ModelReason.ENGINE_CRASHING,
                message=message,
                is_terminal=is_looping or (was_crashing and container.restart_count > 0),
            )
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            is_claim = "persistentvolumeclaim" in condition.message
            return Fault(
                reason=ModelReason.CLAIM_MISSING if is_claim else ModelReason.UNSCHEDULABLE,
                message=f"pod {pod.name}: {condition.message}",
                is_terminal=False,
            )
    return None


def _ending(ended: Terminated) -> str:
    words = " ".join(ended.message.split())[-_QUOTED_CHARACTERS:]
    how = f"with exit code {ended.exit_code}" + (f" ({ended.reason})" if ended.reason not in ("", "Error") else "")
    return f"{how}: {words}" if words else how


def _was_crashing(stored: Sequence[Condition]) -> bool:
    stalled = find(stored, ModelCondition.STALLED)
    return stalled is not None and stalled.reason == ModelReason.ENGINE_CRASHING
