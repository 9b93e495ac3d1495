"""A target that a head can learn: the next token is a fixed permutation of the last one, and its state says so.

Like the fake model of `fakes.py` it reads its context from a paged cache, so that a wrong position changes its states.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from torch import Tensor

from bowsprit_engine.capture import schema
from bowsprit_engine.capture.schema import CapturedRequest
from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.models.runners import RunnerOptions
from bowsprit_engine.training.data import RequestFeatures, TokenSequence
from bowsprit_engine.training.head import TargetRows

VOCAB = 96
HIDDEN = 32
EPS = 1e-5
DIGEST = "c" * 64


class LearnableRunner:
    """Row state: the embedding of the token that follows, and a little of every token of the context."""

    is_row_invariant = True
    accelerator = "learnable"
    dtype = "float32"
    num_threads = 1

    def __init__(self) -> None:
        self.config = ModelConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=8,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=4,
            max_model_len=256,
            rms_norm_eps=EPS,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_ids=(VOCAB - 1,),
        )
        generator = torch.Generator().manual_seed(3)
        self.table = torch.randn(VOCAB, HIDDEN, generator=generator)
        self.following = torch.randperm(VOCAB, generator=generator).tolist()
        self.rows_run = 0

    def allocate_kv(self, num_blocks: int) -> None:
        self._cache = torch.zeros(num_blocks * BLOCK_SIZE, dtype=torch.int64)

    def kv_bytes_per_block(self) -> int:
        return 8 * BLOCK_SIZE

    def forward(self, batch: StepBatch) -> ModelOutput:
        self.rows_run += batch.token_ids.numel()
        positions = batch.positions.long()
        blocks = batch.block_tables.long()[batch.row_sequences.long(), positions // BLOCK_SIZE]
        self._cache[blocks * BLOCK_SIZE + positions % BLOCK_SIZE] = batch.token_ids
        slots = torch.arange(int(positions.max()) + 1)
        slots = batch.block_tables.long()[0][slots // BLOCK_SIZE] * BLOCK_SIZE + slots % BLOCK_SIZE
        seen = self.table[self._cache[slots]].double().cumsum(0)[positions] / (positions[:, None] + 1)
        following = self.table[torch.tensor(self.following)[batch.token_ids]]
        hidden = 4.0 * following + 0.2 * seen.float()
        return ModelOutput(logits=hidden[batch.logit_rows] @ self.table.T, hidden=hidden)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.table[token_ids]

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        return self.table[token_ids]

    def final_norm_weight(self) -> Tensor:
        return torch.ones(HIDDEN)


def answer(runner: LearnableRunner, first: int, length: int) -> tuple[int, ...]:
    """What the target emits after `first`."""
    tokens = [runner.following[first]]
    while len(tokens) < length:
        tokens.append(runner.following[tokens[-1]])
    return tuple(tokens)


def recorded(
    runner: LearnableRunner, count: int, *, seed: int = 0, length: int = 10, is_random: bool = False
) -> list[TokenSequence]:
    """Requests with different prompts; `is_random`: with responses that nothing can predict."""
    dice = random.Random(seed)
    requests = []
    for number in range(count):
        prompt = (number % VOCAB, *(dice.randrange(VOCAB) for _ in range(5)))
        response = (
            tuple(dice.randrange(VOCAB) for _ in range(length)) if is_random else answer(runner, prompt[-1], length)
        )
        requests.append(TokenSequence(prompt_token_ids=prompt, response_token_ids=response))
    return requests


def states_of(runner: LearnableRunner, request: TokenSequence) -> RequestFeatures:
    """Its true states, each request run by itself in a cache of its own, in one go."""
    tokens = [*request.prompt_token_ids, *request.response_token_ids[:-1]]
    num_blocks = -(-len(tokens) // BLOCK_SIZE)
    runner.allocate_kv(num_blocks)
    output = runner.forward(
        StepBatch(
            token_ids=torch.tensor(tokens),
            positions=torch.arange(len(tokens), dtype=torch.int32),
            row_sequences=torch.zeros(len(tokens), dtype=torch.int32),
            block_tables=torch.arange(num_blocks, dtype=torch.int32)[None],
            logit_rows=torch.empty(0, dtype=torch.int64),
        )
    )
    return RequestFeatures(
        prompt_token_ids=request.prompt_token_ids,
        token_ids=torch.tensor(request.response_token_ids),
        hidden=output.hidden[len(request.prompt_token_ids) - 1 :],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnableModel:
    """Stands for an opened model: its runner is there already."""

    runner: LearnableRunner
    digest: str = DIGEST

    @property
    def config(self) -> ModelConfig:
        return self.runner.config

    @property
    def options(self) -> RunnerOptions:
        return RunnerOptions(backend="torch", dtype=torch.float32, device=torch.device("cpu"), num_threads=1)

    def load(self) -> LoadedModel:
        return LoadedModel(runner=self.runner, config=self.config, tokenizer=None, digest=self.digest)


def target_rows(runner: LearnableRunner, token_ids: Tensor) -> TargetRows:
    return TargetRows(
        draft_token_ids=token_ids, lm_head=runner.lm_head_rows(token_ids), final_norm=runner.final_norm_weight()
    )


def write_shard(folder: Path, requests: Sequence[TokenSequence], *, digest: str = DIGEST) -> Path:
    """A shard as an engine's capture writes it."""
    start = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    rows = [
        CapturedRequest(
            time=start + timedelta(seconds=index),
            model_digest=digest,
            tenant="",
            prompt_token_ids=request.prompt_token_ids,
            response_token_ids=request.response_token_ids,
            accepted_counts=(),
            drafter_names=(),
            finish_reason="length",
            temperature=0.0,
        )
        for index, request in enumerate(requests)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / f"{uuid.uuid4()}-000000.parquet"
    shard.write_bytes(schema.encode(rows))
    return shard
