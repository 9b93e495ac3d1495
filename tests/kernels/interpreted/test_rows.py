"""Norm, rotation, activation and KV write: one row at a time, against their references at odd shapes."""

from __future__ import annotations

import pytest
import torch

from bowsprit_engine.kernels import kv_write, rms_norm, rotary, swiglu

# Arithmetic is float32 in both. To bf16 the interpreter truncates where torch and a GPU round: one place, 2^-7.
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5}}


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (2, 576), (5, 1023)])
def test_the_norm_adds_the_residual_and_keeps_the_sum(rows, width, dtype):
    """What is normed is the rounded sum, and the residual becomes it."""
    x, residual = normal(rows, width, dtype=dtype), normal(rows, width, dtype=dtype, seed=1)
    weight = normal(width, seed=2)
    expected, expected_sum = rms_norm.reference(x, weight, eps=1e-5, residual=residual)

    actual = rms_norm.rms_norm(x, weight, eps=1e-5, residual=residual)

    torch.testing.assert_close(actual, expected, rtol=4 * TOLERANCE[dtype]["rtol"], atol=1e-5)  # of a truncated sum
    torch.testing.assert_close(residual, expected_sum, **TOLERANCE[dtype])


def test_the_norm_without_a_residual_leaves_its_input():
    """The first norm of a step."""
    x, weight = normal(2, 50), normal(50, seed=2)
    before = x.clone()

    actual = rms_norm.rms_norm(x, weight, eps=1e-5)

    torch.testing.assert_close(actual, rms_norm.reference(x, weight, eps=1e-5)[0], **TOLERANCE[torch.float32])
    assert torch.equal(x, before)


def test_heads_are_normed_in_place_within_a_wider_row():
    """Query and key norms: only the named heads of the fused row change."""
    fused = normal(3, 7 * 24)
    heads = fused.view(3, 7, 24)[:, 2:5]
    expected, untouched = rms_norm.reference(heads.clone(), normal(24, seed=2), eps=1e-6)[0], fused[:, : 2 * 24].clone()

    rms_norm.norm_heads(heads, normal(24, seed=2), eps=1e-6)

    torch.testing.assert_close(heads, expected, **TOLERANCE[torch.float32])
    assert torch.equal(fused[:, : 2 * 24], untouched)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 90), (2, 1500)])
def test_the_activation_is_silu_of_the_gate_times_up(rows, width, dtype):
    """Widths below, at and over one program's block."""
    gate_up = 4 * normal(rows, 2 * width, dtype=dtype)

    torch.testing.assert_close(swiglu.swiglu(gate_up), swiglu.reference(gate_up), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 2), (9, 6), (12, 64)])
def test_heads_turn_by_their_rows_position(num_heads, head_dim, dtype):
    """Heads of a wider row; head counts and dimensions that fill no block."""
    fused = normal(4, (num_heads + 2) * head_dim, dtype=dtype)
    heads = fused.view(4, -1, head_dim)[:, :num_heads]
    positions = torch.tensor([0, 1, 99, 50], dtype=torch.int32)
    angles = torch.arange(100.0)[:, None] * normal(head_dim // 2, seed=3)
    cos, sin = angles.cos(), angles.sin()
    expected, untouched = rotary.reference(heads, positions, cos, sin), fused[:, num_heads * head_dim :].clone()

    rotary.rotate(heads, positions, cos, sin)

    torch.testing.assert_close(heads, expected, **TOLERANCE[dtype])
    assert torch.equal(fused[:, num_heads * head_dim :], untouched)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_keys_and_values_go_to_their_sequences_slots(dtype):
    """Bit for bit, and nowhere else."""
    fused = normal(5, 3 * 3 * 10, dtype=dtype).view(5, 9, 10)
    keys, values = fused[:, 3:6], fused[:, 6:]
    placed = {
        "positions": torch.tensor([15, 16, 17, 0, 40], dtype=torch.int32),
        "row_sequences": torch.tensor([0, 0, 0, 1, 2], dtype=torch.int32),
        "block_tables": torch.tensor([[4, 1, 0], [2, 0, 0], [5, 6, 3]], dtype=torch.int32),
    }
    expected, actual = torch.full((2, 2, 7 * 16, 3, 10), torch.nan, dtype=dtype)
    kv_write.reference(keys, values, cache=expected, **placed)

    kv_write.kv_write(keys, values, cache=actual, **placed)

    assert torch.isfinite(actual).sum() == 2 * 5 * 30
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swiglu.swiglu(torch.zeros(2, 3)), "even and contiguous"),
        (lambda: rms_norm.rms_norm(torch.zeros(1, 4), torch.zeros(5), eps=1e-5), "a weight of 5"),
        (lambda: rms_norm.rms_norm(torch.zeros(1, 20000), torch.zeros(20000), eps=1e-5), "at most 16384"),
        (
            lambda: rotary.rotate(torch.zeros(1, 2, 8), torch.zeros(1), torch.zeros(9, 3), torch.zeros(9, 3)),
            "heads of 8",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_values(call, message):
    """Before anything is launched."""
    with pytest.raises(ValueError, match=message):
        call()
