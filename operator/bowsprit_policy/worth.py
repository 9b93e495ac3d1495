"""Should a training run start now? Only for a cause, within the budget, and when it is expected to return its cost.

Saving and cost are both seconds of accelerator: what the expected tokens of the horizon take now less what they would
take after, against what a run was measured to take. Refuses to know where the figures come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy.drift import Drift
from bowsprit_policy.observation import LearningSettings, TrainingMode

DAY_SECONDS = 86_400.0
# Stated, not measured here: what a first run takes and gives, before any run of this model has told.
PRIOR_RUN_SECONDS = 600.0
PRIOR_FIRST_GAIN = 0.10


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
    CANDIDATE_IN_SHADOW = "CandidateInShadow"
    IMAGE_REFUSES_FLAGS = "ImageRefusesFlags"
    NOT_ENOUGH_TOKENS = "NotEnoughTokens"
    NO_DRIFT = "NoDrift"
    COOLDOWN = "Cooldown"
    BUDGET_SPENT = "BudgetSpent"
    NOT_WORTH_IT = "NotWorthIt"
    METRICS_MISSING = "MetricsMissing"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInputs:
    """Everything that a start looks at. `tokens`, `requests`: captured since the last run began.

    `seconds_per_token`: accelerator time of a decoded token, measured; None without any. `drift`: of the serving
    revision, None while there is none. `candidate`: the revision that is scored in its shadow, if any.
    `image_refusal`: why the image that a run would have can't carry one out, where the last one of it told.
    """

    now: float
    settings: LearningSettings
    runs: tuple[PastRun, ...]
    serving_revision: str | None
    drift: Drift | None
    tokens: int
    requests: int
    tokens_per_second: float
    seconds_per_token: float | None
    has_metrics: bool
    candidate: str | None = None
    image_refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStart:
    """Start one run now. `saving_seconds` and `cost_seconds` are accelerator time over the horizon."""

    trigger: LearningReason
    expected_gain: float
    saving_seconds: float
    cost_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDecision:
    """`start` None: no run, and why not."""

    start: TrainingStart | None
    reason: LearningReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What speaks for a run."""

    trigger: LearningReason
    words: str


def decide(inputs: StartInputs) -> StartDecision:
    """Start a run, or say what is in the way: the first of these that applies."""
    settings = inputs.settings
    if settings.mode is not TrainingMode.AUTO:
        return _no(LearningReason.TRAINING_OFF, f"training is {settings.mode} in the spec")
    running = [run.name for run in inputs.runs if run.outcome is RunOutcome.RUNNING]
    if running:
        return _no(LearningReason.RUN_IN_PROGRESS, f"{', '.join(running)} is running")
    if inputs.candidate is not None:
        message = f"{inputs.candidate} drafts in the shadow: a run would start from what it may replace"
        return _no(LearningReason.CANDIDATE_IN_SHADOW, message)
    if inputs.image_refusal is not None:
        return _no(LearningReason.IMAGE_REFUSES_FLAGS, inputs.image_refusal)
    if not inputs.has_metrics:
        return _no(LearningReason.METRICS_MISSING, "no engine answers")
    if inputs.tokens < settings.min_tokens or inputs.requests < settings.min_requests:
        return _no(
            LearningReason.NOT_ENOUGH_TOKENS,
            f"{inputs.tokens} of {settings.min_tokens} tokens, {inputs.requests} of {settings.min_requests} requests "
            "captured since the last run",
        )
    cause = _cause(inputs)
    if cause is None:
        return _no(LearningReason.NO_DRIFT, _drift_words(inputs.drift))
    return _out_of_budget(inputs, cause) or _weighed(inputs, cause)


def _cause(inputs: StartInputs) -> Cause | None:
    if inputs.serving_revision is None:
        words = f"{inputs.settings.drafter} is untrained and {inputs.tokens} tokens are captured"
        return Cause(trigger=LearningReason.FIRST_TRAFFIC, words=words)
    if inputs.drift is not None and inputs.drift.has_dropped(inputs.settings.acceptance_drop):
        return Cause(trigger=LearningReason.ACCEPTANCE_DROP, words=_drift_words(inputs.drift))
    if inputs.drift is not None and inputs.drift.is_sliding():
        return Cause(trigger=LearningReason.SLOW_SLIDE, words=_drift_words(inputs.drift))
    return None


def _out_of_budget(inputs: StartInputs, cause: Cause) -> StartDecision | None:
    settings = inputs.settings
    today = [run for run in inputs.runs if inputs.now - run.started_at < DAY_SECONDS]
    if len(today) >= settings.max_runs_per_day:
        words = f"{len(today)} of {settings.max_runs_per_day} runs within a day"
        return _no(LearningReason.BUDGET_SPENT, f"{cause.words}, but {words}")
    last_end = max((run.finished_at for run in inputs.runs if run.finished_at is not None), default=None)
    if last_end is not None and inputs.now - last_end < settings.cooldown_seconds:
        left = settings.cooldown_seconds - (inputs.now - last_end)
        return _no(LearningReason.COOLDOWN, f"{cause.words}, but the cooldown lasts {left:.0f} s more")
    return None


def _weighed(inputs: StartInputs, cause: Cause) -> StartDecision:
    gain, gain_words = _expected_gain(inputs)
    cost, cost_words = _cost(inputs)
    if inputs.seconds_per_token is None:
        return _no(LearningReason.METRICS_MISSING, f"{cause.words}, but no step time is measured yet")
    saved_per_token = inputs.seconds_per_token * (1.0 - 1.0 / (1.0 + gain)) if gain > 0 else 0.0
    saving = inputs.tokens_per_second * saved_per_token * inputs.settings.horizon_seconds
    words = (
        f"{cause.words}; a gain of {gain:+.1%} ({gain_words}) at {inputs.tokens_per_second:.1f} tokens/s and "
        f"{inputs.seconds_per_token * 1e3:.2f} ms each saves {saving:.0f} s of accelerator in "
        f"{inputs.settings.horizon_seconds / 3600:.0f} h, a run takes {cost:.0f} s ({cost_words})"
    )
    if saving <= cost:
        return _no(LearningReason.NOT_WORTH_IT, words)
    start = TrainingStart(trigger=cause.trigger, expected_gain=gain, saving_seconds=saving, cost_seconds=cost)
    return StartDecision(start=start, reason=cause.trigger, message=words)


def _expected_gain(inputs: StartInputs) -> tuple[float, str]:
    """What runs of this model gave (a rejected one: nothing), the prior being one run; at least what drift has lost.

    So one rejection halves the hope, and only many of them, or little traffic, end it.
    """
    gains = [run.gain if run.outcome is RunOutcome.PROMOTED else 0.0 for run in _newest(inputs) if run.gain is not None]
    told = (PRIOR_FIRST_GAIN + sum(gains)) / (1 + len(gains))
    words = f"from {len(gains)} runs" if gains else "assumed"
    if inputs.serving_revision is not None and inputs.drift is not None:
        lost = max(inputs.drift.long, inputs.drift.reference) / inputs.drift.short - 1.0
        if lost > told or not gains:
            return lost, "what drift has lost"
    return told, words


def _cost(inputs: StartInputs) -> tuple[float, str]:
    took = [run.finished_at - run.started_at for run in _newest(inputs) if run.finished_at is not None]
    return (sum(took) / len(took), f"mean of {len(took)} runs") if took else (PRIOR_RUN_SECONDS, "assumed")


def _newest(inputs: StartInputs) -> list[PastRun]:
    return sorted(inputs.runs, key=lambda run: run.started_at)[-5:]


def _drift_words(drift: Drift | None) -> str:
    if drift is None:
        return "the trained drafter has no drafts yet"
    return (
        f"acceptance length {drift.short:.2f} lately, {drift.long:.2f} in the long run (± {drift.error:.2f}), "
        f"{drift.reference:.2f} at first, over {drift.positions} positions"
    )


def _no(reason: LearningReason, message: str) -> StartDecision:
    return StartDecision(start=None, reason=reason, message=message)
