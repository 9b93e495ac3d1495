"""From settings and an opened model to a memory budget, before a weight is read: who takes how much of which limit.

Decides the size of the KV cache that "auto" means, and that what is always in the host's memory counts on a CPU only.
The sum and its refusal are core/memory_budget.py's, the limit memory_limit.py's, bytes per tensor models/memory.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from bowsprit_engine.core.lexers import lexer_bytes
from bowsprit_engine.core.memory_budget import MemoryBudget, MemoryLimit, MemoryPart, kv_blocks, readable
from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig
from bowsprit_engine.models.memory import (
    TOKENIZER_BYTES_PER_TOKEN,
    graph_bytes,
    kv_bytes_per_block,
    loading_bytes,
    num_parameters,
    step_bytes,
    weight_bytes,
)
from bowsprit_engine.models.step_graphs import BUCKETS
from bowsprit_engine.server.grammars import MAX_LIVE_BYTES
from bowsprit_engine.server.memory_limit import memory_limit

# Anonymous memory of a process with torch, transformers and the server imported: 350 MiB measured (torch 2.15, Linux).
PROCESS_BYTES = 384 << 20
AUTO_KV_SHARE_CPU = 0.25  # of what the other parts leave: the machine has other uses for it
AUTO_KV_SHARE_DEVICE = 0.9  # the rest for the allocator's fragments; nothing else uses a GPU that serves


def plan_memory(
    config: ModelConfig,
    *,
    itemsize: int,  # bytes of a weight and of a cached value
    device: str,
    max_batch_size: int,
    prefill_chunk: int,
    draft_tokens_max: int,
    kv_cache_memory: int | None,
    drafters: Sequence[MemoryPart],
    has_graphs: bool = False,  # whether steps are captured as CUDA graphs
    draft_models: Sequence[ModelConfig] = (),  # each has its own weights, workspace, and as many KV blocks
    limit: MemoryLimit | None = None,  # None: this machine's
) -> MemoryBudget:
    """The same answer before and after the model is loaded, since limits don't count what this process holds."""
    limit = limit or memory_limit(device)
    on_cpu = not device.startswith("cuda")
    logit_rows = max_batch_size * (1 + draft_tokens_max)
    step = step_bytes(config, max_rows=prefill_chunk + logit_rows, max_logit_rows=logit_rows)
    loading = loading_bytes(config, itemsize=itemsize)
    parts = [
        MemoryPart(
            name="weights",
            num_bytes=weight_bytes(config, itemsize=itemsize),
            detail=f"{num_parameters(config) / 1e6:.1f} M parameters of {itemsize} bytes, rotary tables",
        ),
        *drafters,
        *(
            _draft_model(shape, itemsize=itemsize, max_rows=prefill_chunk, max_logit_rows=max_batch_size)
            for shape in draft_models
        ),
        MemoryPart(
            name="workspace",
            num_bytes=max(step, loading),
            detail=f"a step of {prefill_chunk} prompt and {logit_rows} verified rows {readable(step)}, or loading the "
            f"largest tensor {readable(loading)}",
        ),
    ]
    if has_graphs:
        parts.append(_graphs((config, *draft_models), itemsize=itemsize))
    if on_cpu:
        parts += _on_the_host(config, max_batch_size=max_batch_size)
    per_sequence = -(-config.max_model_len // BLOCK_SIZE)
    per_block = sum(kv_bytes_per_block(shape, itemsize=itemsize) for shape in (config, *draft_models))
    blocks = kv_blocks(
        useful=max_batch_size * per_sequence,
        least=per_sequence,
        bytes_per_block=per_block,
        asked_bytes=kv_cache_memory,
        left_bytes=max(0, limit.num_bytes - sum(part.num_bytes for part in parts)),
        share=AUTO_KV_SHARE_CPU if on_cpu else AUTO_KV_SHARE_DEVICE,
    )
    full = f"{max_batch_size} sequences of {config.max_model_len} would fill {max_batch_size * per_sequence}"
    full += f"; those of {len(draft_models)} draft models included" if draft_models else ""
    kv = MemoryPart(name="KV cache", num_bytes=blocks * per_block, detail=f"{blocks} blocks of {BLOCK_SIZE}; {full}")
    return MemoryBudget(parts=(parts[0], kv, *parts[1:]), limit=limit, kv_blocks=blocks)


def _on_the_host(config: ModelConfig, *, max_batch_size: int) -> list[MemoryPart]:
    lexer = lexer_bytes(config.vocab_size)
    return [
        MemoryPart(
            name="tokenizer",
            num_bytes=config.vocab_size * TOKENIZER_BYTES_PER_TOKEN,
            detail=f"{config.vocab_size} tokens, for texts and for grammars",
        ),
        MemoryPart(
            name="grammars",
            num_bytes=max_batch_size * lexer + MAX_LIVE_BYTES,
            detail=f"lexers of {max_batch_size} sequences, {readable(lexer)} each, and what all requests compiled",
        ),
        MemoryPart(name="process", num_bytes=PROCESS_BYTES, detail="the interpreter and its libraries"),
    ]


def _graphs(models: Sequence[ModelConfig], *, itemsize: int) -> MemoryPart:
    rows = sum(BUCKETS)
    return MemoryPart(
        name="CUDA graphs",
        num_bytes=sum(graph_bytes(config, itemsize=itemsize, buckets=BUCKETS) for config in models),
        detail=f"logits of {rows} rows in {len(BUCKETS)} graphs, a step of {max(BUCKETS)}",
    )


def _draft_model(config: ModelConfig, *, itemsize: int, max_rows: int, max_logit_rows: int) -> MemoryPart:
    weights = weight_bytes(config, itemsize=itemsize)
    step = step_bytes(config, max_rows=max_rows, max_logit_rows=max_logit_rows)
    detail = f"{num_parameters(config) / 1e6:.1f} M parameters of {itemsize} bytes, a step of {max_rows} rows"
    return MemoryPart(name="draft model", num_bytes=weights + step, detail=detail)
