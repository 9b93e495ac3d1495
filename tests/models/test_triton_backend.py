"""Asking for the Triton backend where it can't run."""

import pytest

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models import load_model
from bowsprit_engine.models.runners import RunnerOptions
from tiny_models import tiny_llama


def test_the_triton_backend_is_refused_without_a_gpu(tmp_path):
    """With the device that was asked for, before weights are read."""
    with pytest.raises(ModelError, match="the triton backend runs on a CUDA device, not on cpu") as refusal:
        load_model(tiny_llama(tmp_path), backend="triton")

    assert refusal.value.reason == "UnsupportedDevice"


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "expected"),
    [
        ("cuda", (9, 0), "bfloat16", "triton"),
        ("cuda", (8, 0), "float16", "triton"),
        ("cuda", (7, 5), "bfloat16", "torch"),
        ("cpu", None, "bfloat16", "native"),
        ("cpu", None, "float32", "torch"),
    ],
)
def test_the_fastest_backend_is_chosen_by_device_and_dtype(tmp_path, monkeypatch, device, capability, dtype, expected):
    """A card that the kernels are built for has them; who names none gets the fastest that runs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: capability)

    options = RunnerOptions.resolved(tmp_path, backend="auto", dtype=dtype, device=device, num_threads=None)

    assert options.backend == expected
