"""A real engine over a tiny random model, behind the server under test: bytes are its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.runner import ModelOutput, StepBatch
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.models import load_model
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from scripted_engine import END, VOCAB_SIZE
from tiny_models import tiny_config, tiny_llama

MAX_MODEL_LEN = 96
BATCH = 8
POISON = 255  # no text has this byte: its rows have logits that are not finite, and no other row draws it


def tiny_runner(folder: Path) -> TorchRunner:
    """Of the scripted engine's vocabulary."""
    config = dataclasses.replace(tiny_config(vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN), eos_token_ids=(END,))
    loaded = load_model(
        tiny_llama(folder, config), dtype="float32", max_model_len=MAX_MODEL_LEN, backend="torch", num_threads=1
    )
    runner = loaded.runner
    assert isinstance(runner, TorchRunner)
    return runner


class Poisoned:
    """The runner, but for the rows of POISON."""

    def __init__(self, runner: TorchRunner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def forward(self, batch: StepBatch) -> ModelOutput:
        output = self._runner.forward(batch)
        bad = batch.token_ids[batch.logit_rows] == POISON
        logits = output.logits.masked_fill(bad[:, None], torch.nan)
        logits[:, POISON] -= 1000.0
        return dataclasses.replace(output, logits=logits)


def live_engine(
    runner: TorchRunner, *, kv_blocks: int = 2 * MAX_MODEL_LEN // 16, drafters: Sequence[Drafter] | None = None
) -> Engine:
    """Speculates; its cache holds two full sequences, so that a full batch is preempted now and then."""
    return Engine(
        runner=Poisoned(runner),  # type: ignore[arg-type]
        settings=EngineSettings(
            model_name="scripted",
            model_digest="d" * 64,
            max_batch_size=BATCH,
            max_model_len=MAX_MODEL_LEN,
            kv_blocks=kv_blocks,
            draft_tokens_max=4,
            prefill_chunk=32,
            speculation_mode=3,
        ),
        drafters=[NGramDrafter(name="ngram")] if drafters is None else drafters,
    )
