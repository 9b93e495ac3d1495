"""How a model stretches its rotary frequencies beyond the context that it was trained on: one value per method.

Decides which numbers each method has. The arithmetic over them is models/rope.py's; methods that depend on the
length of a sequence (dynamic NTK, LongRoPE) have no value here: keys that were cached at one length would be wrong at
another.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's: long wavelengths are divided by `factor`, short ones kept, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al., 2023). cos and sin are multiplied by `attention_factor`, which sharpens the softmax."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # the ramp begins and ends at whole dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class FrequencyFactors:
    """Each frequency has a divisor of its own: GGUF's `rope_freqs` tensor, which holds Llama 3.1's scaling."""

    divisors: tuple[float, ...]  # [head_dim / 2]


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | FrequencyFactors
