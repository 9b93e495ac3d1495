"""One runner for two engines that are stepped in turn: the same weights in memory, halves of one KV cache.

Two copies of the same weights aren't equally fast: which of them got huge pages, and where its pages lie, makes some
per cent of a step, more than what is to be told apart. Decides which blocks are whose. Knows nothing of engines.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from torch import Tensor

from bowsprit_engine.core.contention import CountsCpuSeconds
from bowsprit_engine.core.runner import ModelOutput, Runner, StepBatch


class HalfOfRunner:
    """A `Runner` whose blocks are half of another's. The first half allocates for both, so it is prepared first."""

    def __init__(self, whole: Runner, *, is_second: bool) -> None:
        self._whole = whole
        self._is_second = is_second
        self._first_block = 0
        self.config = whole.config
        self.is_row_invariant = whole.is_row_invariant
        self.accelerator = whole.accelerator
        self.dtype = whole.dtype
        self.num_threads = whole.num_threads

    def allocate_kv(self, num_blocks: int) -> None:
        if self._is_second:
            self._first_block = num_blocks
        else:
            self._whole.allocate_kv(2 * num_blocks)

    def kv_bytes_per_block(self) -> int:
        return self._whole.kv_bytes_per_block()

    def forward(self, batch: StepBatch) -> ModelOutput:
        return self._whole.forward(dataclasses.replace(batch, block_tables=batch.block_tables + self._first_block))

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._whole.embed(token_ids)

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        return self._whole.lm_head_rows(token_ids)

    def final_norm_weight(self) -> Tensor:
        return self._whole.final_norm_weight()


class CountingHalf(HalfOfRunner):
    """Of a runner that counts its threads' processor time."""

    @property
    def last_step_cpu_seconds(self) -> float:
        return cast("CountsCpuSeconds", self._whole).last_step_cpu_seconds


def halves(whole: Runner) -> tuple[HalfOfRunner, HalfOfRunner]:
    """Two engines' runners. Both get as many blocks as the first one asks for."""
    half = CountingHalf if isinstance(whole, CountsCpuSeconds) else HalfOfRunner
    return half(whole, is_second=False), half(whole, is_second=True)
