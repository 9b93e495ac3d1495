"""Steps of a given size over made-up tokens: every sequence has the same context, and blocks of its own."""

from __future__ import annotations

import torch

from bowsprit_engine.core.runner import BLOCK_SIZE, StepBatch


def blocks_per_sequence(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def step_rows(*, batch: int, rows: int, context: int, vocab_size: int, device: torch.device) -> StepBatch:
    """`batch` sequences with `rows` adjacent rows each, the first at position `context`; all logits are wanted."""
    total = batch * rows
    per_sequence = blocks_per_sequence(context + rows)
    order = torch.arange(total)
    return StepBatch(
        token_ids=(order * 7919 % vocab_size).to(device),
        positions=(context + order % rows).to(device, torch.int32),
        row_sequences=(order // rows).to(device, torch.int32),
        block_tables=torch.arange(batch * per_sequence, dtype=torch.int32).reshape(batch, per_sequence).to(device),
        logit_rows=order.to(device),
    )
