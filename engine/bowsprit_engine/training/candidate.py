"""From a trained head to a candidate: its folder, and its figures beside the incumbent's.

Decides what is written and against whom it is judged. Refuses to know how the head was made and whether it is good
enough to serve (the operator's gate).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.speculation.drafters.head import HeadDrafter, accuracy
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training import artifact, calibration, evaluate, features
from bowsprit_engine.training.data import RequestRows, TokenSequence
from bowsprit_engine.training.evaluate import ServedPool, Traffic
from bowsprit_engine.training.features import Features
from bowsprit_engine.training.material import Material
from bowsprit_engine.training.teaching import Trained
from bowsprit_policy.wire import Comparison, Evaluation


@contextmanager
def staged_beside(output: Path) -> Iterator[Path]:
    """A name for a folder that doesn't outlive the block; one that a killed run left at this output is removed too."""
    left_by_a_run = re.compile(rf"\.{re.escape(output.name)}\.\d+\.tmp")
    for left in output.parent.glob(".*.tmp"):
        if left_by_a_run.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
    staged = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write(
    settings: TrainSettings, model: LoadedModel, staged: Path, trained: Trained, validation: Sequence[RequestRows]
) -> tuple[str, int]:
    """Fills `staged` but for the evaluation; returns sha256 and size of the weights file."""
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


def evaluated(
    states: Features, material: Material, pool: ServedPool, *, parent: HeadDrafter | None, candidate: HeadDrafter
) -> Evaluation:
    """Both pools on the held-out requests, among everything else that was answered."""

    def compared(judged: Sequence[RequestRows], others: Sequence[TokenSequence]) -> Comparison:
        return evaluate.compare_pools(Traffic(judged=judged, others=others), parent, candidate, pool)

    split, base = material.split, material.base
    return Evaluation(
        recent=compared(states.holdout, [*split.train, *split.validation]),
        base=None if base is None else compared(states.base_holdout, [*base.train, *base.validation]),
    )
