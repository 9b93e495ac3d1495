"""When a training run starts: first traffic, a drop, a slow slide; and everything that rightly holds it back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bowsprit_policy import learning, worth
from bowsprit_policy.counters import DrafterDelta
from bowsprit_policy.drift import Drift, DriftState, measure, update_drift
from bowsprit_policy.learning import LearningReason, LearningStep, PastRun, RunOutcome
from bowsprit_policy.observation import LearningSettings, Observation, PodObservation, TrainingMode
from bowsprit_policy.replay import replay
from bowsprit_policy.wire import CaptureStats, DrafterType, EngineStats
from bowsprit_policy.worth import StartInputs
from builders import drafter_stats, engine_stats, step_cell

SETTINGS = LearningSettings(drafter="head")
NOW = 1_000_000.0


def drifted(short: float, long: float = 2.0, *, error: float = 0.01, slide: float = 0.0) -> Drift:
    return Drift(
        short=short, long=long, error=error, reference=long, positions=4, slide=slide, slide_limit=200.0, drafts=50_000
    )


FIRST = StartInputs(
    now=NOW,
    settings=SETTINGS,
    runs=(),
    serving_revision=None,
    drift=None,
    tokens=60_000,
    requests=500,
    tokens_per_second=100.0,
    seconds_per_token=0.005,
    has_metrics=True,
)
TRAINED = replace(FIRST, serving_revision="m-head-1", drift=drifted(1.5))


def run(
    ago: float, *, outcome: RunOutcome = RunOutcome.PROMOTED, gain: float | None = 0.1, took: float = 300.0
) -> PastRun:
    finished = None if outcome is RunOutcome.RUNNING else NOW - ago + took
    return PastRun(name=f"run-{ago:.0f}", started_at=NOW - ago, finished_at=finished, outcome=outcome, gain=gain)


REJECTED = tuple(run(90_000.0 * i, outcome=RunOutcome.REJECTED, gain=0.01) for i in range(1, 6))


@pytest.mark.parametrize(
    ("inputs", "starts", "reason"),
    [
        (FIRST, True, LearningReason.FIRST_TRAFFIC),
        (TRAINED, True, LearningReason.ACCEPTANCE_DROP),
        (replace(TRAINED, drift=drifted(1.95, slide=201.0)), True, LearningReason.SLOW_SLIDE),
        (replace(TRAINED, drift=drifted(1.95)), False, LearningReason.NO_DRIFT),
        (replace(TRAINED, candidate="m-head-2"), False, LearningReason.CANDIDATE_IN_SHADOW),
        (replace(FIRST, image_refusal="too old"), False, LearningReason.IMAGE_REFUSES_FLAGS),
        (replace(TRAINED, drift=drifted(1.8, error=0.1)), False, LearningReason.NO_DRIFT),
        (replace(TRAINED, drift=None), False, LearningReason.NO_DRIFT),
        (replace(FIRST, tokens=49_999), False, LearningReason.NOT_ENOUGH_TOKENS),
        (replace(FIRST, requests=399), False, LearningReason.NOT_ENOUGH_TOKENS),
        (replace(FIRST, settings=replace(SETTINGS, mode=TrainingMode.MANUAL)), False, LearningReason.TRAINING_OFF),
        (replace(FIRST, settings=replace(SETTINGS, mode=TrainingMode.OFF)), False, LearningReason.TRAINING_OFF),
        (replace(FIRST, has_metrics=False), False, LearningReason.METRICS_MISSING),
        (replace(FIRST, seconds_per_token=None), False, LearningReason.METRICS_MISSING),
        (replace(FIRST, runs=(run(100, outcome=RunOutcome.RUNNING),)), False, LearningReason.RUN_IN_PROGRESS),
        (replace(FIRST, runs=(run(2000),)), False, LearningReason.COOLDOWN),
        (replace(FIRST, runs=(run(2101),)), True, LearningReason.FIRST_TRAFFIC),
        (replace(FIRST, runs=tuple(run(5000 * i) for i in range(1, 5))), False, LearningReason.BUDGET_SPENT),
        (replace(FIRST, runs=tuple(run(90_000 * i) for i in range(1, 5))), True, LearningReason.FIRST_TRAFFIC),
        (replace(FIRST, tokens_per_second=0.5), False, LearningReason.NOT_WORTH_IT),
        (replace(FIRST, runs=REJECTED[:1]), True, LearningReason.FIRST_TRAFFIC),
        (replace(FIRST, runs=REJECTED, tokens_per_second=10.0), False, LearningReason.NOT_WORTH_IT),
        (replace(FIRST, runs=(run(90_000, took=50_000.0),)), False, LearningReason.NOT_WORTH_IT),
    ],
)
def test_when_a_run_starts(inputs: StartInputs, starts: bool, reason: LearningReason) -> None:
    """Each row is one situation."""
    outcome = worth.decide(inputs)
    assert (outcome.start is not None, outcome.reason) == (starts, reason)


def test_the_return_of_a_run_is_computed_and_told() -> None:
    """100 tokens/s x 5 ms x (1 - 1/1.1) x 24 h = 3,927 s saved, against 600 s."""
    outcome = worth.decide(FIRST)
    assert outcome.start is not None
    assert outcome.start.saving_seconds == pytest.approx(100 * 0.005 * (1 - 1 / 1.1) * 86_400)
    assert outcome.message == (
        "head is untrained and 60000 tokens are captured; a gain of +10.0% (assumed) at 100.0 tokens/s and 5.00 ms "
        "each saves 3927 s of accelerator in 24 h, a run takes 600 s (assumed)"
    )


def head_did(match: float, drafts: int, *, k: int = 4, revision: str = "1") -> DrafterDelta:
    reached = [round(drafts * match**i) for i in range(k)]
    return DrafterDelta(
        name="head",
        type=DrafterType.HEAD,
        revision=revision,
        opportunities=drafts,
        proposed=drafts,
        drafted_tokens=k * drafts,
        reached=tuple(reached),
        matched=tuple(round(n * match) for n in reached),
    )


def after(*deltas: DrafterDelta) -> tuple[DriftState, Drift]:
    state = None
    for delta in deltas:
        state = update_drift(state, delta, acceptance_drop=0.05)
    assert state is not None
    return state, measure(state, acceptance_drop=0.05)


def test_a_workload_that_leaves_the_trained_ground_is_a_drop() -> None:
    """0.7 for long, then 0.5."""
    _, steady = after(*[head_did(0.7, 500)] * 60)
    _, dropped = after(*[head_did(0.7, 500)] * 60, *[head_did(0.5, 500)] * 8)
    assert (steady.has_dropped(0.05), dropped.has_dropped(0.05)) == (False, True)


def test_a_change_of_k_is_no_drift() -> None:
    """Fewer tokens per draft are accepted because fewer are drafted."""
    _, drift = after(*[head_did(0.7, 500, k=8)] * 60, *[head_did(0.7, 500, k=1)] * 20)
    assert (drift.has_dropped(0.05), drift.is_sliding()) == (False, False)


def test_a_slide_too_slow_for_two_windows_is_caught_by_the_cusum() -> None:
    """From 0.70 to 0.58 over 300,000 drafts: at no time are the windows 5 % apart."""
    slide = [head_did(0.7 - 0.12 * i / 600, 500) for i in range(600)]
    _, drift = after(*[head_did(0.7, 500)] * 10, *slide)
    assert (drift.has_dropped(0.05), drift.is_sliding()) == (False, True)


def test_a_new_revision_has_its_own_reference() -> None:
    """It is not blamed for being different from its parent."""
    _, drift = after(*[head_did(0.7, 500)] * 60, *[head_did(0.5, 500, revision="2")] * 8)
    assert (drift.has_dropped(0.05), drift.is_sliding(), drift.drafts) == (False, False, 4000)


def engine(minutes: float, *, tokens: int, boot: str = "boot-1") -> EngineStats:
    generated = int(6000 * minutes)
    return engine_stats(
        boot_id=boot,
        uptime_seconds=60 * minutes,
        generation_tokens=generated,
        sequence_steps=generated // 2,
        drafters=[drafter_stats()],
        cells=[step_cell(steps=generated // 2, milliseconds=10, tokens=generated)],
        capture=CaptureStats(enabled=True, requests=tokens // 100, tokens=tokens),
    )


def ticks(*scrapes: EngineStats | None, runs: dict[int, PastRun] | None = None) -> list[LearningStep]:
    """`runs`: by the tick from which on they are known."""
    state, steps = learning.begin(), []
    for i, stats in enumerate(scrapes):
        known = tuple(run for tick, run in (runs or {}).items() if tick <= i)
        observation = Observation(pods=(PodObservation(uid="a", stats=stats),))
        steps.append(learning.step(state, observation, SETTINGS, NOW + 60 * i, runs=known))
        state = steps[-1].state
    return steps


def test_captured_traffic_starts_the_first_run_and_goes_on_counting_from_it() -> None:
    """At 50k tokens; what that run reads is not counted for the next one."""
    steps = ticks(
        engine(1, tokens=30_000),
        engine(2, tokens=60_000),
        engine(3, tokens=61_000),
        engine(4, tokens=62_000),
        runs={2: run(0, outcome=RunOutcome.RUNNING)},
    )
    assert [step.reason for step in steps] == [
        LearningReason.NOT_ENOUGH_TOKENS,
        LearningReason.FIRST_TRAFFIC,
        LearningReason.RUN_IN_PROGRESS,
        LearningReason.RUN_IN_PROGRESS,
    ]
    assert steps[-1].state.tokens == 2_000
    assert replay(steps[1].decisions[0].record).is_same


def test_a_run_that_could_not_be_created_is_decided_on_again() -> None:
    """Level-triggered: what counts is the run, not that it was once decided."""
    steps = ticks(engine(1, tokens=60_000), engine(2, tokens=60_000), engine(3, tokens=60_000))
    assert [step.start is not None for step in steps] == [False, True, True]


def test_tokens_captured_before_a_restart_still_count() -> None:
    """Shards outlive the pod, its counters don't."""
    steps = ticks(engine(1, tokens=30_000), engine(1, tokens=15_000, boot="boot-2"))
    assert steps[-1].state.tokens == 45_000


def test_a_run_that_a_user_started_has_read_what_was_there() -> None:
    """Counting begins again from it."""
    steps = ticks(engine(1, tokens=45_000), engine(2, tokens=60_000), runs={1: run(30)})
    assert (steps[-1].state.tokens, steps[-1].reason) == (15_000, LearningReason.NOT_ENOUGH_TOKENS)


def test_without_an_answer_nothing_is_started() -> None:
    """However much was captured."""
    assert ticks(engine(1, tokens=40_000), None)[-1].reason is LearningReason.METRICS_MISSING
