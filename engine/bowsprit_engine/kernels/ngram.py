"""Prompt look-up on the device: n-gram match and draft of every sequence in one launch (Triton).

Formula, per sequence of length n: over continuations c < n, the length m(c) <= 5 of the common suffix of tokens[:c] and
tokens[:n]; of those with m >= 2 the largest m, and the largest c among equals. Draft i is tokens[c + i mod (n - c)]:
past the end the copy goes on with itself. A test holds it against the look-up of speculation/drafters/ngram.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bowsprit_engine.kernels.launch import Build, Launch

# Not measured by itself: a sequence of 8,192 tokens is 8 iterations; five loads per token hit the same cache lines.
LAUNCH = Launch(block=1024, num_warps=4)
LONGEST_NGRAM = 5
SHORTEST_NGRAM = 2
MAX_TOKENS = 2**27  # match length and continuation share one int32


def reference(
    token_ids: Tensor,  # [sequences, max_tokens] int64
    lengths: Tensor,  # [sequences] int32
    *,
    num_draft_tokens: int,
) -> tuple[Tensor, Tensor]:  # [sequences, num_draft_tokens] int64, [sequences] bool: whether there is a draft
    """The definition, continuation by continuation. A sequence without a match has zeros."""
    drafts = torch.zeros((token_ids.shape[0], num_draft_tokens), dtype=torch.int64)
    has_draft = torch.zeros(token_ids.shape[0], dtype=torch.bool)
    for index, length in enumerate(lengths.tolist()):
        tokens = token_ids[index, :length].tolist()
        best = max(((_matched(tokens, end), end) for end in range(length)), default=(0, 0))
        if best[0] >= SHORTEST_NGRAM:
            start = best[1]
            drafts[index] = torch.tensor([tokens[start + i % (length - start)] for i in range(num_draft_tokens)])
            has_draft[index] = True
    return drafts.to(token_ids.device), has_draft.to(token_ids.device)


def _matched(tokens: Sequence[int], end: int) -> int:
    """Length of the common suffix of `tokens[:end]` and `tokens`, at most LONGEST_NGRAM."""
    for back in range(1, min(LONGEST_NGRAM, end) + 1):
        if tokens[end - back] != tokens[-back]:
            return back - 1
    return min(LONGEST_NGRAM, end)


@triton.jit(do_not_specialize=["num_draft_tokens"])  # type: ignore[untyped-decorator]
def _ngram_kernel(  # type: ignore[no-untyped-def]
    token_ids_ptr,  # [sequences, row_stride] int64
    row_stride,
    lengths_ptr,  # [sequences] int32
    drafts_ptr,  # [sequences, num_draft_tokens] int64, out
    has_draft_ptr,  # [sequences] bool, out
    num_draft_tokens,
    LONGEST: tl.constexpr,  # noqa: N803
    SHORTEST: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    BLOCK_DRAFT: tl.constexpr,  # noqa: N803
):
    sequence = tl.cast(tl.program_id(0), tl.int64)
    tokens_ptr = token_ids_ptr + sequence * row_stride
    length = tl.load(lengths_ptr + sequence)
    best = tl.zeros((BLOCK,), dtype=tl.int32)  # match length * 2^27 + continuation
    for begin in range(SHORTEST, length, BLOCK):
        continuations = begin + tl.arange(0, BLOCK)
        matched = tl.zeros((BLOCK,), dtype=tl.int32)
        is_equal = continuations < length
        for back in tl.static_range(1, LONGEST + 1):
            at = continuations - back
            is_equal = is_equal & (at >= 0)
            own = tl.load(tokens_ptr + tl.maximum(length - back, 0))  # of any use only if at >= 0
            is_equal = is_equal & (tl.load(tokens_ptr + at, mask=is_equal, other=0) == own)
            matched += is_equal.to(tl.int32)
        best = tl.maximum(best, tl.where(matched >= SHORTEST, matched * 134217728 + continuations, 0))
    found = tl.max(best, axis=0)
    start = found % 134217728
    drafted = tl.arange(0, BLOCK_DRAFT)
    is_drafted = drafted < num_draft_tokens
    period = tl.maximum(length - start, 1)
    num_drafted = tl.where(found > 0, num_draft_tokens, 0)
    tokens = tl.load(tokens_ptr + start + drafted % period, mask=drafted < num_drafted, other=0)
    tl.store(drafts_ptr + sequence * num_draft_tokens + drafted, tokens, mask=is_drafted)
    tl.store(has_draft_ptr + sequence, found > 0)


def look_up(
    token_ids: Tensor,  # [sequences, max_tokens] int64
    lengths: Tensor,  # [sequences] int32
    *,
    num_draft_tokens: int,
) -> tuple[Tensor, Tensor]:  # [sequences, num_draft_tokens] int64, [sequences] bool: whether there is a draft
    """`reference`. Raises ValueError for tokens that aren't int64 rows of less than 2^27."""
    sequences, max_tokens = token_ids.shape
    if token_ids.dtype != torch.int64 or token_ids.stride(1) != 1 or max_tokens >= MAX_TOKENS:
        raise ValueError(f"token_ids are {token_ids.dtype} {tuple(token_ids.shape)}: int64, under {MAX_TOKENS} a row")
    drafts = torch.empty((sequences, num_draft_tokens), dtype=torch.int64, device=token_ids.device)
    has_draft = torch.empty(sequences, dtype=torch.bool, device=token_ids.device)
    _ngram_kernel[(sequences,)](
        token_ids,
        token_ids.stride(0),
        lengths,
        drafts,
        has_draft,
        num_draft_tokens,
        LONGEST=LONGEST_NGRAM,
        SHORTEST=SHORTEST_NGRAM,
        BLOCK=LAUNCH.block,
        BLOCK_DRAFT=max(1, triton.next_power_of_2(num_draft_tokens)),
        num_warps=LAUNCH.num_warps,
    )
    return drafts, has_draft


BUILDS = (
    Build(
        name="ngram, 8 drafts",
        kernel=_ngram_kernel,
        arguments={
            "token_ids_ptr": "*i64:16",
            "row_stride": "i32:16",
            "lengths_ptr": "*i32:16",
            "drafts_ptr": "*i64:16",
            "has_draft_ptr": "*i1:16",
            "num_draft_tokens": "i32",
        },
        constants={"LONGEST": LONGEST_NGRAM, "SHORTEST": SHORTEST_NGRAM, "BLOCK": LAUNCH.block, "BLOCK_DRAFT": 8},
        num_warps=LAUNCH.num_warps,
    ),
)
