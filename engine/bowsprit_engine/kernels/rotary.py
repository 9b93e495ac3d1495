"""Rotary position embedding of queries and keys, in place (Triton), in Hugging Face's half-split convention.

Formula, per head at position t, with halves a and b:  a' = a cos_t - b sin_t,  b' = b cos_t + a sin_t. Frequencies and
their scaling are the tables' (models/rope.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch

# `block`: heads per program: 8 heads of 128 are 4 pairs per thread of 4 warps. On an H200 a layer's takes 1.5 µs.
LAUNCH = Launch(block=8, num_warps=4)


def reference(
    heads: Tensor,  # [rows, heads, head_dim]
    positions: Tensor,  # [rows]
    cos: Tensor,  # [max_positions, head_dim / 2] float32
    sin: Tensor,  # as cos
) -> Tensor:  # as heads
    """The definition."""
    cosines, sines = cos[positions.long()][:, None], sin[positions.long()][:, None]
    first, second = heads.float().chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1).to(heads.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _rotary_kernel(  # type: ignore[no-untyped-def]
    heads_ptr,  # [rows, heads, 2 * half], rows `row_stride` apart; overwritten
    row_stride,
    positions_ptr,  # [rows] int32
    cos_ptr,  # [max_positions, half] float32
    sin_ptr,  # [max_positions, half] float32
    num_heads,
    half,
    BLOCK_HEADS: tl.constexpr,  # noqa: N803
    BLOCK_HALF: tl.constexpr,  # noqa: N803
):
    row = tl.cast(tl.program_id(0), tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pairs = tl.arange(0, BLOCK_HALF)
    position = tl.cast(tl.load(positions_ptr + row), tl.int64)
    cos = tl.load(cos_ptr + position * half + pairs, mask=pairs < half, other=0.0)[None, :]
    sin = tl.load(sin_ptr + position * half + pairs, mask=pairs < half, other=0.0)[None, :]
    first_ptr = heads_ptr + row * row_stride + heads[:, None] * (2 * half) + pairs[None, :]
    is_inside = (heads[:, None] < num_heads) & (pairs[None, :] < half)
    first = tl.load(first_ptr, mask=is_inside, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + half, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(first_ptr, (first * cos - second * sin).to(heads_ptr.dtype.element_ty), mask=is_inside)
    tl.store(first_ptr + half, (second * cos + first * sin).to(heads_ptr.dtype.element_ty), mask=is_inside)


def rotate(
    heads: Tensor,  # [rows, heads, head_dim], overwritten; rows may be apart, heads may not
    positions: Tensor,  # [rows] int32
    cos: Tensor,  # [max_positions, head_dim / 2] float32
    sin: Tensor,  # as cos
) -> None:
    """`reference`, in place. Raises ValueError for heads that aren't adjacent or tables that don't fit."""
    rows, num_heads, head_dim = heads.shape
    if heads.stride(2) != 1 or heads.stride(1) != head_dim:
        raise ValueError(f"heads have strides {heads.stride()}, a row's heads must be adjacent")
    if 2 * cos.shape[1] != head_dim or cos.dtype != torch.float32 or not (cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError(f"cos is {cos.dtype} {tuple(cos.shape)} for heads of {head_dim}: contiguous float32 halves")
    _rotary_kernel[(rows, triton.cdiv(num_heads, LAUNCH.block))](
        heads,
        heads.stride(0),
        positions,
        cos,
        sin,
        num_heads,
        head_dim // 2,
        BLOCK_HEADS=LAUNCH.block,
        BLOCK_HALF=triton.next_power_of_2(head_dim // 2),
        num_warps=LAUNCH.num_warps,
    )


BUILDS = (
    Build(
        name="rotary of heads of 128",
        kernel=_rotary_kernel,
        arguments={
            "heads_ptr": "*bf16:16",
            "row_stride": "i32:16",
            "positions_ptr": "*i32:16",
            "cos_ptr": "*fp32:16",
            "sin_ptr": "*fp32:16",
            "num_heads": "i32",
            "half": "i32:16",
        },
        constants={"BLOCK_HEADS": LAUNCH.block, "BLOCK_HALF": 64},
        num_warps=LAUNCH.num_warps,
    ),
)
