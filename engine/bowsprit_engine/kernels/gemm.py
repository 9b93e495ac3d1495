"""Matrix product with a weight, for few rows, each row's bits independent of the others (Triton).

Formula: y[m, n] = sum over splits, ascending, of (sum over k of the split, ascending, of x[m, k] w[n, k]) + bias[n],
all in float32, rounded once. How K is split depends on the weight's shape alone. A tile may be 16 to 256 rows wide and
64 or 128 columns high, and a split may have a program of its own or not: none of it changes the order of a row's sum,
so a row alone and a row among 500 are equal (He et al., "Defeating Nondeterminism in LLM Inference", 2025, on why
libraries' are not).

The weight is the product's left operand, so that its rows fill the matrix unit's 64 and the few rows of x its flexible
side: every tile width then runs the same instruction (resources.csv says which), as bitwise equality needs.

Words: a `tile` is a program's part of the result, columns n by rows m; the last program of it adds the splits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import TYPES, Build, dot_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One program's part of the product: `rows` of x by `columns` of the result, `depth` of K at a time."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


# Chosen by a sweep on an H200 over Llama 3.1 8B's products (kernels/DESIGN.md has the table). For few rows as much of
# the weight in flight as two programs of a multiprocessor can hold; for many a wide tile, which reads x less often.
FEW_ROWS = (
    Tile(rows=16, columns=64, depth=128, num_warps=4, num_stages=4),
    Tile(rows=32, columns=64, depth=128, num_warps=4, num_stages=4),
    Tile(rows=64, columns=64, depth=128, num_warps=4, num_stages=3),
)
WIDE = Tile(rows=128, columns=128, depth=64, num_warps=8, num_stages=3)  # 65 to 128 rows, many columns
SQUARE = Tile(rows=128, columns=128, depth=64, num_warps=8, num_stages=4)  # more rows, few columns
LARGE = Tile(rows=256, columns=128, depth=64, num_warps=8, num_stages=3)  # more rows, many columns
TILES = (*FEW_ROWS, WIDE, SQUARE, LARGE)
MANY_COLUMNS = 128 * 132  # a wide tile for each multiprocessor of a large card
MOST_ROWS_IN_SPLITS = 256  # above, a program adds all splits of its tile: they are many without, and partial sums large
ROWS_OF_EACH_BUILD = (16, 32, 64, 128, 256, 257)  # between them these launch every kernel that a weight needs
# Splits, of the weight's 64-column tiles: as many programs as keep most multiprocessors busy, none with too long a sum.
LEAST_PROGRAMS = 96
WANTED_PROGRAMS = 256
MAX_SPLITS = 8
SHORTEST_SPLIT = 512
LONGEST_SPLIT = 4096
SPLIT_MULTIPLE = 256  # of every tile's depth: where a split begins is the same for all
MAX_TILES = 65536


class Workspace:
    """What products of one stream share: a count of arrivals per tile, which every product leaves at zero."""

    def __init__(self, device: torch.device) -> None:
        self.arrivals = torch.zeros(MAX_TILES, dtype=torch.int32, device=device)


def num_splits(num_columns: int, depth: int) -> int:
    """Of K, from the weight's shape alone: never from the number of rows, on which no bit may depend."""
    splits = 1
    tiles = triton.cdiv(num_columns, 64)
    while (
        (tiles * splits < LEAST_PROGRAMS or depth > splits * LONGEST_SPLIT)
        and splits < MAX_SPLITS
        and tiles * splits < WANTED_PROGRAMS
        and depth >= 2 * splits * SHORTEST_SPLIT
    ):
        splits *= 2
    return splits


def tile_for(num_rows: int, num_columns: int) -> Tile:
    """By the rows and by the programs that there are; changes no bit."""
    is_wide = num_columns >= MANY_COLUMNS
    if num_rows > WIDE.rows:
        return LARGE if is_wide else SQUARE
    if num_rows > FEW_ROWS[-1].rows:
        return WIDE if is_wide else FEW_ROWS[-1]
    return next(tile for tile in FEW_ROWS if num_rows <= tile.rows)


@functools.cache
def num_stages(tile: Tile, *, itemsize: int, device: torch.device) -> int:
    """Those of the tile, fewer where a program's shared memory would not hold them. Changes no bit."""
    if device.type != "cuda":
        return tile.num_stages
    most = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return max(1, min(tile.num_stages, most // ((tile.rows + tile.columns) * tile.depth * itemsize)))


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


@triton.jit  # type: ignore[untyped-decorator]
def _sum_of_split(  # type: ignore[no-untyped-def]
    weight_rows,  # [BLOCK_N, 1] pointers
    x_rows,  # [1, BLOCK_M] pointers
    is_column,
    is_row,
    begin,
    end,
    DOT_TYPE: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    part = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for first in range(begin, end, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        w = tl.load(weight_rows + k[None, :], mask=is_column[:, None] & (k[None, :] < end), other=0.0)
        x = tl.load(x_rows + k[:, None], mask=is_row[None, :] & (k[:, None] < end), other=0.0)
        part = tl.dot(w.to(DOT_TYPE), x.to(DOT_TYPE), part, input_precision="ieee")
    return part


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
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # neighbours share a tile of the weight
    is_column, is_row = columns < num_columns, rows < num_rows
    weight_rows = weight_ptr + columns.to(tl.int64)[:, None] * depth
    x_rows = x_ptr + rows.to(tl.int64)[None, :] * x_stride
    is_out = is_column[:, None] & is_row[None, :]
    at_out = rows.to(tl.int64)[None, :] * num_columns + columns[:, None]
    split = 0 if WHOLE_K else tl.program_id(2)
    is_last = True
    if WHOLE_K:
        total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        for own in range(SPLITS):
            end = tl.minimum((own + 1) * split_depth, depth)
            total += _sum_of_split(
                weight_rows, x_rows, is_column, is_row, own * split_depth, end, DOT_TYPE, BLOCK_M, BLOCK_N, BLOCK_K
            )
    else:
        end = tl.minimum((split + 1) * split_depth, depth)
        total = _sum_of_split(
            weight_rows, x_rows, is_column, is_row, split * split_depth, end, DOT_TYPE, BLOCK_M, BLOCK_N, BLOCK_K
        )
        if SPLITS > 1:
            plane = tl.cast(num_rows, tl.int64) * num_columns
            tl.store(partial_ptr + split * plane + at_out, total, mask=is_out)
            tl.debug_barrier()  # all threads' stores come before the one thread's release
            tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
            is_last = tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
            if is_last:
                tl.debug_barrier()  # and that thread's acquire before all threads' loads
                total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
                for own in range(SPLITS):
                    total += tl.load(partial_ptr + own * plane + at_out, mask=is_out, other=0.0, cache_modifier=".cg")
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
    tile, splits = tile_for(num_rows, num_columns), num_splits(num_columns, depth)
    tiles = triton.cdiv(num_rows, tile.rows), triton.cdiv(num_columns, tile.columns)
    whole_k = splits > 1 and num_rows > MOST_ROWS_IN_SPLITS
    grid = (*tiles, 1 if whole_k else splits)
    if grid[0] * grid[1] > MAX_TILES:
        raise ValueError(
            f"{tiles[0]} x {tiles[1]} tiles of {num_rows} rows and {num_columns} columns: at most {MAX_TILES}"
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
        triton.cdiv(triton.cdiv(depth, splits), SPLIT_MULTIPLE) * SPLIT_MULTIPLE,
        SPLITS=splits,
        WHOLE_K=whole_k,
        HAS_BIAS=bias is not None,
        DOT_TYPE=dot_type(x.dtype),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth * 2 // x.element_size(),
        num_warps=tile.num_warps,
        num_stages=num_stages(tile, itemsize=2, device=x.device),
    )
    return out


def _build(tile: Tile, *, splits: int, whole_k: bool = False) -> Build:
    return Build(
        name=f"gemm of {tile.rows} rows by {tile.columns} columns{', all splits' * whole_k}, {tile.num_stages} stages",
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
            "WHOLE_K": whole_k,
            "HAS_BIAS": False,
            "DOT_TYPE": TYPES[torch.bfloat16],
            "BLOCK_M": tile.rows,
            "BLOCK_N": tile.columns,
            "BLOCK_K": tile.depth,
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


BUILDS = (
    *(_build(tile, splits=4) for tile in (*FEW_ROWS, SQUARE)),
    *(_build(tile, splits=1) for tile in (WIDE, LARGE)),
    _build(SQUARE, splits=4, whole_k=True),
)
