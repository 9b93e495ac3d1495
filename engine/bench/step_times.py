"""T(n): what a step over n rows costs on the native kernels, beside the time of reading its weights and keys.

    python -m bench.step_times --help

Decides what a sample is: a round reads the weights once, then runs every case once, so that what disturbs the machine
disturbs them alike. The roofline of a case is its bytes (weights, keys and values) at the bandwidth of that reading.
Refuses to know other engines.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.exported_weights import packaged_model
from bench.spread import Ratio, ratio, spread
from bowsprit_engine.core.runner import BLOCK_SIZE, StepBatch
from bowsprit_engine.kernels import native
from bowsprit_engine.models import load_model
from bowsprit_engine.models.native_runner import NativeRunner

ROWS = (1, 2, 4, 5, 9, 17, 32)
BATCHES = (2, 4, 8)
CONTEXT = 256
QUIET_SHARE = 0.9  # of the threads' wall time that they must have had the processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`batch` sequences of `context` tokens, each with `rows` new ones."""

    batch: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Samples by round. Seconds are wall time, or processor time per thread: see `is_processor_time`."""

    accelerator: str
    context: int
    num_threads: int
    is_processor_time: bool
    weight_bytes: int
    kv_bytes_per_token: int
    read_seconds: Sequence[float]  # of the weights, one per round
    step_seconds: Mapping[Case, Sequence[float]]
    contended_share: float  # of the samples, in which other processes took more than a tenth of the time

    def roofline_fraction(self, case: Case) -> Ratio:
        """Of the read bandwidth: 1 is a step that takes as long as reading its bytes."""
        kv_bytes = case.batch * self.kv_bytes_per_token * (self.context + case.rows)
        share = 1 + kv_bytes / self.weight_bytes
        return ratio([seconds * share for seconds in self.read_seconds], self.step_seconds[case])

    def over_one_row(self, case: Case) -> Ratio:
        """T(case) / T(one row of one sequence)."""
        return ratio(self.step_seconds[case], self.step_seconds[Case(batch=1, rows=1)])

    def figures(self) -> dict[str, Ratio]:
        """Those of the project's targets, by name."""
        one, nine, seventeen = (Case(batch=1, rows=rows) for rows in (1, 9, 17))
        return {
            "roofline_fraction_n1": self.roofline_fraction(one),
            "roofline_fraction_n9": self.roofline_fraction(nine),
            "t9_over_t1": self.over_one_row(nine),
            "t17_over_t1": self.over_one_row(seventeen),
        }


def measure(
    runner: NativeRunner,
    *,
    num_rounds: int,
    context: int = CONTEXT,
    is_processor_time: bool = False,
    rows: Sequence[int] = ROWS,
    batches: Sequence[int] = BATCHES,
) -> StepTimes:
    """Step times of 1 sequence with each of `rows`, and of each of `batches` with one row per sequence."""
    cases = [*(Case(batch=1, rows=n) for n in rows), *(Case(batch=b, rows=1) for b in batches)]
    blocks = -(-(context + max(rows)) // BLOCK_SIZE)
    runner.allocate_kv(blocks * max(case.batch for case in cases))
    for sequence in range(max(case.batch for case in cases)):
        runner.forward(_prompt(runner, context, blocks, sequence))
    weights = runner.weights_read_each_step()
    steps = {case: _step(runner, case, context, blocks) for case in cases}
    clock = _Clock(runner.num_threads, is_processor_time=is_processor_time)
    read_seconds: list[float] = []
    step_seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(num_rounds):
        read_seconds.append(clock.seconds_of(lambda: native.read_through(weights).cpu_seconds))
        for case, batch in steps.items():
            step_seconds[case].append(clock.seconds_of(partial(_cpu_seconds, runner, batch)))
    return StepTimes(
        accelerator=runner.accelerator,
        context=context,
        num_threads=runner.num_threads,
        is_processor_time=is_processor_time,
        weight_bytes=sum(weight.num_bytes for weight in weights),
        kv_bytes_per_token=runner.kv_bytes_per_block() // BLOCK_SIZE,
        read_seconds=read_seconds,
        step_seconds=step_seconds,
        contended_share=clock.num_contended / clock.num_samples,
    )


class _Clock:
    """Times work that returns its processor seconds over all threads, and counts how often it lacked the processor."""

    def __init__(self, num_threads: int, *, is_processor_time: bool) -> None:
        self._num_threads, self._is_processor_time = num_threads, is_processor_time
        self.num_samples = self.num_contended = 0

    def seconds_of(self, work: Callable[[], float]) -> float:
        begin = time.perf_counter()
        cpu_seconds = work() / self._num_threads
        seconds = time.perf_counter() - begin
        self.num_samples += 1
        self.num_contended += cpu_seconds < QUIET_SHARE * seconds
        return cpu_seconds if self._is_processor_time else seconds


def _cpu_seconds(runner: NativeRunner, batch: StepBatch) -> float:
    runner.forward(batch)
    return runner.last_step_cpu_seconds


def _prompt(runner: NativeRunner, context: int, blocks: int, sequence: int) -> StepBatch:
    return StepBatch(
        token_ids=torch.arange(context) * 7919 % runner.config.vocab_size,
        positions=torch.arange(context, dtype=torch.int32),
        row_sequences=torch.zeros(context, dtype=torch.int32),
        block_tables=_tables(1, blocks, first=sequence),
        logit_rows=torch.tensor([context - 1]),
    )


def _step(runner: NativeRunner, case: Case, context: int, blocks: int) -> StepBatch:
    """Every row's logits are wanted, as in verification."""
    num_rows = case.batch * case.rows
    return StepBatch(
        token_ids=torch.arange(num_rows) * 104729 % runner.config.vocab_size,
        positions=torch.arange(context, context + case.rows, dtype=torch.int32).repeat(case.batch),
        row_sequences=torch.arange(case.batch, dtype=torch.int32).repeat_interleave(case.rows),
        block_tables=_tables(case.batch, blocks),
        logit_rows=torch.arange(num_rows),
    )


def _tables(num_sequences: int, blocks: int, *, first: int = 0) -> torch.Tensor:  # [num_sequences, blocks] int32
    begin = first * blocks
    return torch.arange(begin, begin + num_sequences * blocks, dtype=torch.int32).view(num_sequences, blocks)


def table_of(times: StepTimes) -> Table:
    """One line per case: median and quartiles, T/T(1), fraction of the roofline with its interval."""
    bandwidth = times.weight_bytes / statistics.median(times.read_seconds) * 1e-9
    clock = "processor time per thread" if times.is_processor_time else "wall time"
    table = Table(
        title=f"{times.accelerator}, context {times.context}, {clock}, {len(times.read_seconds)} rounds; reading "
        f"{times.weight_bytes / 1e6:.0f} MB of weights: {bandwidth:.1f} GB/s",
        caption=f"{times.contended_share:.0%} of the samples lacked the processor for a tenth of their time or more",
    )
    for column in ("sequences", "rows each", "ms", "quartiles", "T / T(1)", "of the roofline", "95 % interval"):
        table.add_column(column, justify="right")
    for case, seconds in times.step_seconds.items():
        middle, fraction = spread(seconds), times.roofline_fraction(case)
        table.add_row(
            str(case.batch),
            str(case.rows),
            f"{middle.median * 1e3:.2f}",
            f"{middle.low * 1e3:.2f} to {middle.high * 1e3:.2f}",
            f"{times.over_one_row(case).value:.2f}",
            f"{fraction.value:.0%}",
            f"{fraction.low:.0%} to {fraction.high:.0%}",
        )
    return table


def main(
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the new rows.")] = CONTEXT,
    threads: Annotated[int | None, typer.Option(min=1, help="As many as the engine would take.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each reads the weights and runs every case once.")] = 41,
    quick: Annotated[bool, typer.Option("--quick", help="9 rounds.")] = False,
    processor_time: Annotated[
        bool,
        typer.Option("--processor-time", help="Instead of wall time: for a machine that others use meanwhile."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where figures and samples go.")] = None,
) -> None:
    """Print T(n), the read bandwidth and the fraction of the roofline. BOWSPRIT_NATIVE_VARIANT picks kernels."""
    loaded = load_model(
        model or packaged_model(),
        dtype="auto",
        max_model_len=context + max(ROWS),
        backend="native",
        num_threads=threads,
    )
    assert isinstance(loaded.runner, NativeRunner)  # the native backend's
    times = measure(loaded.runner, num_rounds=9 if quick else rounds, context=context, is_processor_time=processor_time)
    Console(highlight=False, soft_wrap=True).print(table_of(times))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(times), indent=1))


def as_json(times: StepTimes) -> dict[str, object]:
    """`figures` by name with value, low and high, and every sample."""
    samples = [{**asdict(case), "seconds": seconds} for case, seconds in times.step_seconds.items()]
    return {
        "accelerator": times.accelerator,
        "context": times.context,
        "is_processor_time": times.is_processor_time,
        "contended_share": times.contended_share,
        "weight_bytes": times.weight_bytes,
        "figures": {name: asdict(figure) for name, figure in times.figures().items()},
        "read_seconds": list(times.read_seconds),
        "steps": samples,
    }


if __name__ == "__main__":
    typer.run(main)
