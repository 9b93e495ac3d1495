"""Writing a step's keys and values to the paged cache (Triton).

Formula: row r of sequence s at position t goes to slot table[s, t / 16] * 16 + t % 16. A copy: no arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE
from bowsprit_engine.kernels.launch import Build, Launch

# One program per row: 1,024 elements (8 heads of 128) are 8 per thread of 4 warps. On an H200 a layer's takes 2 µs, for
# 1 to 32 rows.
LAUNCH = Launch(block=1024, num_warps=4)


def reference(
    keys: Tensor,  # [rows, kv_heads, head_dim]
    values: Tensor,  # as keys
    *,
    cache: Tensor,  # [2, slots, kv_heads, head_dim], overwritten
    positions: Tensor,  # [rows] int32
    row_sequences: Tensor,  # [rows] int32
    block_tables: Tensor,  # [sequences, max_blocks] int32
) -> None:
    """The definition."""
    blocks = block_tables.long()[row_sequences.long(), positions.long() // BLOCK_SIZE]
    slots = blocks * BLOCK_SIZE + positions.long() % BLOCK_SIZE
    cache[0, slots], cache[1, slots] = keys, values


@triton.jit(do_not_specialize=["table_stride"])  # type: ignore[untyped-decorator]
def _kv_write_kernel(  # type: ignore[no-untyped-def]
    keys_ptr,  # [rows, width], rows `row_stride` apart
    values_ptr,  # as keys
    row_stride,
    key_cache_ptr,  # [slots, width]
    value_cache_ptr,  # [slots, width]
    positions_ptr,  # [rows] int32
    row_sequences_ptr,  # [rows] int32
    block_tables_ptr,  # [sequences, table_stride] int32
    table_stride,
    width,
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.cast(tl.program_id(0), tl.int64)
    position = tl.load(positions_ptr + row)
    sequence = tl.cast(tl.load(row_sequences_ptr + row), tl.int64)
    block = tl.load(block_tables_ptr + sequence * table_stride + position // BLOCK_SIZE)
    slot = tl.cast(block, tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    for begin in range(0, width, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        is_inside = columns < width
        key = tl.load(keys_ptr + row * row_stride + columns, mask=is_inside)
        value = tl.load(values_ptr + row * row_stride + columns, mask=is_inside)
        tl.store(key_cache_ptr + slot * width + columns, key, mask=is_inside)
        tl.store(value_cache_ptr + slot * width + columns, value, mask=is_inside)


def kv_write(
    keys: Tensor,  # [rows, kv_heads, head_dim]; rows may be apart, heads may not
    values: Tensor,  # as keys
    *,
    cache: Tensor,  # [2, slots, kv_heads, head_dim] contiguous, overwritten
    positions: Tensor,  # [rows] int32
    row_sequences: Tensor,  # [rows] int32
    block_tables: Tensor,  # [sequences, max_blocks] int32
) -> None:
    """`reference`. Raises ValueError for heads that aren't adjacent or a cache of another dtype or shape."""
    rows, num_heads, head_dim = keys.shape
    if keys.stride() != values.stride() or keys.stride(2) != 1 or keys.stride(1) != head_dim:
        raise ValueError(f"keys have strides {keys.stride()}, values {values.stride()}: equal, heads adjacent")
    if cache.shape[2:] != keys.shape[1:] or cache.dtype != keys.dtype or not cache.is_contiguous():
        raise ValueError(f"the cache is {cache.dtype} {tuple(cache.shape)}, keys {keys.dtype} {tuple(keys.shape)}")
    _kv_write_kernel[(rows,)](
        keys,
        values,
        keys.stride(0),
        cache[0],
        cache[1],
        positions,
        row_sequences,
        block_tables,
        block_tables.stride(0),
        num_heads * head_dim,
        BLOCK_SIZE=BLOCK_SIZE,
        BLOCK=LAUNCH.block,
        num_warps=LAUNCH.num_warps,
    )


BUILDS = (
    Build(
        name="kv_write",
        kernel=_kv_write_kernel,
        arguments={
            "keys_ptr": "*bf16:16",
            "values_ptr": "*bf16:16",
            "row_stride": "i32:16",
            "key_cache_ptr": "*bf16:16",
            "value_cache_ptr": "*bf16:16",
            "positions_ptr": "*i32:16",
            "row_sequences_ptr": "*i32:16",
            "block_tables_ptr": "*i32:16",
            "table_stride": "i32",
            "width": "i32:16",
        },
        constants={"BLOCK_SIZE": BLOCK_SIZE, "BLOCK": LAUNCH.block},
        num_warps=LAUNCH.num_warps,
    ),
)
