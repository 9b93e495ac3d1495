"""Scaled rotary frequencies are transformers' own, bit for bit, for lengths and bases that no family of ours has."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bowsprit_engine.core.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from bowsprit_engine.models.rope import inverse_frequencies
from tiny_models import tiny_config


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1e6])
@pytest.mark.parametrize(("factor", "original"), [(2.0, 512), (8.0, 8192), (32.0, 4096)])
def test_every_scaling_is_that_of_transformers(head_dim: int, theta: float, factor: float, original: int) -> None:
    """float32, with ramps that are cut at either end."""
    scalings = {
        "linear": LinearScaling(factor=factor),
        "llama3": Llama3Scaling(
            factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=original
        ),
        "yarn": YarnScaling(
            factor=factor,
            attention_factor=1.0,
            beta_fast=32.0,
            beta_slow=1.0,
            original_max_position_embeddings=original,
            truncate=True,
        ),
    }
    for name, scaling in scalings.items():
        parameters = {
            "rope_type": name,
            "rope_theta": theta,
            "factor": factor,
            **({"original_max_position_embeddings": original} if name != "linear" else {}),
            **({"low_freq_factor": 1.0, "high_freq_factor": 4.0} if name == "llama3" else {}),
        }
        theirs = LlamaConfig(
            head_dim=head_dim, rope_parameters=parameters, max_position_embeddings=int(original * factor)
        )
        expected, _ = ROPE_INIT_FUNCTIONS[name](theirs, torch.device("cpu"))
        ours = dataclasses.replace(tiny_config(), head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
        assert torch.equal(expected, inverse_frequencies(ours)), name
