"""How a training run ended, read from what its Job and pods look like now.

Decides whether a run is over and in which words a failure is told. Refuses to know whether a result is good enough
to serve (the gate does), and reads no cluster: the Job and the pods come in as values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from bowsprit_operator.resources.workloads import Job, Pod, Terminated
from bowsprit_policy.wire import TrainingResult

_QUOTED_CHARACTERS = 500  # of a pod's own words in our message
_SIGKILL_EXIT_CODE = 137
_USAGE_EXIT_CODE = 2  # of a command line that the engine doesn't understand
_UNKNOWN_FLAG = re.compile(r"No such option:? *(--[\w-]+)")


class RunFailure(StrEnum):
    """Why a run ended without an evaluation, where the training pod could not say so itself."""

    DEADLINE_EXCEEDED = "DeadlineExceeded"
    OUT_OF_MEMORY = "OutOfMemory"
    POD_KILLED = "PodKilled"
    POD_LOST = "PodLost"
    POD_FAILED = "PodFailed"
    IMAGE_REFUSES_FLAGS = "ImageRefusesFlags"
    RESULT_UNREADABLE = "ResultUnreadable"
    EVALUATION_MISSING = "EvaluationMissing"
    RESULT_OF_ANOTHER_RUN = "ResultOfAnotherRun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The run measured its candidate: the gate may judge."""

    result: TrainingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The run is over and measured nothing. `reason` is CamelCase: ours, or the training pod's own."""

    reason: str
    message: str


def of_run(*, revision: str, job: Job, pods: tuple[Pod, ...]) -> Evaluated | Failed | None:
    """None while the run may still end by itself.

    The pod's own words come first: a pod that wrote its result and was then killed has still succeeded.
    """
    ends = [(pod.name, end) for pod in pods if (end := pod.last_termination) is not None]
    for _, end in ends:
        result = _result_in(end.message)
        if result is not None:
            return _from_result(result, revision=revision)
    failure = job.failure
    if failure is not None and failure.reason == RunFailure.DEADLINE_EXCEEDED:
        return Failed(reason=RunFailure.DEADLINE_EXCEEDED, message=failure.message)
    for name, end in ends:
        return _from_silent_end(name, end)
    if failure is not None:
        message = f"the training pod was deleted before it wrote a result ({failure.reason}: {failure.message})"
        return Failed(reason=RunFailure.POD_LOST, message=message)
    if job.is_complete:
        return Failed(reason=RunFailure.POD_LOST, message="the Job completed, but its pod and result are gone")
    return None


def _result_in(message: str) -> TrainingResult | None:
    try:
        return TrainingResult.model_validate_json(message)
    except ValidationError:
        return None  # not a result: a crash's last words, told by _from_silent_end


def _from_result(result: TrainingResult, *, revision: str) -> Evaluated | Failed:
    if not result.succeeded:
        return Failed(reason=result.reason, message=result.message)
    if result.revision != revision:
        message = f"the pod reported revision {result.revision}, but this run makes {revision}"
        return Failed(reason=RunFailure.RESULT_OF_ANOTHER_RUN, message=message)
    missing = [
        name
        for name, value in (
            ("artifact", result.artifact),
            ("evaluation", result.evaluation),
            ("data", result.data),
            ("modelDigest", result.model_digest),
        )
        if value is None
    ]
    if missing:
        message = f"the result says it succeeded, but carries no {' and no '.join(missing)}"
        return Failed(reason=RunFailure.EVALUATION_MISSING, message=message)
    return Evaluated(result=result)


def _from_silent_end(pod_name: str, end: Terminated) -> Failed:
    words = " ".join(end.message.split())[-_QUOTED_CHARACTERS:]
    if end.reason == "OOMKilled":
        message = f"pod {pod_name} was killed: it needed more memory than its limit"
        return Failed(reason=RunFailure.OUT_OF_MEMORY, message=message)
    if end.exit_code == _SIGKILL_EXIT_CODE:
        message = f"pod {pod_name} was killed (SIGKILL) before it wrote a result"
        return Failed(reason=RunFailure.POD_KILLED, message=message)
    if end.exit_code == 0:
        message = f"pod {pod_name} succeeded, but its termination message is no result: {words!r}"
        return Failed(reason=RunFailure.RESULT_UNREADABLE, message=message)
    unknown = _UNKNOWN_FLAG.search(words) if end.exit_code == _USAGE_EXIT_CODE else None
    if unknown is not None:
        message = (
            f"the engine image doesn't know the flag {unknown[1]}, which this operator passes: "
            "it is of an older version"
        )
        return Failed(reason=RunFailure.IMAGE_REFUSES_FLAGS, message=message)
    message = f"pod {pod_name} exited with code {end.exit_code} ({end.reason}) and left no result: {words!r}"
    return Failed(reason=RunFailure.POD_FAILED, message=message)
