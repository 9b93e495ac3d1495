"""SpeculatorTraining as typed values: one training run, one Job."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from bowsprit_operator.resources.base import Decimal6, Resource, ResourceValue, Time
from bowsprit_operator.resources.conditions import Condition
from bowsprit_operator.resources.kinds import SPECULATOR_TRAINING, Kind
from bowsprit_policy.wire import TrainingPhase


class TrainingTrigger(StrEnum):
    """Why a run was created; the first three are bowsprit_policy.learning's reasons to start."""

    FIRST_TRAFFIC = "FirstTraffic"
    ACCEPTANCE_DROP = "AcceptanceDrop"
    SLOW_SLIDE = "SlowSlide"
    MANUAL = "Manual"


class TrainingOutcome(StrEnum):
    """How a run ended. Evaluated: it passed the gate, and is in the shadow or waits for the user (promotion Manual)."""

    RUNNING = "Running"
    PROMOTED = "Promoted"
    REJECTED = "Rejected"
    EVALUATED = "Evaluated"
    FAILED = "Failed"


class SpeculatorTrainingSpec(ResourceValue):
    """Immutable."""

    model_name: str
    drafter: str
    trigger: TrainingTrigger = TrainingTrigger.MANUAL
    message: str | None = None


class RunProgress(ResourceValue):
    """What the training pod said last."""

    phase: TrainingPhase
    step: int = 0
    steps: int = 0
    acceptance_length: Decimal6 | None = None
    message: str = ""


class SpeculatorTrainingStatus(ResourceValue):
    """Written by the learning loop alone, whole. `gain`: candidate / incumbent - 1 on the recent holdout.

    `image`: of the run's Job; absent in runs that an older operator began.
    """

    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
    job_name: str | None = None
    image: str | None = None
    revision: str | None = None
    outcome: TrainingOutcome | None = None
    gain: Decimal6 | None = None
    start_time: Time | None = None
    completion_time: Time | None = None
    progress: RunProgress | None = None


class SpeculatorTraining(Resource):
    """The whole object."""

    KIND: ClassVar[Kind] = SPECULATOR_TRAINING

    spec: SpeculatorTrainingSpec
    status: SpeculatorTrainingStatus = SpeculatorTrainingStatus()
