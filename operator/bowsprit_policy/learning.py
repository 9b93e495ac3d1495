"""One tick of the learning loop: should a training run start now, and if not, why not.

Refuses to know Jobs, storage and resources: past runs come in as values, a start goes out as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy.decision import Decision
from bowsprit_policy.observation import LearningSettings, Observation


class RunOutcome(StrEnum):
    """How a training run ended, or that it hasn't."""

    RUNNING = "Running"
    PROMOTED = "Promoted"
    REJECTED = "Rejected"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One SpeculatorTraining of this model. `gain`: candidate / incumbent - 1 on the recent holdout, if evaluated."""

    name: str
    started_at: float
    finished_at: float | None
    outcome: RunOutcome
    gain: float | None = None


class LearningReason(StrEnum):
    """Why a run starts, or why none does."""

    FIRST_TRAFFIC = "FirstTraffic"
    ACCEPTANCE_DROP = "AcceptanceDrop"
    SLOW_SLIDE = "SlowSlide"
    # not started
    TRAINING_OFF = "TrainingOff"
    RUN_IN_PROGRESS = "RunInProgress"
    NOT_ENOUGH_TOKENS = "NotEnoughTokens"
    NO_DRIFT = "NoDrift"
    COOLDOWN = "Cooldown"
    BUDGET_SPENT = "BudgetSpent"
    NOT_WORTH_IT = "NotWorthIt"
    METRICS_MISSING = "MetricsMissing"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStart:
    """Start one run now. `saving_seconds` and `cost_seconds` are accelerator time over the horizon."""

    trigger: LearningReason
    expected_gain: float
    saving_seconds: float
    cost_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningState:
    """All that the loop remembers between ticks. Serialisable with `pydantic.TypeAdapter(LearningState)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningStep:
    """The outcome of a tick: `start` is None when no run should start, and `reason`, `message` say why."""

    state: LearningState
    start: TrainingStart | None
    reason: LearningReason
    message: str
    decisions: tuple[Decision, ...]


def begin() -> LearningState:
    """The state of a new leader."""
    raise NotImplementedError


def step(
    state: LearningState,
    observation: Observation,
    settings: LearningSettings,
    now: float,
    *,
    runs: tuple[PastRun, ...] = (),
    serving_revision: str | None = None,
) -> LearningStep:
    """Take in one scrape of the fleet and decide. Never raises.

    `runs`: every known run of this model, in any order. `serving_revision`: the promoted revision of the trained
    drafter, None while it is untrained (the trigger is then the first traffic, not drift).
    """
    raise NotImplementedError
