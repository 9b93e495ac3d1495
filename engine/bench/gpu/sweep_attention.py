"""How many queries and keys a program of attention takes at a time, where its splits end, and when it walks them.

A candidate is written tile/block_k/warps/stages/split/walking: attention's constants by their order, then 1 where a
program walks its splits. SPLIT and BLOCK_K decide a row's bits, so they are one for all cells; warps decide them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.gpu.step_rows import step_rows
from bench.gpu.sweep_grid import Blocks, Grid
from bench.gpu.sweep_records import AS_IT_IS
from bench.gpu.sweep_timing import Stopwatch, overridden
from bowsprit_engine.core.runner import BLOCK_SIZE
from bowsprit_engine.kernels import attention

LEGEND = "tile/block_k/warps/stages/split/walking"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`walks`: a program goes through its splits, instead of one for each and a merge."""

    blocks: Blocks
    walks: bool

    @property
    def name(self) -> str:
        b = self.blocks
        return "/".join(map(str, (b.tile, b.block_k, b.num_warps, b.num_stages, b.split, int(self.walks))))

    @property
    def walk_above(self) -> int:
        return 0 if self.walks else 2**31

    def in_force(self) -> AbstractContextManager[None]:
        b = self.blocks
        return overridden(
            attention,
            TILE=b.tile,
            BLOCK_K=b.block_k,
            NUM_WARPS=b.num_warps,
            NUM_STAGES=b.num_stages,
            SPLIT=b.split,
        )


class _Cell:
    """One step's rows over caches in turn, as many as no cache of the card holds."""

    def __init__(
        self,
        grid: Grid,
        device: torch.device,
        *,
        batch: int,
        rows: int,
        context: int,
        copies: int | None = None,  # of the cache, that many unless given
    ) -> None:
        c, dtype = grid.scale.config, grid.scale.dtype
        self._step = step_rows(batch=batch, rows=rows, context=context, vocab_size=c.vocab_size, device=device)
        self._starts = attention.run_starts(self._step.row_sequences)
        self._q = torch.randn(batch * rows, c.num_heads, c.head_dim, device=device).to(dtype)
        shape = (2, self._step.block_tables.numel() * BLOCK_SIZE, c.num_kv_heads, c.head_dim)
        cache_bytes = 2 * shape[1] * shape[2] * shape[3] * dtype.itemsize
        self.copies = copies or max(1, grid.scale.rotated_bytes // cache_bytes)
        self._caches = [torch.randn(shape, device=device).to(dtype) for _ in range(self.copies)]

    def expected(self) -> Tensor:
        step = self._step
        return attention.reference(
            self._q,
            self._caches[0],
            positions=step.positions,
            row_sequences=step.row_sequences,
            block_tables=step.block_tables,
        )

    def attend(self, walk_above: int, *, cache: Tensor | None = None) -> Tensor:
        step = self._step
        return attention.attention(
            self._q,
            self._caches[0] if cache is None else cache,
            positions=step.positions,
            row_sequences=step.row_sequences,
            starts=self._starts,
            block_tables=step.block_tables,
            walk_above=walk_above,
        )

    def attend_all(self, walk_above: int) -> None:
        for cache in self._caches:
            self.attend(walk_above, cache=cache)


def preparations(grid: Grid, device: torch.device) -> Sequence[Callable[[], object]]:
    """Each compiles one candidate's kernels: what the rows and the contexts are doesn't matter for them."""

    def prepare(candidate: Candidate) -> None:
        cell = _Cell(grid, device, batch=1, rows=2, context=40, copies=1)
        with candidate.in_force():
            cell.attend(candidate.walk_above)

    return [
        partial(prepare, Candidate(blocks=blocks, walks=walks)) for blocks in grid.blocks for walks in (False, True)
    ]


def run(grid: Grid, stopwatch: Stopwatch) -> None:
    for batch, rows, context in grid.attention_cells:
        cell = _Cell(grid, stopwatch.device, batch=batch, rows=rows, context=context)
        time = partial(
            stopwatch.time,
            case=f"{batch} x {rows} rows, context {context}",
            passes=cell.copies,
            expected=cell.expected(),
        )
        present = attention.WALK_ABOVE
        time(partial(cell.attend_all, present), candidate=AS_IT_IS, result=partial(cell.attend, present))
        for blocks in grid.blocks:
            for walks in (False, True) if batch * rows >= grid.least_walking_rows else (False,):
                candidate = Candidate(blocks=blocks, walks=walks)
                attend_all = partial(cell.attend_all, candidate.walk_above)
                with candidate.in_force():
                    time(attend_all, candidate=candidate.name, result=partial(cell.attend, candidate.walk_above))
