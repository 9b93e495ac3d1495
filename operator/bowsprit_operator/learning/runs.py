"""Which training run is next, under which name, and why one can't be carried out. Pure: resources in, values out.

Decides numbering, the order of runs (one at a time per model), their image, and refusals. Refuses to know whether
training pays: bowsprit_policy.learning does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from bowsprit_operator.learning.outcome import RunFailure
from bowsprit_operator.resources import conditions, labels, names
from bowsprit_operator.resources.conditions import TrainingCondition
from bowsprit_operator.resources.kinds import SPECULATOR_TRAINING
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining, TrainingOutcome, TrainingTrigger
from bowsprit_operator.serving.deployment import effective_image
from bowsprit_operator.serving.platform import Platform
from bowsprit_policy.learning import PastRun, RunOutcome, TrainingStart
from bowsprit_policy.observation import LearningSettings, TrainingMode
from bowsprit_policy.wire import DrafterType

_OUTCOMES = {
    TrainingOutcome.PROMOTED: RunOutcome.PROMOTED,
    TrainingOutcome.EVALUATED: RunOutcome.PROMOTED,  # it passed the gate: its gain tells what training brings
    TrainingOutcome.REJECTED: RunOutcome.REJECTED,
    TrainingOutcome.FAILED: RunOutcome.FAILED,
}


class RunRefusal(StrEnum):
    """Why a SpeculatorTraining can't be carried out at all."""

    DRAFTER_UNKNOWN = "DrafterUnknown"
    DRAFTER_NOT_TRAINABLE = "DrafterNotTrainable"
    NO_STORAGE = "NoStorage"
    TRAINING_OFF = "TrainingOff"
    JOB_NAME_TAKEN = "JobNameTaken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    reason: RunRefusal
    message: str


def is_finished(training: SpeculatorTraining) -> bool:
    """Complete or Failed: nothing about it changes any more."""
    found = training.status.conditions
    return conditions.is_true(found, TrainingCondition.COMPLETE) or conditions.is_true(found, TrainingCondition.FAILED)


def current(trainings: Iterable[SpeculatorTraining]) -> SpeculatorTraining | None:
    """The one to work on: that which has begun, else the oldest. The others wait, since they share the machine."""
    waiting = [training for training in trainings if not is_finished(training)]
    return min(waiting, key=lambda run: (run.status.revision is None, _created(run), run.name), default=None)


def refusal(training: SpeculatorTraining, model: SpeculativeModel) -> Refusal | None:
    """None when the run can be carried out."""
    wanted = training.spec.drafter
    drafters = model.spec.speculation.drafters
    found = next((drafter for drafter in drafters if drafter.name == wanted), None)
    if found is None:
        listed = ", ".join(drafter.name for drafter in drafters)
        message = f"drafter {wanted} is not among {listed} of SpeculativeModel {model.name}"
        return Refusal(reason=RunRefusal.DRAFTER_UNKNOWN, message=message)
    if found.type is not DrafterType.HEAD:
        message = f"drafter {wanted} is of type {found.type}; only type {DrafterType.HEAD} is trained"
        return Refusal(reason=RunRefusal.DRAFTER_NOT_TRAINABLE, message=message)
    if model.spec.training is None or model.spec.training.mode is TrainingMode.OFF:
        message = f"SpeculativeModel {model.name} captures no traffic to learn from (spec.training is absent or Off)"
        return Refusal(reason=RunRefusal.TRAINING_OFF, message=message)
    if model.spec.storage is None:
        message = f"SpeculativeModel {model.name} has no spec.storage to keep a speculator on"
        return Refusal(reason=RunRefusal.NO_STORAGE, message=message)
    return None


def image(model: SpeculativeModel, platform: Platform) -> str:
    """The spec's, else this operator's own default, whose flags it knows: not the one that engines still serve with."""
    return effective_image(model, platform, observed=None)


def image_refusal(trainings: Iterable[SpeculatorTraining], *, wanted: str) -> str | None:
    """Why a run of that image would fail as the newest one of it did; None where nothing is known against it."""
    ended = [run for run in trainings if run.status.image == wanted and run.status.completion_time is not None]
    newest = max(ended, key=lambda run: (run.status.completion_time or _created(run), run.name), default=None)
    failed = None if newest is None else conditions.find(newest.status.conditions, TrainingCondition.FAILED)
    if newest is None or failed is None or failed.reason != RunFailure.IMAGE_REFUSES_FLAGS:
        return None
    return (
        f"{newest.name} found image {wanted} too old for this operator: name a newer one in spec.engine.image, or "
        "none for the operator's own; a SpeculatorTraining by hand tries the same image again"
    )


def next_number(
    *,
    model_name: str,
    drafter: str,
    trainings: Iterable[SpeculatorTraining],
    revisions: Iterable[SpeculatorRevision],
) -> int:
    """One more than any run or revision ever used, those of a deleted model of this name included."""
    seen = [training.name for training in trainings]
    seen += [training.status.revision for training in trainings if training.status.revision]
    seen += [revision.name for revision in revisions]
    numbers = (names.revision_number(name, model_name=model_name, drafter=drafter) for name in seen)
    return 1 + max((number for number in numbers if number is not None), default=0)


def revision_name(
    training: SpeculatorTraining, *, trainings: Iterable[SpeculatorTraining], revisions: Iterable[SpeculatorRevision]
) -> str:
    """What this run makes: named like the run where that name is free and of the right form, else the next number."""
    model_name, drafter = training.spec.model_name, training.spec.drafter
    others = [other for other in trainings if other.name != training.name]
    stored = list(revisions)
    taken = {revision.name for revision in stored} | {other.status.revision for other in others}
    if training.name not in taken and names.revision_number(training.name, model_name=model_name, drafter=drafter):
        return training.name
    number = next_number(model_name=model_name, drafter=drafter, trainings=others, revisions=stored)
    return names.revision(model_name, drafter, number)


def manifest(model: SpeculativeModel, *, name: str, drafter: str, start: TrainingStart, message: str) -> dict[str, Any]:
    """The SpeculatorTraining that the controller creates by itself."""
    return {
        "apiVersion": SPECULATOR_TRAINING.api_version,
        "kind": SPECULATOR_TRAINING.kind,
        "metadata": {
            "name": name,
            "namespace": model.namespace,
            "labels": labels.on_child(model.name, labels.Component.TRAINING),
            "ownerReferences": [model.owner_reference()],
        },
        "spec": {
            "modelName": model.name,
            "drafter": drafter,
            "trigger": TrainingTrigger(start.trigger.value).value,
            "message": message[:1024],
        },
    }


def past(trainings: Iterable[SpeculatorTraining]) -> tuple[PastRun, ...]:
    """What the policy looks at."""
    runs = []
    for training in trainings:
        status = training.status
        started = status.start_time or _created(training)
        finished = status.completion_time
        runs.append(
            PastRun(
                name=training.name,
                started_at=started.timestamp(),
                finished_at=finished.timestamp() if finished is not None else None,
                outcome=_OUTCOMES.get(status.outcome, RunOutcome.RUNNING) if status.outcome else RunOutcome.RUNNING,
                gain=status.gain,
            )
        )
    return tuple(runs)


def settings(model: SpeculativeModel) -> LearningSettings | None:
    """What the user set, in the policy's units; None where nothing is trained."""
    training = model.spec.training
    if training is None:
        return None
    return LearningSettings(
        drafter=training.drafter,
        mode=training.mode,
        acceptance_drop=training.trigger.acceptance_drop,
        min_tokens=training.trigger.min_tokens,
        max_runs_per_day=training.budget.max_runs_per_day,
        cooldown_seconds=training.budget.cooldown.total_seconds(),
    )


def _created(training: SpeculatorTraining) -> datetime:
    created = training.metadata.creation_timestamp
    if created is None:
        raise ValueError(
            f"SpeculatorTraining {training.name} has no creationTimestamp: it wasn't read from an API server"
        )
    return created
