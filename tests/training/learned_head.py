"""A head that has learned the learnable target, and its folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from bowsprit_engine.speculation.drafters.head import accuracy
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training import artifact, loop
from bowsprit_engine.training.artifact import HeadConfig
from bowsprit_engine.training.features import selftest_of
from bowsprit_engine.training.head import HeadShape, RecurrentHead
from bowsprit_engine.training.loop import LoopSettings
from bowsprit_engine.training.loss import LossWeights
from training.learnable import DIGEST, EPS, HIDDEN, VOCAB, LearnableRunner, recorded, states_of, target_rows

DRAFT_TOKEN_IDS = torch.arange(0, VOCAB - 6)
SHAPE = HeadShape(hidden_size=HIDDEN, intermediate_size=64, rms_norm_eps=EPS)


def learned(runner: LearnableRunner) -> RecurrentHead:
    """Trained on 96 requests."""
    rising = itertools.count(1.0)  # the last weights are kept
    torch.manual_seed(0)
    head = RecurrentHead(SHAPE, target_rows(runner, DRAFT_TOKEN_IDS))
    loop.train(
        head,
        target=target_rows(runner, DRAFT_TOKEN_IDS),
        requests=[states_of(runner, request) for request in recorded(runner, 96)],
        embed=runner.embed,
        judge=lambda _: next(rising),
        settings=LoopSettings(loss=LossWeights(unroll=3), rows_per_batch=96, max_epochs=8, learning_rate=5e-3),
        clock=lambda: 0.0,
    )
    return head


def write(folder: Path, runner: LearnableRunner, head: RecurrentHead) -> tuple[str, int]:
    """Store it; returns sha256 and size of its weights file."""
    selftest = selftest_of([states_of(runner, request) for request in recorded(runner, 8, seed=5)])
    serving = serving_head(head, DRAFT_TOKEN_IDS, runner, revision="m-head-1")
    config = HeadConfig(
        hidden_size=HIDDEN,
        intermediate_size=64,
        draft_vocab_size=DRAFT_TOKEN_IDS.numel(),
        rms_norm_eps=EPS,
        draft_tokens=3,
        target_model_digest=DIGEST,
        target_vocab_size=VOCAB,
        target_eos_token_ids=(VOCAB - 1,),
        revision="m-head-1",
        parent=None,
        selftest_accuracy=accuracy(serving, selftest),
    )
    return artifact.write(folder, head=head, config=config, draft_token_ids=DRAFT_TOKEN_IDS, selftest=selftest)
