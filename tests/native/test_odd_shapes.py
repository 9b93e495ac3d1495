"""Shapes that fill no tile, drawn at random but always the same: the native step against the torch runner.

What is odd: heads per KV head beyond a pass, head sizes that are no multiple of 32, windows that begin and end within
a block, a vocabulary that is no multiple of 16, prompts that are cut anywhere, any number of threads.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from bowsprit_engine.core.runner import ModelConfig, StepBatch
from bowsprit_engine.kernels import native
from bowsprit_engine.models.native_runner import NativeRunner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, usable
from tiny_models import random_tokens, rows, tiny_config

NUM_BLOCKS = 12
BF16_ROUNDING = 2**-9  # of a value, at most


@pytest.fixture(params=[variant.name for variant in usable(cpu_features())], autouse=True)
def instruction_set(request, monkeypatch):
    """Every variant that this processor runs; another test's number of threads isn't left to the next."""
    monkeypatch.setenv(CHOSEN_VARIANT, request.param)
    yield
    native.set_num_threads(2)


class Bf16Weights(RandomCheckpoint):
    """What the native runner stores: every matrix rounded to bf16."""

    def tensor(self, name):
        tensor = super().tensor(name)
        return tensor.bfloat16().float() if tensor.ndim == 2 else tensor


def odd_config(chance: random.Random) -> ModelConfig:
    num_kv_heads, num_layers = chance.choice([1, 2, 3]), chance.choice([1, 2])
    config = tiny_config(
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * chance.choice([1, 2, 3, 5, 6, 7, 16, 17]),
        head_dim=chance.choice([16, 32, 48, 64, 80, 96, 112, 128]),
        hidden_size=16 * chance.randint(1, 5),
        intermediate_size=16 * chance.randint(1, 6),
        num_layers=num_layers,
        vocab_size=chance.choice([17, 33, 255, 256, 257, 300]),
        tie_word_embeddings=chance.random() < 0.5,
    )
    windows = tuple(chance.choice([None, 1, 2, 5, 15, 16, 17, 31, 33, 40]) for _ in range(num_layers))
    return dataclasses.replace(
        config,
        layer_windows=windows if chance.random() < 0.7 else (),
        qk_norm=chance.random() < 0.3,
        qkv_bias=chance.random() < 0.3,
        output_bias=chance.random() < 0.3,
        mlp_bias=chance.random() < 0.3,
    )


@pytest.mark.parametrize("seed", range(16))
def test_odd_shapes_cut_anywhere_are_computed_as_torch_does_and_keep_their_bits(seed):
    """Chunks on one to four threads within the roundings of bf16, and the whole in one step with the very same bits."""
    chance = random.Random(seed)
    config = odd_config(chance)
    checkpoint = Bf16Weights(Path("random"), config)
    reference = TorchRunner(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    runner, fresh = (NativeRunner(checkpoint, num_threads=2) for _ in range(2))
    for each in (reference, runner, fresh):
        each.allocate_kv(NUM_BLOCKS)
    tokens = random_tokens(chance.randint(2, 150), vocab_size=config.vocab_size, seed=seed)
    table = chance.sample(range(NUM_BLOCKS), 10)
    cuts = sorted(chance.sample(range(1, len(tokens)), min(len(tokens) - 1, chance.randint(0, 6))))
    expected = reference.forward(rows((tokens, 0, table))).logits

    whole = fresh.forward(rows((tokens, 0, table))).logits
    native.set_num_threads(chance.choice([1, 2, 3, 4]))
    chunks = zip([0, *cuts], [*cuts, len(tokens)], strict=True)
    in_chunks = torch.cat([runner.forward(rows((tokens[begin:end], begin, table))).logits for begin, end in chunks])

    rounds_activations = native.activation_dtype() == torch.bfloat16
    bound = BF16_ROUNDING * (config.num_layers * (8 if rounds_activations else 2) + rounds_activations)
    errors = (whole - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) <= bound
    assert torch.equal(whole, in_chunks)


def test_a_step_of_no_rows_is_empty():
    """Nothing is read, and nothing hangs for want of an item."""
    runner = NativeRunner(RandomCheckpoint(Path("random"), tiny_config()), num_threads=2)
    runner.allocate_kv(1)
    none = torch.empty(0, dtype=torch.int32)

    output = runner.forward(
        StepBatch(
            token_ids=none.long(),
            positions=none,
            row_sequences=none,
            block_tables=torch.zeros(0, 1, dtype=torch.int32),
            logit_rows=none.long(),
        )
    )

    assert (tuple(output.logits.shape), tuple(output.hidden.shape)) == ((0, 300), (0, 64))
