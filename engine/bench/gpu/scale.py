"""How large a check is: the model's shape and the grids that are measured. FULL is a card's, SMALL a test's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bowsprit_engine.core.rope_scaling import Llama3Scaling
from bowsprit_engine.core.runner import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`context`: tokens before a measured step. `acceptance`: per-token probabilities that a draft is right."""

    name: str
    config: ModelConfig
    dtype: torch.dtype
    check_rows: tuple[int, ...]
    copy_bytes: int
    rotated_bytes: int  # of weights that a timing goes through in turn, beyond any cache
    repeats: int
    batches: tuple[int, ...]
    rows_per_sequence: tuple[int, ...]
    context: int
    prompt_tokens: int
    answer_tokens: int
    decode_batches: tuple[int, ...]
    draft_tokens: tuple[int, ...]
    acceptance: tuple[float, ...]


def llama_3_1_8b(*, max_model_len: int, num_layers: int = 32) -> ModelConfig:
    """Its published shape, with a shorter length."""
    return ModelConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=num_layers,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_model_len=max_model_len,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        tie_word_embeddings=False,
        bos_token_id=128000,
        eos_token_ids=(),
        rope_scaling=Llama3Scaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        ),
    )


FULL = Scale(
    name="Llama 3.1 8B's shape",
    config=llama_3_1_8b(max_model_len=4096),
    dtype=torch.bfloat16,
    check_rows=(1, 7, 16, 33, 65, 200),
    copy_bytes=2**30,
    rotated_bytes=2**29,
    repeats=10,
    batches=(1, 2, 4, 8, 16, 32),
    rows_per_sequence=tuple(range(1, 17)),
    context=1024,
    prompt_tokens=512,
    answer_tokens=192,
    decode_batches=(1, 8, 32),
    draft_tokens=(4, 8),
    acceptance=(0.6, 0.8, 0.95),
)
# Enough to see whether it works at all, and how far off it is, in three minutes.
QUICK = replace(
    FULL,
    repeats=5,
    batches=(1, 8, 32),
    rows_per_sequence=(1, 5, 9, 16),
    answer_tokens=64,
    decode_batches=(1,),
    draft_tokens=(4,),
    acceptance=(0.8,),
)
SMALL = Scale(
    name="a small shape",
    config=ModelConfig(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=64,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_model_len=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(),
    ),
    dtype=torch.float32,
    check_rows=(1, 18),
    copy_bytes=2**12,
    rotated_bytes=2**12,
    repeats=1,
    batches=(1, 2),
    rows_per_sequence=(1, 3),
    context=20,
    prompt_tokens=6,
    answer_tokens=5,
    decode_batches=(2,),
    draft_tokens=(3,),
    acceptance=(0.7,),
)
# What neither shape has: bfloat16 rows that no 16 divides, groups of 3, norms of heads, biases, a window.
ODD = replace(
    SMALL,
    name="an odd shape",
    config=replace(
        SMALL.config,
        vocab_size=1003,
        hidden_size=204,
        intermediate_size=330,
        num_layers=2,
        num_heads=6,
        head_dim=40,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qk_norm=True,
        layer_windows=(7, None),
    ),
    dtype=torch.bfloat16,
    check_rows=(1, 18, 40, 130),
)
