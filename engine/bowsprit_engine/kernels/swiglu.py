"""SwiGLU: silu(gate) * up (Triton).

Formula, per element: g / (1 + exp(-g)) * u, in float32, rounded once. Gate and up are the halves of one row, as the
fused projection gives them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch

# 8 elements of bf16 (one 16-byte load) per thread of 4 warps.
LAUNCH = Launch(block=1024, num_warps=4)


def reference(
    gate_up: Tensor,  # [rows, 2 * width]
) -> Tensor:  # [rows, width]
    """The definition."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr,  # [rows, 2 * width]
    out_ptr,  # [rows, width]
    width,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.cast(tl.program_id(0), tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    gate_row = gate_up_ptr + row * 2 * width
    gate = tl.load(gate_row + columns, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(gate_row + width + columns, mask=is_inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=is_inside)


def swiglu(
    gate_up: Tensor,  # [rows, 2 * width] contiguous
) -> Tensor:  # [rows, width]
    """`reference`. Raises ValueError for an odd or strided row."""
    rows, both = gate_up.shape
    if both % 2 or not gate_up.is_contiguous():
        raise ValueError(f"gate_up is {tuple(gate_up.shape)} with strides {gate_up.stride()}: even and contiguous")
    out = torch.empty((rows, both // 2), dtype=gate_up.dtype, device=gate_up.device)
    grid = (rows, triton.cdiv(both // 2, LAUNCH.block))
    _swiglu_kernel[grid](gate_up, out, both // 2, BLOCK=LAUNCH.block, num_warps=LAUNCH.num_warps)
    return out


BUILDS = (
    Build(
        name="swiglu",
        kernel=_swiglu_kernel,
        arguments={"gate_up_ptr": "*bf16:16", "out_ptr": "*bf16:16", "width": "i32:16"},
        constants={"BLOCK": LAUNCH.block},
        num_warps=LAUNCH.num_warps,
    ),
)
