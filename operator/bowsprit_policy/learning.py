"""One tick of the learning loop: should a training run start now, and if not, why not.

Refuses to know Jobs, storage and resources: past runs come in as values, a start goes out as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from bowsprit_policy import record, worth
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.drift import DriftState, measure, update_drift
from bowsprit_policy.fleet import FleetState, FleetStep, observe
from bowsprit_policy.observation import LearningSettings, Observation
from bowsprit_policy.worth import LearningReason, PastRun, RunOutcome, StartInputs, TrainingStart

__all__ = ["LearningReason", "LearningState", "LearningStep", "PastRun", "RunOutcome", "TrainingStart", "begin", "step"]

# Demand is averaged over this, so that a pause between two bursts doesn't make a run look worthless.
DEMAND_HALF_LIFE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningState:
    """All that the loop remembers between ticks. Serialisable with `pydantic.TypeAdapter(LearningState)`.

    `tokens`, `requests`: captured since the newest of `known_runs` began. `demand_*`: weighted tokens and seconds of
    observation; `decode_*`: weighted decoded tokens and the accelerator time of their steps.
    """

    fleet: FleetState = field(default_factory=FleetState)
    drift: DriftState | None = None
    tokens: int = 0
    requests: int = 0
    known_runs: tuple[str, ...] | None = None
    last_tick: float | None = None
    demand_tokens: float = 0.0
    demand_seconds: float = 0.0
    decode_tokens: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningStep:
    """The outcome of a tick: `start` is None when no run should start, and `reason`, `message` say why."""

    state: LearningState
    start: TrainingStart | None
    reason: LearningReason
    message: str
    decisions: tuple[Decision, ...]


def begin() -> LearningState:
    """The state of a new leader. What engines have captured since their start counts as not trained on yet."""
    return LearningState()


def step(
    state: LearningState,
    observation: Observation,
    settings: LearningSettings,
    now: float,
    *,
    runs: tuple[PastRun, ...] = (),
    serving_revision: str | None = None,
    candidate: str | None = None,
    image_refusal: str | None = None,
) -> LearningStep:
    """Take in one scrape of the fleet and decide. Never raises.

    `runs`: every known run of this model, in any order. `serving_revision`: the promoted revision of the trained
    drafter, None while it is untrained (the trigger is then the first traffic, not drift). `candidate`: the one that is
    scored in its shadow. `image_refusal`: why a run's image can't carry one out, where that is known.
    """
    seen = observe(state.fleet, observation)
    if seen.has_other_model:
        state = replace(state, drift=None, tokens=0, requests=0)  # what another target said teaches nothing
    state = _since_last_run(state, runs)
    state = _taken_in(replace(state, fleet=seen.state), seen, settings, serving_revision, now)
    inputs = StartInputs(
        now=now,
        settings=settings,
        runs=runs,
        serving_revision=serving_revision,
        drift=measure(state.drift, acceptance_drop=settings.acceptance_drop) if state.drift else None,
        tokens=state.tokens,
        requests=state.requests,
        tokens_per_second=state.demand_tokens / state.demand_seconds if state.demand_seconds > 0 else 0.0,
        seconds_per_token=state.decode_seconds / state.decode_tokens if state.decode_tokens >= 1 else None,
        has_metrics=seen.num_answering > 0,
        candidate=candidate,
        image_refusal=image_refusal,
    )
    outcome = worth.decide(inputs)
    decisions: tuple[Decision, ...] = ()
    if outcome.start is not None:
        decisions = (
            Decision(
                at=now,
                kind=DecisionKind.TRAIN,
                reason=outcome.reason,
                message=outcome.message,
                before=serving_revision or "untrained",
                after="training",
                record=record.line(kind=DecisionKind.TRAIN, at=now, inputs=inputs, outcome=outcome),
            ),
        )
    return LearningStep(
        state=state, start=outcome.start, reason=outcome.reason, message=outcome.message, decisions=decisions
    )


def _since_last_run(state: LearningState, runs: tuple[PastRun, ...]) -> LearningState:
    """A run that wasn't there at the last tick reads what was captured until now, whoever started it.

    Not a start but the run itself is what counts: one that could not be created is decided on again.
    """
    names = tuple(sorted(run.name for run in runs))
    if state.known_runs is None or set(names) <= set(state.known_runs):
        return replace(state, known_runs=names)
    return replace(state, known_runs=names, tokens=0, requests=0)


def _taken_in(
    state: LearningState, seen: FleetStep, settings: LearningSettings, serving_revision: str | None, now: float
) -> LearningState:
    delta, (tokens, requests) = seen.delta, seen.captured
    elapsed = max(0.0, now - state.last_tick) if state.last_tick is not None else 0.0
    keep = math.exp2(-elapsed / DEMAND_HALF_LIFE_SECONDS)
    drift = state.drift if serving_revision is not None else None
    for drafter in delta.drafters:
        if drafter.name == settings.drafter and serving_revision is not None and drafter.revision == serving_revision:
            drift = update_drift(drift, drafter, acceptance_drop=settings.acceptance_drop)
    return replace(
        state,
        drift=drift,
        tokens=state.tokens + tokens,
        requests=state.requests + requests,
        last_tick=now,
        demand_tokens=state.demand_tokens * keep + (delta.generation_tokens if elapsed > 0 else 0),
        demand_seconds=state.demand_seconds * keep + elapsed,
        decode_tokens=state.decode_tokens * keep + sum(cell.tokens for cell in delta.cells),
        decode_seconds=state.decode_seconds * keep + sum(cell.seconds for cell in delta.cells),
    )
