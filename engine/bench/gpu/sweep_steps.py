"""T of a few steps of the whole model, and what each kernel has of it: where a better constant would be felt.

The profiler's figures are the device's alone; what T has beyond their sum is the host's, or lies between launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.device_time import seconds_of_calls
from bench.gpu.step_rows import blocks_per_sequence, step_rows
from bench.gpu.sweep_grid import Grid
from bench.gpu.sweep_records import AS_IT_IS, InStep
from bench.gpu.sweep_timing import Stopwatch
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.triton_runner import TritonRunner

PROFILED_STEPS = 3
PROFILED = "profile"


def _runner(grid: Grid, device: torch.device, *, num_layers: int) -> TritonRunner:
    scale = grid.scale
    config = replace(scale.config, num_layers=num_layers)
    runner = TritonRunner(RandomCheckpoint(Path("random"), config, device=device), dtype=scale.dtype, device=device)
    runner.allocate_kv(max(batch * blocks_per_sequence(scale.context + rows) for batch, rows in grid.step_cells))
    return runner


def preparations(grid: Grid, device: torch.device) -> Sequence[Callable[[], object]]:
    """One layer's kernels are those of all."""
    return [lambda: _runner(grid, device, num_layers=1)]


def run(grid: Grid, stopwatch: Stopwatch) -> None:
    scale, device = grid.scale, stopwatch.device
    runner = _runner(grid, device, num_layers=scale.config.num_layers)
    steps = {
        f"batch {batch}, n = {rows}": partial(
            runner.forward,
            step_rows(batch=batch, rows=rows, context=scale.context, vocab_size=scale.config.vocab_size, device=device),
        )
        for batch, rows in grid.step_cells
    }
    for case, step in steps.items():  # all before the first profile, which slows down what comes after it
        stopwatch.time(step, case=case, candidate=AS_IT_IS, take=seconds_of_calls)
    for case, step in steps.items():
        stopwatch.attempt(partial(_kernels, step, case=case, device=device), case=case, candidate=PROFILED)


def _kernels(step: Callable[[], object], *, case: str, device: torch.device) -> Iterator[InStep]:
    """On the CPU, in a rehearsal, torch's operators stand for kernels."""
    is_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiled:
        for _ in range(PROFILED_STEPS):
            step()
        if is_cuda:
            torch.cuda.synchronize()
    for event in profiled.key_averages():
        microseconds = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        yield InStep(
            case=case,
            kernel=event.key,
            launches=event.count / PROFILED_STEPS,
            seconds=microseconds / 1e6 / PROFILED_STEPS,
        )
