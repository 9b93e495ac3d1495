"""What a training run takes of its container's memory, summed before a weight is read; refused when it can't fit.

Decides the sizes of what training itself allocates. States are on a disk, and what the system caches of that file it
can take back, so they count with one request and one batch alone. Bytes of the model's tensors are models/memory.py's,
the limit is server/memory_limit.py's.
"""

from __future__ import annotations

from bowsprit_engine.core.memory_budget import MemoryLimit, MemoryPart, MemorySum, readable
from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig
from bowsprit_engine.models.memory import (
    DRAFT_VOCABULARY,
    FLOAT_BYTES,
    MOST_INTERMEDIATE,
    kv_bytes_per_block,
    largest_head_bytes,
    loading_bytes,
    num_parameters,
    step_bytes,
    weight_bytes,
)
from bowsprit_engine.speculation.drafters.answers import BYTES_PER_TOKEN
from bowsprit_engine.speculation.drafters.suffix import KEPT_TOKENS
from bowsprit_engine.training.features import PREFILL_ROWS

# 332 MiB measured with torch, transformers and pyarrow imported (torch 2.15, Linux); the rest is the allocator's and
# oneDNN's: with it the whole plan was 1,198 MiB where 1,060 were reached (SmolLM2-135M, 127,000 emitted tokens).
PROCESS_BYTES = 512 << 20
BYTES_PER_CAPTURED_TOKEN = 72  # integers of Python while they are read; 51 measured, and two columns per step
COPIES_OF_HEAD = 5  # weights, gradients, AdamW's two moments, the best so far
BYTES_PER_TOKEN_ID = 8  # of what is learned from and judged by: int64, as losses take them
# Of the drafts at a judged token, as objects of Python: 137 and 72 measured. Two heads are compared.
BYTES_PER_DRAFT, BYTES_PER_DRAFTED_TOKEN, COMPARED_HEADS = 144, 72, 2
BYTES_PER_REPLAYED_TOKEN = 36  # once more as integers of Python, while judged requests are replayed
SERVING_HEADS = 3  # the incumbent, the candidate, and the one that a validation judges


def plan_memory(
    config: ModelConfig,
    *,
    itemsize: int,  # bytes of a weight and of a cached value
    longest: int,  # tokens of the longest request
    captured_tokens: int,
    judged_tokens: int,  # emitted ones of requests that judge
    trained_tokens: int,  # and of those to learn from
    rows_per_batch: int,
    draft_tokens: int,
    limit: MemoryLimit,
) -> MemorySum:
    """Of a run on requests of these sizes."""
    width = min(MOST_INTERMEDIATE, config.hidden_size)
    step = step_bytes(config, max_rows=PREFILL_ROWS, max_logit_rows=0)
    loading = loading_bytes(config, itemsize=itemsize)
    blocks = -(-longest // BLOCK_SIZE)
    head = FLOAT_BYTES * 5 * width * config.hidden_size
    rows = rows_per_batch + longest  # whole requests: the last one of a batch may begin at its last row
    batch = rows * batch_bytes_per_row(hidden_size=config.hidden_size, width=width, draft_tokens=draft_tokens)
    serving = largest_head_bytes(config)
    vocabulary = 2 * FLOAT_BYTES * DRAFT_VOCABULARY * config.hidden_size
    per_judged = COMPARED_HEADS * (BYTES_PER_DRAFT + draft_tokens * BYTES_PER_DRAFTED_TOKEN) + BYTES_PER_REPLAYED_TOKEN
    look_up = KEPT_TOKENS * BYTES_PER_TOKEN
    parts = (
        MemoryPart(
            name="weights",
            num_bytes=weight_bytes(config, itemsize=itemsize),
            detail=f"{num_parameters(config) / 1e6:.1f} M parameters of {itemsize} bytes, rotary tables",
        ),
        MemoryPart(
            name="workspace",
            num_bytes=max(step, loading),
            detail=f"a step of {PREFILL_ROWS} rows {readable(step)}, or loading the largest tensor {readable(loading)}",
        ),
        MemoryPart(
            name="KV cache",
            num_bytes=blocks * kv_bytes_per_block(config, itemsize=itemsize),
            detail=f"one request of {longest} tokens",
        ),
        MemoryPart(
            name="head",
            num_bytes=COPIES_OF_HEAD * head,
            detail=f"{head // FLOAT_BYTES / 1e6:.1f} M weights, their gradients, AdamW's two moments, the best so far",
        ),
        MemoryPart(
            name="vocabulary",
            num_bytes=vocabulary,
            detail=f"{DRAFT_VOCABULARY} rows of the LM head, and as products read them",
        ),
        MemoryPart(name="batch", num_bytes=batch, detail=f"up to {rows} rows at {draft_tokens} positions"),
        MemoryPart(
            name="judging",
            num_bytes=SERVING_HEADS * serving + look_up + judged_tokens * per_judged,
            detail=f"heads that serve, look-up, drafts at {judged_tokens} tokens",
        ),
        MemoryPart(
            name="token ids",
            num_bytes=(judged_tokens + trained_tokens) * BYTES_PER_TOKEN_ID,
            detail=f"{judged_tokens + trained_tokens} emitted tokens",
        ),
        MemoryPart(
            name="captured traffic",
            num_bytes=captured_tokens * BYTES_PER_CAPTURED_TOKEN,
            detail=f"{captured_tokens} tokens; --max-tokens reads fewer",
        ),
        MemoryPart(name="process", num_bytes=PROCESS_BYTES, detail="the interpreter and its libraries"),
    )
    return MemorySum(needed_by="training", parts=parts, limit=limit)


def batch_bytes_per_row(*, hidden_size: int, width: int, draft_tokens: int) -> int:
    """Of states, directions and halves of the MLP, and what backward keeps of each position; logits once."""
    kept = 8 * hidden_size + 2 * width + draft_tokens * (6 * hidden_size + 7 * width)
    return FLOAT_BYTES * (kept + 4 * DRAFT_VOCABULARY)
