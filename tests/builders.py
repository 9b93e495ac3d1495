"""Builders of wire values for tests: everything has a plain default, so that a test names only what it is about."""

from __future__ import annotations

from collections.abc import Sequence

from bowsprit_policy.wire import (
    Artifact,
    CaptureStats,
    Comparison,
    DataWindow,
    DrafterState,
    DrafterStats,
    DrafterType,
    EngineStats,
    Evaluation,
    Interval,
    Profile,
    StepCell,
    TrainingResult,
)

MODEL_DIGEST = "a" * 64


def drafter_stats(
    name: str = "ngram",
    *,
    type: DrafterType = DrafterType.NGRAM,
    state: DrafterState = DrafterState.ACTIVE,
    reason: str = "",
    revision: str | None = None,
    opportunities: int = 0,
    proposed: int = 0,
    reached: Sequence[int] = (),
    matched: Sequence[int] = (),
    extendable: Sequence[int] = (),
    drafted: Sequence[int] = (),
    accepted: Sequence[int] | None = None,
    drafted_tokens: int | None = None,
    draft_seconds: float = 0.0,
) -> DrafterStats:
    """Counters of one drafter; accepted tokens follow from `matched`, drafted ones from `reached` unless given."""
    accepted = matched if accepted is None else accepted
    return DrafterStats(
        name=name,
        type=type,
        state=state,
        reason=reason,
        revision=revision,
        opportunities=opportunities,
        proposed=proposed,
        drafted_tokens=sum(reached) if drafted_tokens is None else drafted_tokens,
        accepted_tokens=sum(accepted),
        reached=tuple(reached),
        matched=tuple(matched),
        extendable=tuple(extendable),
        drafted=tuple(drafted),
        accepted=tuple(accepted),
        draft_seconds=draft_seconds,
    )


def step_cell(
    *,
    batch: int = 1,
    rows: int = 1,
    context: int = 256,
    steps: int = 100,
    milliseconds: float = 10.0,
    tokens: int | None = None,
    contended: int = 0,
) -> StepCell:
    """`steps` steps that took `milliseconds` each; without `tokens`, one token per sequence and step."""
    return StepCell(
        batch=batch,
        rows=rows,
        context=context,
        steps=steps,
        seconds=steps * milliseconds / 1e3,
        tokens=steps * batch if tokens is None else tokens,
        contended=contended,
    )


def engine_stats(
    *,
    boot_id: str = "boot-1",
    model_digest: str = MODEL_DIGEST,
    uptime_seconds: float = 100.0,
    draft_tokens_max: int = 8,
    max_batch_size: int = 8,
    generation_tokens: int = 0,
    sequence_steps: int = 0,
    drafters: Sequence[DrafterStats] = (),
    cells: Sequence[StepCell] = (),
    capture: CaptureStats | None = None,
) -> EngineStats:
    """What an idle engine would answer, but for what is given."""
    return EngineStats(
        boot_id=boot_id,
        model_name="smollm2",
        model_digest=model_digest,
        uptime_seconds=uptime_seconds,
        policy_revision=1,
        draft_tokens_max=draft_tokens_max,
        max_batch_size=max_batch_size,
        requests_running=0,
        requests_waiting=0,
        kv_cache_usage=0.0,
        prompt_tokens=0,
        generation_tokens=generation_tokens,
        sequence_steps=sequence_steps,
        probe_steps=0,
        drafters=tuple(drafters),
        cells=tuple(cells),
        capture=capture or CaptureStats(),
    )


def profile(
    cells: Sequence[StepCell], *, model_digest: str = MODEL_DIGEST, long_context: Sequence[StepCell] = ()
) -> Profile:
    """A start-up profile."""
    return Profile(
        accelerator="test",
        model_digest=model_digest,
        dtype="bfloat16",
        cells=tuple(cells),
        long_context=tuple(long_context),
    )


def comparison(
    *,
    incumbent: float = 2.0,
    candidate: float = 2.4,
    half_width: float = 0.02,
    requests: int = 240,
    per_position: tuple[float, ...] = (),
) -> Comparison:
    """Acceptance lengths with intervals of `half_width` on each side; the gain's is as wide, relatively."""
    gain = candidate / incumbent - 1.0
    return Comparison(
        incumbent=Interval(mean=incumbent, low=incumbent - half_width, high=incumbent + half_width, requests=requests),
        candidate=Interval(mean=candidate, low=candidate - half_width, high=candidate + half_width, requests=requests),
        gain=Interval(mean=gain, low=gain - half_width, high=gain + half_width, requests=requests),
        per_position=per_position,
    )


def training_result(
    *,
    revision: str = "smollm2-head-1",
    incumbent: float = 2.0,
    candidate: float = 2.4,
    requests: int = 240,
    parent: str | None = None,
    model_digest: str = MODEL_DIGEST,
) -> TrainingResult:
    """What a training pod writes when it has evaluated its candidate."""
    return TrainingResult(
        succeeded=True,
        reason="Evaluated",
        message="evaluated",
        model_digest=model_digest,
        drafter="head",
        revision=revision,
        parent=parent,
        artifact=Artifact(uri=f"file:///claims/learning/speculators/{revision}", sha256="b" * 64, bytes=1000),
        data=DataWindow(shards=3, requests_train=400, requests_holdout=requests, tokens=20_000),
        evaluation=Evaluation(recent=comparison(incumbent=incumbent, candidate=candidate, requests=requests)),
        seconds=60.0,
    )
