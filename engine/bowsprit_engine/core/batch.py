"""The rows of one step as tensors: each decoding sequence's last token and drafts, then the chunks of prompts.

Decides the order of rows and which logits are wanted. Knows neither how sequences were chosen nor what logits mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bowsprit_engine.core.runner import StepBatch
from bowsprit_engine.core.sampling import DrawRows
from bowsprit_engine.core.scheduler import StepPlan
from bowsprit_engine.core.sequence import LiveSequence

ALIGNED_NUMBERS = 4  # int32 of 16 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """`batch` for the runner; `draws`: the sequences that get tokens from it; `row_of_logit`: logit_rows, as ints."""

    batch: StepBatch
    draws: tuple[DrawRows, ...]
    row_of_logit: Sequence[int]

    @property
    def num_rows(self) -> int:
        return self.batch.token_ids.numel()


class _Builder:
    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.row_sequences: list[int] = []
        self.logit_rows: list[int] = []
        self.sequences: list[LiveSequence] = []
        self.draws: list[DrawRows] = []

    def add(self, sequence: LiveSequence, token_ids: Sequence[int]) -> None:
        first = sequence.num_computed
        self.positions.extend(range(first, first + len(token_ids)))
        self.row_sequences.extend([len(self.sequences)] * len(token_ids))
        self.token_ids.extend(token_ids)
        self.sequences.append(sequence)

    def want_last(self, sequence: LiveSequence, draft: tuple[int, ...]) -> None:
        """Logits of the last token's row and of every draft's."""
        self.draws.append(DrawRows(sequence=sequence, draft=draft, first_row=len(self.logit_rows)))
        end = len(self.token_ids)
        self.logit_rows.extend(range(end - len(draft) - 1, end))


def build(plan: StepPlan, drafts: Sequence[tuple[int, ...]], device: torch.device) -> StepRows:
    """Rows for a plan that is not empty; `drafts` has one entry per decoding sequence, in order."""
    rows = _Builder()
    for sequence, draft in zip(plan.decodes, drafts, strict=True):
        rows.add(sequence, (sequence.token_ids[-1], *draft))
        rows.want_last(sequence, draft)
    for chunk in plan.prefills:
        begin = chunk.sequence.num_computed
        rows.add(chunk.sequence, chunk.sequence.token_ids[begin : begin + chunk.num_tokens])
        if chunk.completes:
            rows.want_last(chunk.sequence, ())
    widest = max(len(sequence.block_ids) for sequence in rows.sequences)
    tables = [block for own in rows.sequences for block in (*own.block_ids, *[0] * (widest - len(own.block_ids)))]
    token_ids, positions, row_sequences, logit_rows, block_tables = _to_device(
        [rows.token_ids, rows.positions, rows.row_sequences, rows.logit_rows, tables], device
    )
    batch = StepBatch(
        token_ids=token_ids.long(),
        positions=positions,
        row_sequences=row_sequences,
        block_tables=block_tables.view(-1, widest),
        logit_rows=logit_rows.long(),
    )
    return StepRows(batch=batch, draws=tuple(rows.draws), row_of_logit=rows.logit_rows)


def _to_device(columns: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Each as int32, in one transfer: to a GPU one costs as much as many numbers.

    Each begins at a multiple of 16 bytes, by which Triton chooses a kernel: another would be compiled while requests
    wait.
    """
    packed: list[int] = []
    begins = []
    for column in columns:
        begins.append(len(packed))
        packed.extend(column)
        packed.extend([0] * (-len(column) % ALIGNED_NUMBERS))
    sent = torch.tensor(packed, dtype=torch.int32).to(device)
    return [sent[begin : begin + len(column)] for begin, column in zip(begins, columns, strict=True)]
