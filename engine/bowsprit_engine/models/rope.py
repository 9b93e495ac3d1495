"""Rotary position embedding tables (Su et al., "RoFormer"), in Hugging Face's half-split convention.

The only place that knows how frequencies are scaled: runners and kernels get finished tables. Formulas and their order
of operations are those of transformers' modeling_rope_utils.py, so that float32 tables are equal bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bowsprit_engine.core.rope_scaling import FrequencyFactors, LinearScaling, Llama3Scaling, YarnScaling
from bowsprit_engine.core.runner import ModelConfig


def rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:  # cos and sin, each [max_model_len, head_dim / 2]
    """float32: position times frequency; YaRN's attention factor is in both tables."""
    angles = torch.arange(config.max_model_len, dtype=torch.float32)[:, None] * inverse_frequencies(config)
    factor = attention_factor(config)
    return angles.cos() * factor, angles.sin() * factor


def rope_table_bytes(config: ModelConfig) -> int:
    """What `rope_tables` takes."""
    return 2 * config.max_model_len * (config.head_dim // 2) * torch.float32.itemsize


def attention_factor(config: ModelConfig) -> float:
    """What cos and sin are multiplied by; 1 but for YaRN."""
    return config.rope_scaling.attention_factor if isinstance(config.rope_scaling, YarnScaling) else 1.0


def inverse_frequencies(config: ModelConfig) -> Tensor:  # [head_dim / 2] float32, radians per position
    """theta ** (-2 i / head_dim), scaled as the model says."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    wavelengths = config.rope_theta**exponents
    match config.rope_scaling:
        case None:
            return 1.0 / wavelengths
        case LinearScaling(factor=factor):
            return 1.0 / wavelengths / factor
        case FrequencyFactors(divisors=divisors):
            return 1.0 / wavelengths / torch.tensor(divisors, dtype=torch.float32)
        case Llama3Scaling() as scaling:
            return _llama3(1.0 / wavelengths, scaling)
        case YarnScaling() as scaling:
            return _yarn(wavelengths, scaling, head_dim=config.head_dim, theta=config.rope_theta)


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    length = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    is_long, is_short = wavelengths > length / low, wavelengths < length / high
    stretched = torch.where(is_long, frequencies / scaling.factor, frequencies)
    smooth = (length / wavelengths - low) / (high - low)
    blended = (1 - smooth) * stretched / scaling.factor + smooth * stretched
    return torch.where(~is_short & ~is_long, blended, stretched)


def _yarn(wavelengths: Tensor, scaling: YarnScaling, *, head_dim: int, theta: float) -> Tensor:
    """`wavelengths` are theta ** (2 i / head_dim): kept where they turn often in the original length."""

    def dimension(rotations: float) -> float:
        """Of the frequency that turns so often within the original length."""
        length = scaling.original_max_position_embeddings
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept
