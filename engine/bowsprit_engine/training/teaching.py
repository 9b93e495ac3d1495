"""From states to a trained head: its shape, where it begins, how often tokens are seen, and how many there is time for.

Decides the sizes of a run for a CPU. Refuses to know the optimizer (loop.py), files of the result, and the gate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.models.memory import DRAFT_VOCABULARY, MOST_INTERMEDIATE, largest_head_bytes
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.native.variants import cpu_features, usable
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training import artifact, data, evaluate, loop
from bowsprit_engine.training.data import RequestRows, Split
from bowsprit_engine.training.deadline import TRAINING_UNTIL, Deadline
from bowsprit_engine.training.evaluate import ServedPool, Traffic
from bowsprit_engine.training.features import Features
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from bowsprit_engine.training.loss import LossWeights
from bowsprit_engine.training.progress import Tracker
from bowsprit_policy.wire import TrainingPhase

logger = logging.getLogger(__name__)

# Sizes for a CPU, measured on SmolLM2-135M; see DESIGN.md beside this file.
MAX_EPOCHS = 6
MAX_SEEN_TOKENS = 300_000  # emitted tokens, repetitions included: with more traffic each is seen once
TOKENS_PER_VALIDATION = 100_000  # or an epoch, where that is less
ROWS_PER_BATCH = 256
LEARNING_RATE = 1.5e-3
TAUGHT_TOKENS = 20_000  # that look-up knows when weights are chosen: learning them again takes 0.2 s a validation
WARM_START = 0.3  # of the learning rate, on the parent's weights: at the full one they are forgotten first
SHARE_OF_TIME = 0.9  # of what is left for training, that tokens are counted for: the rest is validations


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained head, what it was chosen by, and what it learned from."""

    head: RecurrentHead
    target: TargetRows
    outcome: loop.Outcome
    requests: Sequence[RequestRows]


def train(
    settings: TrainSettings,
    model: LoadedModel,
    states: Features,
    split: Split,
    pool: ServedPool,
    *,
    has_parent: bool,
    tracker: Tracker,
    deadline: Deadline,
) -> Trained:
    """The head that the pool's acceptance length on validation requests chose."""
    runner = model.runner
    draft_token_ids = data.draft_vocabulary([*states.train, *states.validation], size=DRAFT_VOCABULARY)
    target = TargetRows(
        draft_token_ids=draft_token_ids,
        lm_head=runner.lm_head_rows(draft_token_ids),
        final_norm=runner.final_norm_weight(),
    )
    head = _new_head(settings, model, target, has_parent=has_parent)
    tracker.enter(TrainingPhase.TRAINING, f"{sum(p.numel() for p in head.parameters()):,} weights")
    num_tokens = sum(len(request.token_ids) for request in states.train)
    loop_settings = loop.LoopSettings(
        loss=LossWeights(unroll=settings.draft_tokens),
        max_epochs=num_epochs(num_tokens),
        rows_per_batch=ROWS_PER_BATCH,
        learning_rate=LEARNING_RATE * (WARM_START if has_parent else 1.0),
        validations_per_epoch=max(1, num_tokens // TOKENS_PER_VALIDATION),
        deadline=TRAINING_UNTIL * deadline.seconds,
        products=_products(),
    )
    requests: list[RequestRows] = list(states.train)
    if loop_settings.max_epochs == 1:
        seconds = loop.seconds_per_token(
            head, target=target, requests=requests, embed=runner.embed, settings=loop_settings, clock=deadline.elapsed
        )
        requests = in_time(requests, seconds_per_token=seconds, seconds=loop_settings.deadline - deadline.elapsed())
        logger.info(
            "%.2f ms a token: %d of %d requests are learned from", seconds * 1e3, len(requests), len(states.train)
        )
    outcome = loop.train(
        head,
        target=target,
        requests=requests,
        embed=runner.embed,
        judge=_judge(settings, model, states, split, pool, draft_token_ids),
        settings=loop_settings,
        clock=deadline.elapsed,
        on_checkpoint=lambda checkpoint: _report(checkpoint, tracker),
        on_step=lambda step, steps: tracker.step(step, steps=steps),
    )
    return Trained(head=head, target=target, outcome=outcome, requests=requests)


def num_epochs(num_tokens: int) -> int:
    """How often so many emitted tokens are seen, at least once."""
    return max(1, min(MAX_EPOCHS, MAX_SEEN_TOKENS // num_tokens))


def in_time(requests: list[RequestRows], *, seconds_per_token: float, seconds: float) -> list[RequestRows]:
    """The newest that can be seen once within so many seconds, in their order; at least one.

    Chance decides who comes first, so what the clock cuts off in the middle of a pass would be of any age.
    """
    left = seconds * SHARE_OF_TIME
    kept: set[int] = set()
    for index in sorted(range(len(requests)), key=lambda index: requests[index].arrival, reverse=True):
        left -= seconds_per_token * len(requests[index].token_ids)
        if kept and left < 0:
            break
        kept.add(index)
    return [request for index, request in enumerate(requests) if index in kept]


def _judge(
    settings: TrainSettings,
    model: LoadedModel,
    states: Features,
    split: Split,
    pool: ServedPool,
    draft_token_ids: torch.Tensor,
) -> Callable[[RecurrentHead], float]:
    others = data.newest(split.train, max_tokens=TAUGHT_TOKENS)
    traffic = Traffic(judged=states.validation, others=others)

    def judge(trained: RecurrentHead) -> float:
        drafter = HeadDrafter(name=settings.drafter, runner=model.runner)
        drafter.swap_in(serving_head(trained, draft_token_ids, model.runner, revision=settings.revision))
        drafts = evaluate.prepared(drafter, states.validation, draft_tokens=settings.draft_tokens)
        return evaluate.acceptance_length(evaluate.walks(traffic, drafts, pool))

    return judge


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
