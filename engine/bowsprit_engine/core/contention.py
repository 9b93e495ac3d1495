"""Whether a step had its cores to itself: only then does its time say anything.

Decides by CPU time over (threads x wall time) of the forward pass. On shared cores the same step takes up to 100 times
longer, and no estimate may learn from that. A GPU's steps count as uncontended: its queue isn't the processor's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bowsprit_engine.core.runner import ModelOutput, Runner, StepBatch

LEAST_CPU_SHARE = 0.9


@runtime_checkable
class CountsCpuSeconds(Protocol):
    """A runner that knows the processor seconds of its own threads, which the process's clock mixes with others'."""

    @property
    def last_step_cpu_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedForward:
    """A forward pass, its wall seconds, and whether other work had its cores meanwhile."""

    output: ModelOutput
    seconds: float
    is_contended: bool


def timed_forward(runner: Runner, batch: StepBatch) -> TimedForward:
    """Run one forward pass. The process's clock is a system call, and asked only where it says something."""
    own = runner if isinstance(runner, CountsCpuSeconds) else None
    is_on_cpu = batch.token_ids.device.type == "cpu"
    cpu_begin = time.process_time() if is_on_cpu and own is None else 0.0
    begin = time.perf_counter()
    output = runner.forward(batch)
    seconds = time.perf_counter() - begin
    if not is_on_cpu:
        return TimedForward(output=output, seconds=seconds, is_contended=False)
    cpu_seconds = time.process_time() - cpu_begin if own is None else own.last_step_cpu_seconds
    is_contended = cpu_seconds < LEAST_CPU_SHARE * runner.num_threads * seconds
    return TimedForward(output=output, seconds=seconds, is_contended=is_contended)
