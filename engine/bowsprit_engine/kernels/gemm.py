"""Matrix product with a weight, for few rows, each row's bits independent of the others (Triton).

Formula: y[m, n] = sum over splits, ascending, of (sum over k of the split, ascending, of x[m, k] w[n, k]) + bias[n],
all in float32, rounded once. How K is split depends on the weight's shape alone. The tile over rows may be 16 to 128
wide and a split may have a program of its own or not: neither changes the order of a row's sum, so a row alone and a
row among 500 are equal (He et al., "Defeating Nondeterminism in LLM Inference", 2025, on why libraries' are not).

The weight is the product's left operand, so that its rows fill the matrix unit's 64 and the few rows of x its flexible
side: every tile width then runs the same instruction (resources.csv says which), as bitwise equality needs.

Words: a `tile` is 64 columns n by up to 128 rows m; the last program of a tile to arrive adds the splits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import TYPES, Build, dot_type

BLOCK_N = 64  # the matrix unit's own height (wgmma's M on sm_90); also what every tile width has in common
BLOCK_K = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows`: of x per program. `whole_k`: one program adds all splits, since there are programs enough without."""

    rows: int
    whole_k: bool
    num_warps: int
    num_stages: int


# Chosen without a GPU: stages so that one program has 24 to 48 kB of the weight in flight and its shared memory stays
# below the 100 kB at which two programs share a multiprocessor of sm_90. Over 4 warps the widest takes all registers
# (255) of sm_80, and Triton 3.6 spills 8 bytes on sm_100. To be measured with bench/gpu_check.py.
TILES = (
    Tile(rows=16, whole_k=False, num_warps=4, num_stages=5),
    Tile(rows=32, whole_k=False, num_warps=4, num_stages=5),
    Tile(rows=64, whole_k=False, num_warps=4, num_stages=4),
    Tile(rows=128, whole_k=True, num_warps=8, num_stages=3),
)
# Splits: until 64-column tiles of one row tile give two programs to each of about 128 multiprocessors.
WANTED_PROGRAMS = 256
MAX_SPLITS = 8
SHORTEST_SPLIT = 512


class Workspace:
    """What products of one stream share: a count of arrivals per tile, which every product leaves at zero."""

    def __init__(self, device: torch.device) -> None:
        self.arrivals = torch.zeros(MAX_TILES, dtype=torch.int32, device=device)


MAX_TILES = 65536


def num_splits(num_columns: int, depth: int) -> int:
    """Of K, from the weight's shape alone: never from the number of rows, on which no bit may depend."""
    splits = 1
    tiles = triton.cdiv(num_columns, BLOCK_N)
    while splits < MAX_SPLITS and tiles * splits < WANTED_PROGRAMS and depth >= 2 * splits * SHORTEST_SPLIT:
        splits *= 2
    return splits


def tile_for(num_rows: int) -> Tile:
    """The narrowest tile that holds the rows; the widest for more."""
    return next((tile for tile in TILES if num_rows <= tile.rows), TILES[-1])


def reference(
    x: Tensor,  # [rows, k]
    weight: Tensor,  # [n, k]
    *,
    bias: Tensor | None = None,  # [n]
    out_dtype: torch.dtype | None = None,  # x's unless given
) -> Tensor:  # [rows, n]
    """The definition, up to the order of sums."""
    y = x.float() @ weight.float().T
    return (y if bias is None else y + bias.float()).to(out_dtype or x.dtype)


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _gemm_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [rows, depth], rows `x_stride` apart
    x_stride,
    weight_ptr,  # [columns, depth]
    bias_ptr,  # [columns]
    out_ptr,  # [rows, columns]
    partial_ptr,  # [splits, rows, columns] float32
    arrivals_ptr,  # [tiles] int32, zeros; left at zero
    num_rows,
    num_columns,
    depth,
    split_depth,
    SPLITS: tl.constexpr,  # noqa: N803
    WHOLE_K: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    DOT_TYPE: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_K)
    is_column, is_row = columns < num_columns, rows < num_rows
    weight_rows = weight_ptr + columns.to(tl.int64)[:, None] * depth
    x_rows = x_ptr + rows.to(tl.int64)[None, :] * x_stride
    is_out = is_column[:, None] & is_row[None, :]
    at_out = rows.to(tl.int64)[None, :] * num_columns + columns[:, None]
    first_split = 0 if WHOLE_K else tl.program_id(2)
    end_split = SPLITS if WHOLE_K else first_split + 1

    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for split in range(first_split, end_split):
        part = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        split_end = tl.minimum((split + 1) * split_depth, depth)
        for begin in range(split * split_depth, split_end, BLOCK_K):
            k = begin + steps
            w = tl.load(weight_rows + k[None, :], mask=is_column[:, None] & (k[None, :] < split_end), other=0.0)
            x = tl.load(x_rows + k[:, None], mask=is_row[None, :] & (k[:, None] < split_end), other=0.0)
            part = tl.dot(w.to(DOT_TYPE), x.to(DOT_TYPE), part, input_precision="ieee")
        total += part

    is_last = True
    if not WHOLE_K and SPLITS > 1:
        plane = tl.cast(num_rows, tl.int64) * num_columns
        tl.store(partial_ptr + first_split * plane + at_out, total, mask=is_out)
        tl.debug_barrier()  # all threads' stores come before the one thread's release
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        is_last = tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if is_last:
            tl.debug_barrier()  # and that thread's acquire before all threads' loads
            total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
            for split in range(SPLITS):
                total += tl.load(partial_ptr + split * plane + at_out, mask=is_out, other=0.0, cache_modifier=".cg")
            tl.store(arrivals_ptr + tile, 0)
    if is_last:
        if HAS_BIAS:
            total += tl.load(bias_ptr + columns, mask=is_column, other=0.0).to(tl.float32)[:, None]
        tl.store(out_ptr + at_out, total.to(out_ptr.dtype.element_ty), mask=is_out)


def gemm(
    x: Tensor,  # [rows, k]; rows may be apart
    weight: Tensor,  # [n, k] contiguous, x's dtype
    *,
    workspace: Workspace,
    bias: Tensor | None = None,  # [n]
    out_dtype: torch.dtype | None = None,  # x's unless given
) -> Tensor:  # [rows, n]
    """`reference`, each row's bits a function of that row and the weight. Raises ValueError for shapes that don't fit.

    Products that share a workspace run one after another, on one stream.
    """
    num_rows, depth = x.shape
    num_columns = weight.shape[0]
    if weight.shape[1] != depth or weight.dtype != x.dtype or not weight.is_contiguous() or x.stride(1) != 1:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, the weight {weight.dtype} {tuple(weight.shape)}")
    tile, splits = tile_for(num_rows), num_splits(num_columns, depth)
    grid = (triton.cdiv(num_columns, BLOCK_N), triton.cdiv(num_rows, tile.rows), 1 if tile.whole_k else splits)
    if grid[0] * grid[1] > MAX_TILES:
        raise ValueError(
            f"{grid[0]} x {grid[1]} tiles of {num_columns} columns and {num_rows} rows: at most {MAX_TILES}"
        )
    out = torch.empty((num_rows, num_columns), dtype=out_dtype or x.dtype, device=x.device)
    has_partials = grid[2] > 1
    partials = torch.empty((splits, *out.shape), dtype=torch.float32, device=x.device) if has_partials else out
    _gemm_kernel[grid](
        x,
        x.stride(0),
        weight,
        weight if bias is None else bias,
        out,
        partials,
        workspace.arrivals,
        num_rows,
        num_columns,
        depth,
        triton.cdiv(triton.cdiv(depth, splits), BLOCK_K) * BLOCK_K,
        SPLITS=splits,
        WHOLE_K=tile.whole_k,
        HAS_BIAS=bias is not None,
        DOT_TYPE=dot_type(x.dtype),
        BLOCK_M=tile.rows,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def _build(tile: Tile, *, splits: int) -> Build:
    return Build(
        name=f"gemm of {tile.rows} rows, {splits} splits",
        kernel=_gemm_kernel,
        arguments={
            "x_ptr": "*bf16:16",
            "x_stride": "i32:16",
            "weight_ptr": "*bf16:16",
            "bias_ptr": "*bf16:16",
            "out_ptr": "*bf16:16",
            "partial_ptr": "*fp32:16",
            "arrivals_ptr": "*i32:16",
            "num_rows": "i32",
            "num_columns": "i32:16",
            "depth": "i32:16",
            "split_depth": "i32:16",
        },
        constants={
            "SPLITS": splits,
            "WHOLE_K": tile.whole_k,
            "HAS_BIAS": False,
            "DOT_TYPE": TYPES[torch.bfloat16],
            "BLOCK_M": tile.rows,
            "BLOCK_N": BLOCK_N,
            "BLOCK_K": BLOCK_K,
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


BUILDS = tuple(_build(tile, splits=4) for tile in TILES)
