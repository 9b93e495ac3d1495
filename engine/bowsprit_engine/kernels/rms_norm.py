"""RMSNorm, with the residual addition before it (Triton).

Formula, per row: h = residual + x, rounded to the dtype that the residual is kept in;  y = h / sqrt(mean(h^2) + eps) *
weight. One program per row (or per head, for norms of queries and keys) holds the row whole, so its sum has one order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch

MAX_WIDTH = 16384  # a row lives in one program's registers: 32 elements per thread of 16 warps at this width


def reference(
    x: Tensor,  # [..., width]
    weight: Tensor,  # [width] float32
    *,
    eps: float,
    residual: Tensor | None = None,  # as x
) -> tuple[Tensor, Tensor]:  # normed, and residual + x, both in x's dtype
    """The definition."""
    total = x if residual is None else (residual.float() + x.float()).to(x.dtype)
    wide = total.float()
    inverse = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    return (wide * inverse * weight).to(x.dtype), total


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [rows, heads, width], rows `x_stride` apart, heads adjacent
    x_stride,
    residual_ptr,  # [rows, width]; read and overwritten with the sum
    weight_ptr,  # [width] float32
    out_ptr,  # as x, rows `out_stride` apart
    out_stride,
    num_heads,
    width,
    eps,
    HAS_RESIDUAL: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    program = tl.program_id(0)
    row = tl.cast(program // num_heads, tl.int64)
    head = program % num_heads
    columns = tl.arange(0, BLOCK)
    is_inside = columns < width
    x = tl.load(x_ptr + row * x_stride + head * width + columns, mask=is_inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual_row = residual_ptr + row * width + columns
        x += tl.load(residual_row, mask=is_inside, other=0.0).to(tl.float32)
        rounded = x.to(residual_ptr.dtype.element_ty)
        tl.store(residual_row, rounded, mask=is_inside)
        x = rounded.to(tl.float32)
    mean = tl.sum(x * x, axis=0) / width
    y = x * tl.rsqrt(mean + eps) * tl.load(weight_ptr + columns, mask=is_inside, other=0.0)
    tl.store(out_ptr + row * out_stride + head * width + columns, y.to(out_ptr.dtype.element_ty), mask=is_inside)


def launch_for(width: int) -> Launch:
    """By the row's width alone, so that the order of a row's sum is fixed.

    16 warps hold 4,096 at 8 per thread; with 8 warps ptxas spilled 8 bytes on sm_80.
    """
    block = max(triton.next_power_of_2(width), 16)
    return Launch(block=block, num_warps=max(1, min(block // 256, 16)))


def rms_norm(
    x: Tensor,  # [rows, width], rows adjacent
    weight: Tensor,  # [width] float32
    *,
    eps: float,
    residual: Tensor | None = None,  # [rows, width]; becomes residual + x
) -> Tensor:  # [rows, width]
    """`reference`'s first value; its second is written over `residual`. Raises ValueError for shapes that don't fit."""
    _check(x.shape[-1], weight)
    if residual is not None and (residual.shape != x.shape or not residual.is_contiguous()):
        raise ValueError(f"residual is {tuple(residual.shape)}, contiguous {tuple(x.shape)} is needed")
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x, weight, out, eps=eps, num_heads=1, residual=residual)
    return out


def norm_heads(
    heads: Tensor,  # [rows, heads, head_dim], overwritten; rows may be apart, heads may not
    weight: Tensor,  # [head_dim] float32
    *,
    eps: float,
) -> None:
    """`reference` of each head, in place (Qwen3's query and key norms)."""
    _check(heads.shape[-1], weight)
    if heads.stride(2) != 1 or heads.stride(1) != heads.shape[2]:
        raise ValueError(f"heads have strides {heads.stride()}, a row's heads must be adjacent")
    _launch(heads, weight, heads, eps=eps, num_heads=heads.shape[1], residual=None)


def _check(width: int, weight: Tensor) -> None:
    if width > MAX_WIDTH or weight.numel() != width or weight.dtype != torch.float32:
        raise ValueError(
            f"rows of {width} with a weight of {weight.numel()} {weight.dtype}: at most {MAX_WIDTH}, float32"
        )


def _launch(x: Tensor, weight: Tensor, out: Tensor, *, eps: float, num_heads: int, residual: Tensor | None) -> None:
    width = x.shape[-1]
    chosen = launch_for(width)
    _rms_norm_kernel[(x.shape[0] * num_heads,)](
        x,
        x.stride(0),
        x if residual is None else residual,
        weight,
        out,
        out.stride(0),
        num_heads,
        width,
        eps,
        HAS_RESIDUAL=residual is not None,
        BLOCK=chosen.block,
        num_warps=chosen.num_warps,
    )


def _build(name: str, *, width: int, has_residual: bool) -> Build:
    chosen = launch_for(width)
    return Build(
        name=name,
        kernel=_rms_norm_kernel,
        arguments={
            "x_ptr": "*bf16:16",
            "x_stride": "i32:16",
            "residual_ptr": "*bf16:16",
            "weight_ptr": "*fp32:16",
            "out_ptr": "*bf16:16",
            "out_stride": "i32:16",
            "num_heads": "i32",
            "width": "i32:16",
            "eps": "fp32",
        },
        constants={"HAS_RESIDUAL": has_residual, "BLOCK": chosen.block},
        num_warps=chosen.num_warps,
    )


BUILDS = (
    _build("rms_norm 4096 + residual", width=4096, has_residual=True),
    _build("rms_norm of heads of 128", width=128, has_residual=False),
)
