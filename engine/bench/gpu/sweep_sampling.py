"""What verification and the filters of sampling cost by the number of rows, as they are launched: no candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.gpu.sweep_grid import Grid
from bench.gpu.sweep_records import AS_IT_IS
from bench.gpu.sweep_timing import Stopwatch
from bowsprit_engine.kernels import filters, verify

TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 40, 0.9, 0.0


def _work(grid: Grid, device: torch.device, num_rows: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Cases with their launches; each row is a sequence."""

    def each(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((num_rows,), value, dtype=dtype, device=device)

    logits = torch.randn(num_rows, grid.scale.config.vocab_size, device=device)
    draw = partial(
        verify.verify,
        logits,
        row_starts=torch.arange(num_rows + 1, dtype=torch.int32, device=device),
        drafts=each(0, torch.int64),
        seeds=each(1, torch.int64),
        positions=each(5, torch.int32),
    )
    yield f"verify, greedy, {num_rows} rows", partial(draw, temperature=each(0.0, torch.float32))
    yield f"verify, at {TEMPERATURE}, {num_rows} rows", partial(draw, temperature=each(TEMPERATURE, torch.float32))
    yield (
        f"filters, {num_rows} rows",
        partial(
            filters.filter_logits,
            logits,
            each(TEMPERATURE, torch.float32),
            each(TOP_K, torch.int32),
            each(TOP_P, torch.float32),
            each(MIN_P, torch.float32),
        ),
    )


def preparations(grid: Grid, device: torch.device) -> Sequence[Callable[[], object]]:
    """Few rows and many are launched, and so compiled, in different ways."""

    def prepare(num_rows: int) -> None:
        for _, work in _work(grid, device, num_rows):
            work()

    return [partial(prepare, num_rows) for num_rows in grid.sampling_rows]


def run(grid: Grid, stopwatch: Stopwatch) -> None:
    for num_rows in grid.sampling_rows:
        for case, work in _work(grid, stopwatch.device, num_rows):
            stopwatch.time(work, case=case, candidate=AS_IT_IS)
