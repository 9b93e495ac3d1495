"""Sampling filters without a sort: top-k, top-p and min-p of every row in one launch (Triton).

Each filter keeps the tokens whose value is at least a threshold, so only thresholds are searched. Floats are mapped to
integers of the same order; the largest integer c at which  weight(tokens with value >= c) >= wanted  is found two bits
at a time, in 16 passes over the row: weight 1 and wanted k give top-k's threshold, weight exp(value - highest) and
wanted top_p * total give top-p's. Ties with the last one kept are kept. The definition is `reference.filtered`.

A row is cut into at most GROUPS groups of tokens, by the vocabulary alone. A pass sums each group by itself and then
the groups' sums, in one order; few rows have many programs each, which share the groups and meet after every pass. So
no bit depends on how many there are.

Logits that are filtered out become -inf and the others stay as they are, so `verify` draws from what is left.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch
from bowsprit_engine.kernels.reference import filtered

# 4,096 entries over 8 warps are 16 per thread; over 16 warps Triton 3.6 spills 8 bytes on sm_80.
LAUNCH = Launch(block=4096, num_warps=8)
GROUPS = 16  # of a row, and so its programs, at most
PROGRAMS_AT_ONCE = 2  # on each multiprocessor: of 256 threads, each with 128 registers at most (resources.csv)


def reference(
    logits: Tensor,  # [rows, vocab] float32
    temperature: Tensor,  # [rows] float32; 0: the row stays as it is
    top_k: Tensor,  # [rows] int32, 0: off
    top_p: Tensor,  # [rows] float32, 1: off
    min_p: Tensor,  # [rows] float32, 0: off
) -> Tensor:  # as logits
    """The definition: `kernels.reference.filtered` row by row."""
    out = logits.clone()
    for row, (t, k, p, m) in enumerate(
        zip(temperature.tolist(), top_k.tolist(), top_p.tolist(), min_p.tolist(), strict=True)
    ):
        if t > 0:
            out[row].masked_fill_(torch.isneginf(filtered(logits[row] / t, top_k=k, top_p=p, min_p=m)), -torch.inf)
    return out


@triton.jit
def _ordered(scaled):  # type: ignore[no-untyped-def]
    """int32 that compare as the floats do; both zeros are one value."""
    bits = tl.where(scaled == 0.0, 0.0, scaled).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _meet(arrivals_ptr, meetings, num_programs):  # type: ignore[no-untyped-def]
    """Returns when all programs of the row have come: what they stored before can be read. One more than `meetings`."""
    tl.debug_barrier()  # all threads' stores come before the one thread's release
    if num_programs > 1:
        arrived = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") + 1
        while arrived < (meetings + 1) * num_programs:
            arrived = tl.atomic_add(arrivals_ptr, 0, sem="acq_rel")
        tl.debug_barrier()
    return meetings + 1


@triton.jit  # type: ignore[untyped-decorator]
def _weights(  # type: ignore[no-untyped-def]
    scaled_ptr,  # [vocab] float32, of this row, as are the others
    vocab_size,
    group_size,
    num_groups,
    floor,  # tokens below have no weight
    highest,  # float
    first,  # tokens at or above each of the three are weighed
    second,
    third,
    sums_ptr,  # [2, 3, GROUPS] float32
    arrivals_ptr,
    meetings,
    num_programs,
    BY_MASS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    GROUPS: tl.constexpr,  # noqa: N803
):
    """Weight of the tokens at or above each bound, and meetings; two buffers in turn, so that nobody is overtaken."""
    sums_ptr += (meetings % 2) * 3 * GROUPS
    for group in range(tl.program_id(1), num_groups, num_programs):
        weights_1 = tl.zeros((BLOCK,), dtype=tl.float32)
        weights_2 = tl.zeros((BLOCK,), dtype=tl.float32)
        weights_3 = tl.zeros((BLOCK,), dtype=tl.float32)
        for begin in range(group * group_size, tl.minimum((group + 1) * group_size, vocab_size), BLOCK):
            tokens = begin + tl.arange(0, BLOCK)
            is_inside = tokens < vocab_size
            scaled = tl.load(scaled_ptr + tokens, mask=is_inside, other=-float("inf"))
            key = _ordered(scaled)
            weight = tl.exp(scaled - highest) if BY_MASS else tl.full((BLOCK,), 1.0, dtype=tl.float32)
            weight = tl.where((key >= floor) & is_inside, weight, 0.0)
            weights_1 += tl.where(key >= first, weight, 0.0)
            weights_2 += tl.where(key >= second, weight, 0.0)
            weights_3 += tl.where(key >= third, weight, 0.0)
        tl.store(sums_ptr + group, tl.sum(weights_1, axis=0))
        tl.store(sums_ptr + GROUPS + group, tl.sum(weights_2, axis=0))
        tl.store(sums_ptr + 2 * GROUPS + group, tl.sum(weights_3, axis=0))
    meetings = _meet(arrivals_ptr, meetings, num_programs)
    groups = tl.arange(0, GROUPS)
    is_group = groups < num_groups
    weight_1 = tl.sum(tl.load(sums_ptr + groups, mask=is_group, other=0.0, cache_modifier=".cg"), axis=0)
    weight_2 = tl.sum(tl.load(sums_ptr + GROUPS + groups, mask=is_group, other=0.0, cache_modifier=".cg"), axis=0)
    weight_3 = tl.sum(tl.load(sums_ptr + 2 * GROUPS + groups, mask=is_group, other=0.0, cache_modifier=".cg"), axis=0)
    return weight_1, weight_2, weight_3, meetings


@triton.jit  # type: ignore[untyped-decorator]
def _threshold(  # type: ignore[no-untyped-def]
    scaled_ptr,
    vocab_size,
    group_size,
    num_groups,
    floor,
    highest,
    wanted,
    sums_ptr,
    arrivals_ptr,
    meetings,
    num_programs,
    BY_MASS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    GROUPS: tl.constexpr,  # noqa: N803
):
    """The largest integer at or above which tokens weigh at least `wanted`, and meetings."""
    lower = tl.full((), -2147483648, dtype=tl.int32)
    for index in range(16):
        step = tl.full((), 1, dtype=tl.int32) << (30 - 2 * index)
        first = lower + step  # in turn, since twice the largest step is no int32
        second = first + step
        third = second + step
        weight_1, weight_2, weight_3, meetings = _weights(
            scaled_ptr,
            vocab_size,
            group_size,
            num_groups,
            floor,
            highest,
            first,
            second,
            third,
            sums_ptr,
            arrivals_ptr,
            meetings,
            num_programs,
            BY_MASS,
            BLOCK,
            GROUPS,
        )
        lower = tl.where(weight_1 >= wanted, first, lower)
        lower = tl.where(weight_2 >= wanted, second, lower)
        lower = tl.where(weight_3 >= wanted, third, lower)
    return lower, meetings


@triton.jit(do_not_specialize=["num_groups", "num_programs"])  # type: ignore[untyped-decorator]
def _filter_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # [rows, vocab] float32, rows `row_stride` apart
    row_stride,
    out_ptr,  # [rows, vocab] float32
    temperature_ptr,  # [rows] float32
    top_k_ptr,  # [rows] int32
    top_p_ptr,  # [rows] float32
    log_min_p_ptr,  # [rows] float32, -inf: off
    sums_ptr,  # [rows, 2, 3, GROUPS] float32
    arrivals_ptr,  # [rows] int32, zeros
    vocab_size,
    group_size,
    num_groups,
    num_programs,  # of a row
    BLOCK: tl.constexpr,  # noqa: N803
    GROUPS: tl.constexpr,  # noqa: N803
):
    row = tl.cast(tl.program_id(0), tl.int64)
    row_ptr = logits_ptr + row * row_stride
    scaled_ptr = out_ptr + row * vocab_size  # logits by temperature, until it is known which of them are left
    sums_ptr += row * 6 * GROUPS
    arrivals_ptr += row
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    is_sampled = temperature > 0.0

    threshold = tl.full((), -2147483648, dtype=tl.int32)
    if is_sampled:
        for group in range(tl.program_id(1), num_groups, num_programs):
            highs = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
            for begin in range(group * group_size, tl.minimum((group + 1) * group_size, vocab_size), BLOCK):
                tokens = begin + tl.arange(0, BLOCK)
                is_inside = tokens < vocab_size
                scaled = tl.div_rn(tl.load(row_ptr + tokens, mask=is_inside, other=-float("inf")), temperature)
                tl.store(scaled_ptr + tokens, scaled, mask=is_inside)
                highs = tl.maximum(highs, scaled)
            tl.store(sums_ptr + group, tl.max(highs, axis=0))
        meetings = _meet(arrivals_ptr, 0, num_programs)
        groups = tl.arange(0, GROUPS)
        highs = tl.load(sums_ptr + groups, mask=groups < num_groups, other=-float("inf"), cache_modifier=".cg")
        highest = tl.max(highs, axis=0)
        if (top_k > 0) & (top_k < vocab_size):
            threshold, meetings = _threshold(
                scaled_ptr,
                vocab_size,
                group_size,
                num_groups,
                threshold,
                highest,
                top_k.to(tl.float32),
                sums_ptr,
                arrivals_ptr,
                meetings,
                num_programs,
                False,
                BLOCK,
                GROUPS,
            )
        if top_p < 1.0:
            mass, _, _, meetings = _weights(
                scaled_ptr,
                vocab_size,
                group_size,
                num_groups,
                threshold,
                highest,
                threshold,
                threshold,
                threshold,
                sums_ptr,
                arrivals_ptr,
                meetings,
                num_programs,
                True,
                BLOCK,
                GROUPS,
            )
            cut, meetings = _threshold(
                scaled_ptr,
                vocab_size,
                group_size,
                num_groups,
                threshold,
                highest,
                top_p * mass,
                sums_ptr,
                arrivals_ptr,
                meetings,
                num_programs,
                True,
                BLOCK,
                GROUPS,
            )
            threshold = tl.maximum(threshold, tl.minimum(cut, _ordered(highest)))  # the likeliest is always kept
        threshold = tl.maximum(threshold, _ordered(highest + tl.load(log_min_p_ptr + row)))
    for group in range(tl.program_id(1), num_groups, num_programs):
        for begin in range(group * group_size, tl.minimum((group + 1) * group_size, vocab_size), BLOCK):
            tokens = begin + tl.arange(0, BLOCK)
            is_inside = tokens < vocab_size
            logits = tl.load(row_ptr + tokens, mask=is_inside, other=-float("inf"))
            if is_sampled:
                scaled = tl.load(scaled_ptr + tokens, mask=is_inside, other=-float("inf"))
                logits = tl.where(_ordered(scaled) >= threshold, logits, -float("inf"))
            tl.store(scaled_ptr + tokens, logits, mask=is_inside)


@functools.cache
def programs_at_once(device: torch.device) -> int:
    """Most programs of a launch whose programs can meet."""
    count = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
    return PROGRAMS_AT_ONCE * count


def filter_logits(
    logits: Tensor,  # [rows, vocab] float32; rows may be apart
    temperature: Tensor,  # [rows] float32; 0: the row stays as it is
    top_k: Tensor,  # [rows] int32, 0: off
    top_p: Tensor,  # [rows] float32, 1: off
    min_p: Tensor,  # [rows] float32, 0: off
) -> Tensor:  # [rows, vocab] float32, a copy
    """`reference`. All on the device of `logits`. Raises ValueError for another dtype and beyond 2^24 tokens.

    Counts of tokens are float32, exact up to 2^24. A sum of probabilities has another order than the definition's, so
    a token may fall on the other side of top_p where the mass above it differs from top_p by a few ulp.
    """
    rows, vocab_size = logits.shape
    if logits.dtype != torch.float32 or logits.stride(1) != 1 or vocab_size > 2**24:
        raise ValueError(f"logits are {logits.dtype} {tuple(logits.shape)}: float32, at most {2**24} adjacent tokens")
    device = logits.device
    out = torch.empty((rows, vocab_size), dtype=torch.float32, device=device)
    group_size = triton.cdiv(triton.cdiv(vocab_size, GROUPS), LAUNCH.block) * LAUNCH.block
    num_groups = triton.cdiv(vocab_size, group_size)
    num_programs = min(num_groups, max(1, programs_at_once(device) // rows))
    _filter_kernel[(rows, num_programs)](
        logits,
        logits.stride(0),
        out,
        temperature,
        top_k,
        top_p,
        torch.log(min_p),
        torch.empty((rows, 2, 3, GROUPS), dtype=torch.float32, device=device),
        torch.zeros(rows, dtype=torch.int32, device=device),
        vocab_size,
        group_size,
        num_groups,
        num_programs,
        BLOCK=LAUNCH.block,
        GROUPS=GROUPS,
        num_warps=LAUNCH.num_warps,
        **({"launch_cooperative_grid": True} if num_programs > 1 else {}),  # all run at once, so that all can meet
    )
    return out


BUILDS = (
    Build(
        name="filters",
        kernel=_filter_kernel,
        arguments={
            "logits_ptr": "*fp32:16",
            "row_stride": "i32:16",
            "out_ptr": "*fp32:16",
            "temperature_ptr": "*fp32:16",
            "top_k_ptr": "*i32:16",
            "top_p_ptr": "*fp32:16",
            "log_min_p_ptr": "*fp32:16",
            "sums_ptr": "*fp32:16",
            "arrivals_ptr": "*i32:16",
            "vocab_size": "i32:16",
            "group_size": "i32:16",
            "num_groups": "i32",
            "num_programs": "i32",
        },
        constants={"BLOCK": LAUNCH.block, "GROUPS": GROUPS},
        num_warps=LAUNCH.num_warps,
    ),
)
