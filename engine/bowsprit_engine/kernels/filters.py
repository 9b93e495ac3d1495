"""Sampling filters without a sort: top-k, top-p and min-p of every row in one launch (Triton).

Each filter keeps the tokens whose value is at least a threshold, so only thresholds are searched. Floats are mapped to
integers of the same order; the largest integer c at which  weight(tokens with value >= c) >= wanted  is found two bits
at a time, in 16 passes over the row: weight 1 and wanted k give top-k's threshold, weight exp(value - highest) and
wanted top_p * total give top-p's. Ties with the last one kept are kept. The definition is `reference.filtered`.

Logits that are filtered out become -inf and the others stay as they are, so `verify` draws from what is left.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch
from bowsprit_engine.kernels.reference import filtered

# Not measured on a GPU: a pass is bound by reading the row (512 kB at 128k tokens, from the L2 cache after the first),
# so all of a multiprocessor's loads in flight: 4,096 entries over 8 warps are 16 per thread. Over 16 warps Triton 3.6
# spills 8 bytes on sm_80.
LAUNCH = Launch(block=4096, num_warps=8)


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


@triton.jit  # type: ignore[untyped-decorator]
def _threshold(  # type: ignore[no-untyped-def]
    row_ptr,
    temperature,
    vocab_size,
    floor,  # tokens below have no weight
    highest,  # float, the row's
    wanted,
    BY_MASS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """The largest integer at or above which tokens weigh at least `wanted`."""
    lower = tl.full((), -2147483648, dtype=tl.int32)
    for index in range(16):
        step = tl.full((), 1, dtype=tl.int32) << (30 - 2 * index)
        first = lower + step  # in turn, since twice the largest step is no int32
        second = first + step
        third = second + step
        weigh_1 = tl.zeros((BLOCK,), dtype=tl.float32)
        weigh_2 = tl.zeros((BLOCK,), dtype=tl.float32)
        weigh_3 = tl.zeros((BLOCK,), dtype=tl.float32)
        for begin in range(0, vocab_size, BLOCK):
            tokens = begin + tl.arange(0, BLOCK)
            scaled = tl.div_rn(tl.load(row_ptr + tokens, mask=tokens < vocab_size, other=-float("inf")), temperature)
            key = _ordered(scaled)
            weight = tl.exp(scaled - highest) if BY_MASS else tl.full((BLOCK,), 1.0, dtype=tl.float32)
            weight = tl.where((key >= floor) & (tokens < vocab_size), weight, 0.0)
            weigh_1 += tl.where(key >= first, weight, 0.0)
            weigh_2 += tl.where(key >= second, weight, 0.0)
            weigh_3 += tl.where(key >= third, weight, 0.0)
        lower = tl.where(tl.sum(weigh_1, axis=0) >= wanted, first, lower)
        lower = tl.where(tl.sum(weigh_2, axis=0) >= wanted, second, lower)
        lower = tl.where(tl.sum(weigh_3, axis=0) >= wanted, third, lower)
    return lower


@triton.jit  # type: ignore[untyped-decorator]
def _filter_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # [rows, vocab] float32, rows `row_stride` apart
    row_stride,
    out_ptr,  # [rows, vocab] float32
    temperature_ptr,  # [rows] float32
    top_k_ptr,  # [rows] int32
    top_p_ptr,  # [rows] float32
    log_min_p_ptr,  # [rows] float32, -inf: off
    vocab_size,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.cast(tl.program_id(0), tl.int64)
    row_ptr = logits_ptr + row * row_stride
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    is_sampled = temperature > 0.0
    divisor = tl.where(is_sampled, temperature, 1.0)

    threshold = tl.full((), -2147483648, dtype=tl.int32)
    if is_sampled:
        highs = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
        for begin in range(0, vocab_size, BLOCK):
            tokens = begin + tl.arange(0, BLOCK)
            scaled = tl.div_rn(tl.load(row_ptr + tokens, mask=tokens < vocab_size, other=-float("inf")), divisor)
            highs = tl.maximum(highs, scaled)
        highest = tl.max(highs, axis=0)
        if (top_k > 0) & (top_k < vocab_size):
            threshold = _threshold(row_ptr, divisor, vocab_size, threshold, highest, top_k.to(tl.float32), False, BLOCK)
        if top_p < 1.0:
            masses = tl.zeros((BLOCK,), dtype=tl.float32)
            for begin in range(0, vocab_size, BLOCK):
                tokens = begin + tl.arange(0, BLOCK)
                scaled = tl.div_rn(tl.load(row_ptr + tokens, mask=tokens < vocab_size, other=-float("inf")), divisor)
                masses += tl.where(_ordered(scaled) >= threshold, tl.exp(scaled - highest), 0.0)
            wanted = top_p * tl.sum(masses, axis=0)
            cut = _threshold(row_ptr, divisor, vocab_size, threshold, highest, wanted, True, BLOCK)
            threshold = tl.maximum(threshold, tl.minimum(cut, _ordered(highest)))  # the likeliest is always kept
        threshold = tl.maximum(threshold, _ordered(highest + tl.load(log_min_p_ptr + row)))
    for begin in range(0, vocab_size, BLOCK):
        tokens = begin + tl.arange(0, BLOCK)
        is_inside = tokens < vocab_size
        logits = tl.load(row_ptr + tokens, mask=is_inside, other=-float("inf"))
        kept = tl.where(_ordered(tl.div_rn(logits, divisor)) >= threshold, logits, -float("inf"))
        tl.store(out_ptr + row * vocab_size + tokens, kept, mask=is_inside)


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
    out = torch.empty((rows, vocab_size), dtype=torch.float32, device=logits.device)
    _filter_kernel[(rows,)](
        logits,
        logits.stride(0),
        out,
        temperature,
        top_k,
        top_p,
        torch.log(min_p),
        vocab_size,
        BLOCK=LAUNCH.block,
        num_warps=LAUNCH.num_warps,
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
            "vocab_size": "i32:16",
        },
        constants={"BLOCK": LAUNCH.block},
        num_warps=LAUNCH.num_warps,
    ),
)
