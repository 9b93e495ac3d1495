"""One training run: captured traffic in, an evaluated speculator's folder out.

Decides the order, and what is refused before a weight is read. Refuses to know signals, ports and the termination
message (job.py) and whether the result is good enough to serve (the operator's gate).
"""

from __future__ import annotations

import logging

import torch

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.core.memory_budget import MemorySum, readable
from bowsprit_engine.models import LoadedModel, OpenedModel, open_model
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.server.memory_limit import memory_limit
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.training import artifact, candidate, features, loop, material, memory_plan, selection, teaching
from bowsprit_engine.training.deadline import Deadline
from bowsprit_engine.training.evaluate import ServedPool
from bowsprit_engine.training.progress import Tracker
from bowsprit_engine.training.selection import Chosen
from bowsprit_engine.training.states import StateFile
from bowsprit_policy.wire import Artifact, Evaluation, TrainingPhase, TrainingResult

logger = logging.getLogger(__name__)


def run(settings: TrainSettings, *, tracker: Tracker, deadline: Deadline) -> TrainingResult:
    """The whole run. Raises WorldError with a reason, naming the path or the two numbers, for whatever stops it."""
    torch.set_num_threads(settings.threads)
    tracker.enter(TrainingPhase.LOADING, f"loading {settings.model}")
    opened = open_model(resolve_uri(settings.model), num_threads=settings.threads)
    captured_tokens = material.tokens_to_gather(settings, digest=opened.digest)
    _memory(settings, opened, captured_tokens=captured_tokens).check()  # by what is known before it is read
    gathered = material.gather(settings, opened.config, digest=opened.digest)
    memory = _memory(settings, opened, captured_tokens=gathered.captured_tokens, chosen=gathered.chosen)
    memory.check()
    logger.info("memory: %s of %s: %s", readable(memory.num_bytes), readable(memory.limit.num_bytes), memory)
    output = resolve_uri(settings.output_uri)
    state_bytes = gathered.chosen.state_bytes(opened.config.hidden_size)
    pool = ServedPool(
        beside=settings.beside,
        draft_tokens=settings.draft_tokens,
        draft_tokens_max=settings.draft_tokens_max,
        vocab_size=opened.config.vocab_size,
    )
    with (
        StateFile(settings.scratch_dir or output.parent, num_bytes=state_bytes) as file,
        candidate.staged_beside(output) as staged,
    ):
        model = opened.load()
        parent = _parent(settings, model)
        total = len(gathered.chosen.judging) + len(gathered.chosen.train)
        what = f"the target's states of {total} requests, {readable(state_bytes)}"
        tracker.enter(TrainingPhase.FEATURES, what, steps=total)
        states = features.compute(model.runner, gathered.chosen, file, deadline=deadline, on_request=tracker.step)
        trained = teaching.train(
            settings,
            model,
            states,
            gathered.split,
            pool,
            has_parent=parent is not None,
            tracker=tracker,
            deadline=deadline,
        )
        tracker.enter(TrainingPhase.EVALUATING, f"{len(states.holdout)} held-out requests")
        sha256, size = candidate.write(settings, model, staged, trained, states.validation)
        drafter = HeadDrafter(name=settings.drafter, runner=model.runner)
        drafter.swap_in(drafter.load_unproven(staged, sha256, settings.revision, model.digest))
        evaluation = candidate.evaluated(states, gathered, pool, parent=parent, candidate=drafter)
        artifact.publish(staged, output, evaluation)
    tracker.enter(TrainingPhase.DONE, _summary(evaluation, trained.outcome))
    return TrainingResult(
        succeeded=True,
        reason="Evaluated",
        message=f"{_summary(evaluation, trained.outcome)}; {len(trained.requests)} requests trained",
        model_digest=model.digest,
        drafter=settings.drafter,
        revision=settings.revision,
        parent=settings.parent_revision,
        artifact=Artifact(uri=settings.output_uri, sha256=sha256, bytes=size),
        data=material.used(gathered, states, trained.requests),
        evaluation=evaluation,
        seconds=round(deadline.elapsed(), 1),
    )


def _memory(
    settings: TrainSettings, opened: OpenedModel, *, captured_tokens: int, chosen: Chosen | None = None
) -> MemorySum:
    """What the run takes; without `chosen`, what it takes at least."""
    return memory_plan.plan_memory(
        opened.config,
        itemsize=opened.options.dtype.itemsize,
        longest=1 if chosen is None else chosen.longest,
        captured_tokens=captured_tokens,
        judged_tokens=0 if chosen is None else selection.num_tokens(chosen.judging),
        trained_tokens=0 if chosen is None else selection.num_tokens(chosen.train),
        rows_per_batch=teaching.ROWS_PER_BATCH,
        draft_tokens=settings.draft_tokens,
        limit=memory_limit("cpu"),
    )


def _parent(settings: TrainSettings, model: LoadedModel) -> HeadDrafter | None:
    """The incumbent, loaded as an engine would load it."""
    if settings.parent_uri is None:
        return None
    drafter = HeadDrafter(name=settings.drafter, runner=model.runner)
    revision = settings.parent_revision or "parent"
    drafter.swap_in(drafter.load(resolve_uri(settings.parent_uri), settings.parent_sha256, revision, model.digest))
    return drafter


def _summary(evaluation: Evaluation, outcome: loop.Outcome) -> str:
    recent = evaluation.recent
    return (
        f"acceptance length {recent.incumbent.mean:.2f} without, {recent.candidate.mean:.2f} with the candidate: "
        f"{recent.gain.mean:+.1%} (95 % interval {recent.gain.low:+.1%} to {recent.gain.high:+.1%}) on "
        f"{recent.gain.requests} held-out requests; best at step {outcome.best.step} of {outcome.best.steps}, "
        f"stopped: {outcome.stopped}"
    )
