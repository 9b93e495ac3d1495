"""One training run: captured traffic in, an evaluated speculator's folder out.

Decides the order and the size of the head. Refuses to know signals, ports and the
termination message (job.py) and whether the result is good enough to serve (the operator's gate).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bowsprit_engine.capture.reader import CapturedTraffic, read_shards
from bowsprit_engine.config import TrainSettings
from bowsprit_engine.errors import WorldError
from bowsprit_engine.models import LoadedModel, load_model
from bowsprit_engine.models.memory import DRAFT_VOCABULARY, MOST_INTERMEDIATE, largest_head_bytes
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.native.variants import cpu_features, usable
from bowsprit_engine.speculation.drafters.head import HeadDrafter, accuracy
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training import artifact, calibration, data, evaluate, features, loop
from bowsprit_engine.training.data import RequestFeatures, TokenSequence
from bowsprit_engine.training.deadline import TRAINING_UNTIL, Deadline
from bowsprit_engine.training.evaluate import ServedPool, Traffic
from bowsprit_engine.training.features import Features
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from bowsprit_engine.training.progress import Tracker
from bowsprit_policy.wire import Artifact, Comparison, DataWindow, Evaluation, TrainingPhase, TrainingResult

logger = logging.getLogger(__name__)

# Sizes for a CPU, measured on SmolLM2-135M; see DESIGN.md, "The trained head: experiment".
MAX_EPOCHS = 6
MAX_SEEN_TOKENS = 300_000  # emitted tokens, repetitions included: with more traffic each is seen less often
ROWS_PER_BATCH = 256
LEARNING_RATE = 1.5e-3
TAUGHT_TOKENS = 20_000  # that look-up knows when weights are chosen: learning them again takes 0.2 s a validation
WARM_START = 0.3  # of the learning rate, on the parent's weights: at the full one they are forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained head and what it was chosen by."""

    head: RecurrentHead
    target: TargetRows
    outcome: loop.Outcome


def run(settings: TrainSettings, *, tracker: Tracker, deadline: Deadline) -> TrainingResult:
    """The whole run. Raises WorldError with a reason, naming the path or the two numbers, for whatever stops it."""
    torch.set_num_threads(settings.threads)
    tracker.enter(TrainingPhase.LOADING, f"loading {settings.model}")
    model = load_model(resolve_uri(settings.model), num_threads=settings.threads)
    traffic = _read(settings, model)
    parent = _parent(settings, model)
    split = _split(settings, model, traffic)
    base = _base_split(settings, model)
    chosen = features.choose(split, base)
    total = sum(map(len, (chosen.train, chosen.validation, chosen.holdout, chosen.base_holdout)))
    tracker.enter(TrainingPhase.FEATURES, f"the target's states of {total} requests", steps=total)
    states = features.compute(model.runner, chosen, deadline=deadline, on_request=tracker.step)
    trained = _train(settings, model, states, split, parent, tracker=tracker, deadline=deadline)
    tracker.enter(TrainingPhase.EVALUATING, f"{len(states.holdout)} held-out requests")
    output = resolve_uri(settings.output_uri)
    staged = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        sha256, size = _write(settings, model, staged, trained, states.validation)
        candidate = HeadDrafter(name=settings.drafter, runner=model.runner)
        candidate.swap_in(candidate.load_unproven(staged, sha256, settings.revision, model.digest))
        evaluation = _evaluated(settings, model, states, split, base, parent, candidate)
        artifact.publish(staged, output, evaluation)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    tracker.enter(TrainingPhase.DONE, _summary(evaluation, trained.outcome))
    return TrainingResult(
        succeeded=True,
        reason="Evaluated",
        message=f"{_summary(evaluation, trained.outcome)}; {len(states.train)} requests trained",
        model_digest=model.digest,
        drafter=settings.drafter,
        revision=settings.revision,
        parent=settings.parent_revision,
        artifact=Artifact(uri=settings.output_uri, sha256=sha256, bytes=size),
        data=_window(traffic, states),
        evaluation=evaluation,
        seconds=round(deadline.elapsed(), 1),
    )


def _read(settings: TrainSettings, model: LoadedModel) -> CapturedTraffic:
    traffic = read_shards(settings.capture_uri, model_digest=model.digest, max_tokens=settings.max_tokens)
    for shard, reason in traffic.unreadable:
        logger.warning("shard %s is left out: %s", shard, reason)
    if traffic.unreadable and not traffic.requests:
        raise WorldError(
            f"none of the {len(traffic.unreadable)} shards at {settings.capture_uri} can be read: {_first(traffic)}",
            reason="UnreadableShards",
        )
    return traffic


def _parent(settings: TrainSettings, model: LoadedModel) -> HeadDrafter | None:
    """The incumbent, loaded as an engine would load it."""
    if settings.parent_uri is None:
        return None
    drafter = HeadDrafter(name=settings.drafter, runner=model.runner)
    revision = settings.parent_revision or "parent"
    drafter.swap_in(drafter.load(resolve_uri(settings.parent_uri), settings.parent_sha256, revision, model.digest))
    return drafter


def _split(settings: TrainSettings, model: LoadedModel, traffic: CapturedTraffic) -> data.Split:
    config = model.config
    requests = data.usable(traffic.requests, vocab_size=config.vocab_size, max_model_len=config.max_model_len)
    try:
        return data.split(requests, min_holdout_requests=settings.min_holdout_requests)
    except WorldError as error:
        if not traffic.unreadable:
            raise
        message = f"{error}; {len(traffic.unreadable)} shards can't be read: {_first(traffic)}"
        raise WorldError(message, reason=error.reason) from error


def _base_split(settings: TrainSettings, model: LoadedModel) -> data.Split | None:
    if settings.base_uri is None:
        return None
    traffic = read_shards(settings.base_uri, model_digest=model.digest)
    return _split(settings, model, traffic)


def _evaluated(
    settings: TrainSettings,
    model: LoadedModel,
    states: Features,
    split: data.Split,
    base: data.Split | None,
    parent: HeadDrafter | None,
    candidate: HeadDrafter,
) -> Evaluation:
    """Both pools on the held-out requests, among everything else that was answered."""
    pool = _served_pool(settings, model)

    def compared(judged: Sequence[RequestFeatures], others: Sequence[TokenSequence]) -> Comparison:
        return evaluate.compare_pools(Traffic(judged=judged, others=others), parent, candidate, pool)

    return Evaluation(
        recent=compared(states.holdout, [*split.train, *split.validation]),
        base=None if base is None else compared(states.base_holdout, [*base.train, *base.validation]),
    )


def _served_pool(settings: TrainSettings, model: LoadedModel) -> ServedPool:
    return ServedPool(
        beside=settings.beside,
        draft_tokens=settings.draft_tokens,
        draft_tokens_max=settings.draft_tokens_max,
        vocab_size=model.config.vocab_size,
    )


def _train(
    settings: TrainSettings,
    model: LoadedModel,
    states: Features,
    split: data.Split,
    parent: HeadDrafter | None,
    *,
    tracker: Tracker,
    deadline: Deadline,
) -> Trained:
    runner = model.runner
    draft_token_ids = data.draft_vocabulary([*states.train, *states.validation], size=DRAFT_VOCABULARY)
    target = TargetRows(
        draft_token_ids=draft_token_ids,
        lm_head=runner.lm_head_rows(draft_token_ids),
        final_norm=runner.final_norm_weight(),
    )
    head = _new_head(settings, model, target, has_parent=parent is not None)
    others = data.newest(split.train, max_tokens=TAUGHT_TOKENS)
    pool, traffic = _served_pool(settings, model), Traffic(judged=states.validation, others=others)

    def judge(trained: RecurrentHead) -> float:
        drafter = HeadDrafter(name=settings.drafter, runner=runner)
        drafter.swap_in(serving_head(trained, draft_token_ids, runner, revision=settings.revision))
        drafts = evaluate.prepared(drafter, states.validation, draft_tokens=settings.draft_tokens)
        return evaluate.acceptance_length(evaluate.walks(traffic, drafts, pool))

    tracker.enter(TrainingPhase.TRAINING, f"{sum(p.numel() for p in head.parameters()):,} weights")
    outcome = loop.train(
        head,
        target=target,
        requests=states.train,
        embed=runner.embed,
        judge=judge,
        settings=loop.LoopSettings(
            unroll=settings.draft_tokens,
            max_epochs=num_epochs(sum(len(request.token_ids) for request in states.train)),
            rows_per_batch=ROWS_PER_BATCH,
            learning_rate=LEARNING_RATE * (WARM_START if parent is not None else 1.0),
            deadline=TRAINING_UNTIL * deadline.seconds,
            products=_products(),
        ),
        clock=deadline.elapsed,
        on_checkpoint=lambda checkpoint: _report(checkpoint, tracker),
    )
    return Trained(head=head, target=target, outcome=outcome)


def num_epochs(num_tokens: int) -> int:
    """How often so many emitted tokens are seen, at least once."""
    return max(1, min(MAX_EPOCHS, MAX_SEEN_TOKENS // num_tokens))


def _products() -> torch.dtype:
    """Bfloat16 where this processor multiplies pairs of it: elsewhere that is slower than float32."""
    best = next(iter(usable(cpu_features())), None)
    return torch.bfloat16 if best is not None and best.activations == "bfloat16" else torch.float32


def _report(checkpoint: loop.Checkpoint, tracker: Tracker) -> None:
    tracker.step(checkpoint.step, steps=checkpoint.steps, acceptance_length=round(checkpoint.acceptance_length, 3))
    logger.info(
        "step %d of %d: loss %.3f, acceptance length %.3f",
        checkpoint.step,
        checkpoint.steps,
        checkpoint.loss,
        checkpoint.acceptance_length,
    )


def _new_head(settings: TrainSettings, model: LoadedModel, target: TargetRows, *, has_parent: bool) -> RecurrentHead:
    """The parent's weights where there is one (they don't depend on the draft vocabulary), else fresh ones."""
    config = model.config
    torch.manual_seed(0)
    if has_parent and settings.parent_uri is not None:
        stored = artifact.read(
            resolve_uri(settings.parent_uri),
            max_bytes=largest_head_bytes(config),
            sha256=settings.parent_sha256,
            model_digest=model.digest,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
        )
        return artifact.build(stored, target)
    shape = HeadShape(
        hidden_size=config.hidden_size,
        intermediate_size=min(MOST_INTERMEDIATE, config.hidden_size),
        rms_norm_eps=config.rms_norm_eps,
    )
    return RecurrentHead(shape, target)


def _write(
    settings: TrainSettings,
    model: LoadedModel,
    staged: Path,
    trained: Trained,
    validation: Sequence[RequestFeatures],
) -> tuple[str, int]:
    selftest = features.selftest_of(validation)
    ids = trained.target.draft_token_ids
    serving = serving_head(trained.head, ids, model.runner, revision=settings.revision)
    shape = trained.head.shape
    config = artifact.HeadConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        draft_vocab_size=ids.numel(),
        rms_norm_eps=shape.rms_norm_eps,
        draft_tokens=settings.draft_tokens,
        target_model_digest=model.digest,
        target_vocab_size=model.config.vocab_size,
        target_eos_token_ids=model.config.eos_token_ids,
        revision=settings.revision,
        parent=settings.parent_revision,
        selftest_accuracy=accuracy(serving, selftest),
        confidence_temperature=calibration.fit_temperature(serving, validation, num_draft_tokens=settings.draft_tokens),
    )
    return artifact.write(staged, head=trained.head, config=config, draft_token_ids=ids, selftest=selftest)


def _window(traffic: CapturedTraffic, states: Features) -> DataWindow:
    used = [*states.train, *states.validation, *states.holdout]
    return DataWindow(
        start=traffic.requests[0].time,
        end=traffic.requests[-1].time,
        shards=traffic.shards,
        requests_train=len(states.train) + len(states.validation),
        requests_holdout=len(states.holdout),
        tokens=sum(len(request.prompt_token_ids) + len(request.token_ids) for request in used),
        unreadable_shards=len(traffic.unreadable),
    )


def _summary(evaluation: Evaluation, outcome: loop.Outcome) -> str:
    recent = evaluation.recent
    return (
        f"acceptance length {recent.incumbent.mean:.2f} without, {recent.candidate.mean:.2f} with the candidate: "
        f"{recent.gain.mean:+.1%} (95 % interval {recent.gain.low:+.1%} to {recent.gain.high:+.1%}) on "
        f"{recent.gain.requests} held-out requests; best at step {outcome.best.step} of {outcome.best.steps}, "
        f"stopped: {outcome.stopped}"
    )


def _first(traffic: CapturedTraffic) -> str:
    shard, reason = traffic.unreadable[0]
    return f"{shard}: {reason}"[:500]
