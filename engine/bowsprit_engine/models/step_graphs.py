"""Decode and verify steps as CUDA graphs: one launch by the host for a step of any number of rows up to the largest.

Decides which steps replay a graph and how a step is padded to one. A graph is captured per bucket of rows: a step of
`batch` sequences with K drafts each has batch * (K + 1), and nothing else of it shapes a launch. Padding rows belong to
a sequence of their own over a scratch block, so they disturb nobody. Refuses to know what a step computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelOutput, StepBatch

# Every (batch, K) of batch <= 32 and K <= 15 fits; a step is padded by less than a third, beyond 4 rows.
BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Step = Callable[[Tensor, Tensor, Tensor, Tensor], ModelOutput]  # token_ids, positions, row_sequences, block_tables


class Captured(Protocol):
    """A step over fixed buffers. `output` holds its result once `replay`'s work is done, until the next replay."""

    output: ModelOutput

    def replay(self) -> None:
        """Run the step again over what the buffers hold now."""


class CudaCaptures:
    """Captures on the current device; all graphs share one memory pool, since only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], ModelOutput]) -> Captured:
        """Run once to compile and load kernels, which a capture may not do, then capture."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = step()
        return _CudaGraph(graph, output)


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, output: ModelOutput) -> None:
        self._graph, self.output = graph, output

    def replay(self) -> None:
        self._graph.replay()


class StepGraphs:
    """The graphs of one model, over buffers that they share."""

    def __init__(
        self,
        step: Step,
        *,
        max_model_len: int,
        scratch_block: int,
        device: torch.device,
        buckets: tuple[int, ...] = BUCKETS,
        capture: Callable[[Callable[[], ModelOutput]], Captured] | None = None,
    ) -> None:
        """`scratch_block`: a KV block that no sequence owns. `capture`: CUDA's unless given."""
        widest = buckets[-1]
        self._padding_sequence = widest
        self._token_ids = torch.zeros(widest, dtype=torch.int64, device=device)
        self._positions = torch.zeros(widest, dtype=torch.int32, device=device)
        self._row_sequences = torch.full((widest,), widest, dtype=torch.int32, device=device)
        max_blocks = -(-max_model_len // BLOCK_SIZE)
        self._block_tables = torch.full((widest + 1, max_blocks), scratch_block, dtype=torch.int32, device=device)
        capture = capture or CudaCaptures()
        # The widest first: its memory then serves all others.
        with torch.inference_mode():
            self._graphs = {rows: capture(self._bound(step, rows)) for rows in sorted(buckets, reverse=True)}
        self._buckets = buckets

    def fits(self, batch: StepBatch) -> bool:
        """Whether all rows' logits are wanted and a graph is wide enough. Known without waiting for the device."""
        num_rows = batch.token_ids.numel()
        num_sequences, num_blocks = batch.block_tables.shape
        return (
            batch.logit_rows.numel() == num_rows <= self._buckets[-1]
            and num_sequences <= self._padding_sequence
            and num_blocks <= self._block_tables.shape[1]
        )

    def replay(self, batch: StepBatch) -> ModelOutput:
        """One step. The result is a copy: it stays when the next step runs."""
        num_rows = batch.token_ids.numel()
        bucket = next(rows for rows in self._buckets if num_rows <= rows)
        num_sequences, num_blocks = batch.block_tables.shape
        self._token_ids[:num_rows].copy_(batch.token_ids)
        self._positions[:num_rows].copy_(batch.positions)
        self._row_sequences[:num_rows].copy_(batch.row_sequences)
        self._block_tables[:num_sequences, :num_blocks].copy_(batch.block_tables)
        self._token_ids[num_rows:bucket].zero_()
        self._positions[num_rows:bucket].zero_()
        self._row_sequences[num_rows:bucket].fill_(self._padding_sequence)
        graph = self._graphs[bucket]
        graph.replay()
        output = graph.output
        return ModelOutput(
            logits=output.logits[:num_rows].clone(), hidden=output.hidden[:num_rows].to(torch.float32, copy=True)
        )

    def _bound(self, step: Step, rows: int) -> Callable[[], ModelOutput]:
        inputs = (self._token_ids[:rows], self._positions[:rows], self._row_sequences[:rows], self._block_tables)
        return lambda: step(*inputs)
