"""Asking for the Triton backend where it can't run."""

import pytest

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models import load_model
from tiny_models import tiny_llama


def test_the_triton_backend_is_refused_without_a_gpu(tmp_path):
    """With the device that was asked for, before weights are read."""
    with pytest.raises(ModelError, match="the triton backend runs on a CUDA device, not on cpu") as refusal:
        load_model(tiny_llama(tmp_path), backend="triton")

    assert refusal.value.reason == "UnsupportedDevice"
