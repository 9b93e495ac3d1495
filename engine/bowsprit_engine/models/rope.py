"""Rotary position embedding tables (Su et al., "RoFormer"), in Hugging Face's half-split convention."""

from __future__ import annotations

import torch
from torch import Tensor

from bowsprit_engine.core.runner import ModelConfig


def rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:  # cos and sin, each [max_model_len, head_dim / 2]
    """float32 angles, as transformers computes them: position * theta ** (-2 i / head_dim)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    angles = torch.arange(config.max_model_len, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()
