"""Attention over the paged KV cache for ragged mixes of prefill, decode and verify rows (Triton).

Formula, per row at position t and query head h over its KV head:  softmax over keys j in (t - window, t] of q.k_j /
sqrt(head_dim), times v_j. Keys are cut at multiples of SPLIT from position 0. A split's (maximum, sum, sum of values)
is computed in blocks of BLOCK_K keys ascending, and splits are merged ascending (Milakov and Gimelshein's online
softmax; Dao's flash-decoding). Both cuts are positions, never counts of rows or programs, so a row's bits depend on its
own position only; keys that a row doesn't see add exact zeros to it.

Rows of one sequence share a pass over the keys: a `tile` is TILE queries, the row's query heads of one KV head by as
many adjacent rows as fit (16 for groups of 4: all rows of a draft of 15). Few rows: a program per split, then a merge.
Many rows: a program walks its splits and merges as it goes, in the same arithmetic (fusion of multiply and add is off,
else two kernels could round differently).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE
from bowsprit_engine.kernels.launch import TYPES, Build, dot_type

# By a sweep on an H200 (kernels/DESIGN.md): 64 queries are the height of the matrix unit on sm_90 and sm_100; splits of
# 128 keys are faster for one short sequence, of 256 for all else; blocks of 64 keys would be 1 to 4 % of a step faster
# for some batches, and spill registers.
TILE = 64
BLOCK_K = 32
SPLIT = 256
WALK_ABOVE = 128  # rows; there are programs enough without splits
NUM_WARPS = 4  # of both kernels: a sum over keys is split among warps, and must be so in the same way
NUM_STAGES = 2
OPTIONS = {"enable_fp_fusion": False}
LOG2_E = math.log2(math.e)


def reference(
    q: Tensor,  # [rows, heads, head_dim]
    cache: Tensor,  # [2, slots, kv_heads, head_dim]
    *,
    positions: Tensor,  # [rows] int32
    row_sequences: Tensor,  # [rows] int32
    block_tables: Tensor,  # [sequences, max_blocks] int32
    window: int | None = None,  # most keys that a row sees, its own included
) -> Tensor:  # as q
    """The definition."""
    num_kv_heads = cache.shape[2]
    out = torch.empty_like(q)
    for row, (position, sequence) in enumerate(zip(positions.tolist(), row_sequences.tolist(), strict=True)):
        first = 0 if window is None else max(0, position - window + 1)
        seen = torch.arange(first, position + 1, device=q.device)
        slots = block_tables[sequence].long()[seen // BLOCK_SIZE] * BLOCK_SIZE + seen % BLOCK_SIZE
        keys, values = cache[0, slots].float(), cache[1, slots].float()
        grouped = q[row].float().reshape(num_kv_heads, -1, q.shape[2]) * q.shape[2] ** -0.5
        weights = torch.einsum("ghd,cgd->ghc", grouped, keys).softmax(dim=-1)
        out[row] = torch.einsum("ghc,cgd->ghd", weights, values).reshape(q.shape[1:]).to(q.dtype)
    return out


@triton.jit
def _merge(maximum, denominator, values, other_maximum, other_denominator, other_values):  # type: ignore[no-untyped-def]
    """Adds a later split's softmax to an earlier one's; one without keys (maximum -inf) changes nothing."""
    top = tl.maximum(maximum, other_maximum)
    base = tl.where(top == -float("inf"), 0.0, top)
    scale = tl.exp2(maximum - base)
    other_scale = tl.exp2(other_maximum - base)
    if len(values.shape) == 2:
        values = values * scale[:, None] + other_values * other_scale[:, None]
    else:
        values = values * scale + other_values * other_scale
    return top, denominator * scale + other_denominator * other_scale, values


@triton.jit  # type: ignore[untyped-decorator]
def _attend_split(  # type: ignore[no-untyped-def]
    q,  # [TILE, HEAD_BLOCK]
    positions,  # [TILE] int32
    first_key,
    end_key,
    keys_ptr,  # of this KV head; slots `slot_stride` apart
    values_ptr,
    slot_stride,
    table_ptr,  # of this sequence
    head_dim,
    scale,
    window,
    HAS_WINDOW: tl.constexpr,  # noqa: N803
    DOT_TYPE: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    HEAD_BLOCK: tl.constexpr,  # noqa: N803
):
    dims = tl.arange(0, HEAD_BLOCK)
    maximum = tl.full((TILE,), -float("inf"), dtype=tl.float32)
    denominator = tl.zeros((TILE,), dtype=tl.float32)
    accumulated = tl.zeros((TILE, HEAD_BLOCK), dtype=tl.float32)
    for begin in range(first_key, end_key, BLOCK_K):
        at = begin + tl.arange(0, BLOCK_K)
        is_key = at < end_key
        slots = tl.load(table_ptr + at // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64) * BLOCK_SIZE + at % BLOCK_SIZE
        offsets = slots[:, None] * slot_stride + dims[None, :]
        is_inside = is_key[:, None] & (dims[None, :] < head_dim)
        keys = tl.load(keys_ptr + offsets, mask=is_inside, other=0.0).to(DOT_TYPE)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
        is_seen = at[None, :] <= positions[:, None]  # so is_key: no row stands after the last key
        if HAS_WINDOW:
            is_seen = is_seen & (at[None, :] > positions[:, None] - window)
        scores = tl.where(is_seen, scores, -float("inf"))
        top = tl.maximum(maximum, tl.max(scores, axis=1))
        base = tl.where(top == -float("inf"), 0.0, top)
        weights = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(maximum - base)
        denominator = denominator * rescale + tl.sum(weights, axis=1)
        values = tl.load(values_ptr + offsets, mask=is_inside, other=0.0).to(DOT_TYPE)
        accumulated = tl.dot(weights.to(DOT_TYPE), values, accumulated * rescale[:, None], input_precision="ieee")
        maximum = top
    return maximum, denominator, accumulated


@triton.jit(do_not_specialize=["table_stride", "num_rows", "num_splits", "window"])  # type: ignore[untyped-decorator]
def _attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr,  # [rows, heads, head_dim], rows `q_stride` apart
    q_stride,
    key_cache_ptr,  # [slots, kv_heads, head_dim]
    value_cache_ptr,
    slot_stride,
    positions_ptr,  # [rows] int32
    row_sequences_ptr,  # [rows] int32
    run_starts_ptr,  # [rows] int32, first row of the row's sequence
    block_tables_ptr,  # [sequences, table_stride] int32
    table_stride,
    out_ptr,  # [rows, heads, head_dim], written where WALK
    maxima_ptr,  # [rows, heads, splits] float32, written where not WALK
    denominators_ptr,  # as maxima
    values_ptr,  # [rows, heads, splits, head_dim] float32
    num_rows,
    num_splits,
    head_dim,
    scale,  # log2(e) / sqrt(head_dim)
    window,
    WALK: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    HAS_WINDOW: tl.constexpr,  # noqa: N803
    DOT_TYPE: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    SPLIT: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    HEAD_BLOCK: tl.constexpr,  # noqa: N803
):
    leader = tl.program_id(0)
    kv_head = tl.program_id(1)
    num_heads = tl.num_programs(1) * GROUP
    tile_rows: tl.constexpr = TILE // GROUP
    sequence = tl.load(row_sequences_ptr + leader)
    is_leader = (leader - tl.load(run_starts_ptr + leader)) % tile_rows == 0

    queries = tl.arange(0, TILE)
    rows = leader + queries // GROUP
    heads = kv_head * GROUP + queries % GROUP
    is_query = (queries < tile_rows * GROUP) & (rows < num_rows)
    is_query = is_query & (tl.load(row_sequences_ptr + rows, mask=is_query, other=-1) == sequence)
    positions = tl.load(positions_ptr + rows, mask=is_query, other=-1)
    last = tl.max(positions, axis=0)
    lowest = 0
    if HAS_WINDOW:
        lowest = tl.maximum(tl.load(positions_ptr + leader) - window + 1, 0)  # rows ascend: the leader is the earliest
        lowest = lowest // BLOCK_K * BLOCK_K
    first_split = lowest // SPLIT if WALK else tl.program_id(2)
    end_split = last // SPLIT + 1 if WALK else first_split + 1
    is_wanted = is_leader & (first_split * SPLIT <= last) & (end_split * SPLIT > lowest)

    if is_wanted:
        dims = tl.arange(0, HEAD_BLOCK)
        is_inside = is_query[:, None] & (dims[None, :] < head_dim)
        q_offsets = rows.to(tl.int64)[:, None] * q_stride + heads[:, None] * head_dim + dims[None, :]
        q = tl.load(q_ptr + q_offsets, mask=is_inside, other=0.0).to(DOT_TYPE)
        table_ptr = block_tables_ptr + sequence.to(tl.int64) * table_stride
        head_offset = kv_head * head_dim
        maximum = tl.full((TILE,), -float("inf"), dtype=tl.float32)
        denominator = tl.zeros((TILE,), dtype=tl.float32)
        values = tl.zeros((TILE, HEAD_BLOCK), dtype=tl.float32)
        for split in range(first_split, end_split):
            split_maximum, split_denominator, split_values = _attend_split(
                q,
                positions,
                tl.maximum(split * SPLIT, lowest),
                tl.minimum((split + 1) * SPLIT, last + 1),
                key_cache_ptr + head_offset,
                value_cache_ptr + head_offset,
                slot_stride,
                table_ptr,
                head_dim,
                scale,
                window,
                HAS_WINDOW,
                DOT_TYPE,
                TILE,
                BLOCK_K,
                BLOCK_SIZE,
                HEAD_BLOCK,
            )
            if WALK:
                maximum, denominator, values = _merge(
                    maximum, denominator, values, split_maximum, split_denominator, split_values
                )
            else:
                maximum, denominator, values = split_maximum, split_denominator, split_values
        at = rows.to(tl.int64) * num_heads + heads
        if WALK:
            out = values / denominator[:, None]
            out_offsets = at[:, None] * head_dim + dims[None, :]
            tl.store(out_ptr + out_offsets, out.to(out_ptr.dtype.element_ty), mask=is_inside)
        else:
            cell = at * num_splits + first_split
            tl.store(maxima_ptr + cell, maximum, mask=is_query)
            tl.store(denominators_ptr + cell, denominator, mask=is_query)
            tl.store(values_ptr + cell[:, None] * head_dim + dims[None, :], values, mask=is_inside)


@triton.jit(do_not_specialize=["num_splits", "window"])  # type: ignore[untyped-decorator]
def _merge_kernel(  # type: ignore[no-untyped-def]
    maxima_ptr,  # [rows, heads, splits] float32
    denominators_ptr,
    values_ptr,  # [rows, heads, splits, head_dim] float32
    positions_ptr,  # [rows] int32
    out_ptr,  # [rows, heads, head_dim]
    num_splits,
    head_dim,
    window,
    HAS_WINDOW: tl.constexpr,  # noqa: N803
    SPLIT: tl.constexpr,  # noqa: N803
    HEAD_BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    at = tl.cast(row, tl.int64) * tl.num_programs(1) + tl.program_id(1)
    position = tl.load(positions_ptr + row)
    dims = tl.arange(0, HEAD_BLOCK)
    first_split = 0
    if HAS_WINDOW:
        first_split = tl.maximum(position - window + 1, 0) // SPLIT
    maximum = -float("inf")
    denominator = 0.0
    values = tl.zeros((HEAD_BLOCK,), dtype=tl.float32)
    for split in tl.range(first_split, position // SPLIT + 1, num_stages=4):
        cell = at * num_splits + split
        split_values = tl.load(values_ptr + cell * head_dim + dims, mask=dims < head_dim, other=0.0)
        maximum, denominator, values = _merge(
            maximum, denominator, values, tl.load(maxima_ptr + cell), tl.load(denominators_ptr + cell), split_values
        )
    tl.store(out_ptr + at * head_dim + dims, (values / denominator).to(out_ptr.dtype.element_ty), mask=dims < head_dim)


def run_starts(
    row_sequences: Tensor,  # [rows] int32, a sequence's rows adjacent
) -> Tensor:  # [rows] int32
    """First row of each row's sequence, on the device and in shapes that are known on the host."""
    rows = torch.arange(row_sequences.numel(), dtype=torch.int32, device=row_sequences.device)
    begins = torch.ones_like(row_sequences, dtype=torch.bool)
    begins[1:] = row_sequences[1:] != row_sequences[:-1]
    return torch.cummax(torch.where(begins, rows, 0), dim=0).values.to(torch.int32)


def attention(
    q: Tensor,  # [rows, heads, head_dim]; rows may be apart, heads may not
    cache: Tensor,  # [2, slots, kv_heads, head_dim] contiguous
    *,
    positions: Tensor,  # [rows] int32, ascending within a sequence
    row_sequences: Tensor,  # [rows] int32
    starts: Tensor,  # [rows] int32, of run_starts
    block_tables: Tensor,  # [sequences, max_blocks] int32
    window: int | None = None,
    walk_above: int = WALK_ABOVE,
) -> Tensor:  # [rows, heads, head_dim] contiguous
    """`reference`. The keys and values of the rows themselves are in the cache. Raises ValueError for odd layouts.

    `walk_above`: rows from which on programs walk their splits; either way the same bits.
    """
    num_rows, num_heads, head_dim = q.shape
    num_kv_heads = cache.shape[2]
    group = num_heads // num_kv_heads
    if num_heads % num_kv_heads or group > TILE or cache.shape[3] != head_dim or not cache.is_contiguous():
        raise ValueError(f"q is {tuple(q.shape)}, the cache {tuple(cache.shape)}: groups of at most {TILE} heads")
    if q.stride(2) != 1 or q.stride(1) != head_dim:
        raise ValueError(f"q has strides {q.stride()}, a row's heads must be adjacent")
    walk = num_rows > walk_above
    splits = 1 if walk else triton.cdiv(block_tables.shape[1] * BLOCK_SIZE, SPLIT)
    out = torch.empty((num_rows, num_heads, head_dim), dtype=q.dtype, device=q.device)
    cells = (0,) if walk else (num_rows, num_heads, splits)
    maxima = torch.empty(cells, dtype=torch.float32, device=q.device)
    denominators = torch.empty_like(maxima)
    values = torch.empty((*cells, head_dim), dtype=torch.float32, device=q.device)
    head_block = max(16, triton.next_power_of_2(head_dim))
    _attention_kernel[(num_rows, num_kv_heads, splits)](
        q,
        q.stride(0),
        cache[0],
        cache[1],
        num_kv_heads * head_dim,
        positions,
        row_sequences,
        starts,
        block_tables,
        block_tables.stride(0),
        out,
        maxima,
        denominators,
        values,
        num_rows,
        splits,
        head_dim,
        LOG2_E / math.sqrt(head_dim),
        window or 0,
        WALK=walk,
        GROUP=group,
        HAS_WINDOW=window is not None,
        DOT_TYPE=dot_type(q.dtype),
        TILE=TILE,
        BLOCK_K=BLOCK_K,
        SPLIT=SPLIT,
        BLOCK_SIZE=BLOCK_SIZE,
        HEAD_BLOCK=head_block,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        **OPTIONS,
    )
    if not walk:
        _merge_kernel[(num_rows, num_heads)](
            maxima,
            denominators,
            values,
            positions,
            out,
            splits,
            head_dim,
            window or 0,
            HAS_WINDOW=window is not None,
            SPLIT=SPLIT,
            HEAD_BLOCK=head_block,
            num_warps=1,
            **OPTIONS,
        )
    return out


def _build(name: str, *, walk: bool, has_window: bool) -> Build:
    return Build(
        name=name,
        kernel=_attention_kernel,
        arguments={
            "q_ptr": "*bf16:16",
            "q_stride": "i32:16",
            "key_cache_ptr": "*bf16:16",
            "value_cache_ptr": "*bf16:16",
            "slot_stride": "i32:16",
            "positions_ptr": "*i32:16",
            "row_sequences_ptr": "*i32:16",
            "run_starts_ptr": "*i32:16",
            "block_tables_ptr": "*i32:16",
            "table_stride": "i32",
            "out_ptr": "*bf16:16",
            "maxima_ptr": "*fp32:16",
            "denominators_ptr": "*fp32:16",
            "values_ptr": "*fp32:16",
            "num_rows": "i32",
            "num_splits": "i32",
            "head_dim": "i32:16",
            "scale": "fp32",
            "window": "i32",
        },
        constants={
            "WALK": walk,
            "GROUP": 4,
            "HAS_WINDOW": has_window,
            "DOT_TYPE": TYPES[torch.bfloat16],
            "TILE": TILE,
            "BLOCK_K": BLOCK_K,
            "SPLIT": SPLIT,
            "BLOCK_SIZE": BLOCK_SIZE,
            "HEAD_BLOCK": 128,
        },
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        options=OPTIONS,
    )


BUILDS = (
    _build("attention, a program per split", walk=False, has_window=False),
    _build("attention, a program per split, window", walk=False, has_window=True),
    _build("attention, walking its splits", walk=True, has_window=False),
    Build(
        name="attention, merge",
        kernel=_merge_kernel,
        arguments={
            "maxima_ptr": "*fp32:16",
            "denominators_ptr": "*fp32:16",
            "values_ptr": "*fp32:16",
            "positions_ptr": "*i32:16",
            "out_ptr": "*bf16:16",
            "num_splits": "i32",
            "head_dim": "i32:16",
            "window": "i32",
        },
        constants={"HAS_WINDOW": False, "SPLIT": SPLIT, "HEAD_BLOCK": 128},
        num_warps=1,
        options=OPTIONS,
    ),
)
