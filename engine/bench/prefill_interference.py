"""What a long prompt does to a stream that runs: how much later its tokens come while the prompt is computed.

    python -m bench.prefill_interference --help

The engine is as `serve` assembles it, its bound on that delay included. Latency is counted in the stream's own steps:
a gap between two steps that gave it tokens, less the median gap before the prompt came, over that median. Gaps in which
other work on the machine interrupted a step, by the engine's own test of that, are told apart. With speculation a
stream's steps differ in length and bring it several tokens. Refuses to know HTTP.
"""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from bench.spread import Ratio, ratio
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.contention import timed_forward
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.core.runner import ModelOutput, Runner, StepBatch
from bowsprit_engine.server.assembly import assemble
from bowsprit_engine.server.assembly import load as load_model

PROMPT_TOKENS = 2000
TOKENS_BEFORE = 64
PERCENTILE = 99
READY_SECONDS = 120.0
VOCABULARY = 40_000  # of random prompts: within any model's that is measured here


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Times of a running stream's steps, of a prompt that came and got its first token, and of contended steps' ends.

    Seconds, one clock. `num_tokens`: of the stream.
    """

    token_seconds: Sequence[float]
    num_tokens: int
    arrival: float
    first_token: float
    contended: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Seconds: the median gap before the prompt, and by how much the slow gaps during it exceed that.

    `added` is over the gaps without a contended step, `added_in_all` over all; `contended` of `gaps` are left out.
    `tokens_per_step`: of the stream, from its first to its last.
    """

    step: float
    added: float
    added_in_all: float
    contended: int
    gaps: int
    tokens_per_step: float


def delay(of: Round) -> Delay:
    """At the 99th percentile. Raises ValueError for a stream without gaps before the prompt or quiet ones during it."""
    gaps = list(pairwise(of.token_seconds))
    before = [end - begin for begin, end in gaps if end <= of.arrival]
    during = [(begin, end) for begin, end in gaps if end > of.arrival and begin < of.first_token]
    quiet = [gap for gap in during if not any(gap[0] < end <= gap[1] for end in of.contended)]
    if not before or not quiet:
        raise ValueError(
            f"{len(before)} gaps before the prompt and {len(quiet)} without contention of {len(during)} during it: "
            "nothing to compare"
        )
    step = statistics.median(before)
    return Delay(
        step=step,
        added=max(0.0, _slow(quiet) - step),
        added_in_all=max(0.0, _slow(during) - step),
        contended=len(during) - len(quiet),
        gaps=len(during),
        tokens_per_step=of.num_tokens / len(of.token_seconds),
    )


def _slow(gaps: Sequence[tuple[float, float]]) -> float:
    lengths = sorted(end - begin for begin, end in gaps)
    return lengths[min(len(lengths) - 1, len(lengths) * PERCENTILE // 100)]


class WatchedRunner:
    """A runner that writes down when its contended steps ended."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.contended: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, batch: StepBatch) -> ModelOutput:
        timed = timed_forward(self._runner, batch)
        if timed.is_contended:
            self.contended.append(time.perf_counter())
        return timed.output


def measure(engine: Engine, runner: WatchedRunner, *, num_rounds: int, stream_tokens: int) -> list[Delay]:
    """One stream and one prompt per round, nothing else in the engine."""
    draw = random.Random(0)
    rounds = [_round(engine, number, draw, stream_tokens) for number in range(num_rounds)]
    return [delay(replace(one, contended=runner.contended)) for one in rounds]


def _round(engine: Engine, number: int, draw: random.Random, stream_tokens: int) -> Round:
    stream, late = _Timed(expected=TOKENS_BEFORE), _Timed(expected=1)
    engine.submit(_request(f"stream-{number}", draw, 64, stream_tokens, stream))
    stream.is_reached.wait()
    arrival = time.perf_counter()
    engine.submit(_request(f"prompt-{number}", draw, PROMPT_TOKENS, 1, late))
    late.is_done.wait()
    engine.cancel(f"stream-{number}")
    stream.is_done.wait()
    return Round(
        token_seconds=tuple(stream.seconds),
        arrival=arrival,
        first_token=late.seconds[0],
        num_tokens=stream.num_tokens,
    )


class _Timed:
    """Writes down when tokens came. `expected`: times that."""

    def __init__(self, *, expected: int) -> None:
        self._expected = expected
        self.seconds: list[float] = []
        self.num_tokens = 0
        self.is_reached = threading.Event()
        self.is_done = threading.Event()

    def __call__(self, output: StepOutput) -> None:
        if output.token_ids:
            self.seconds.append(time.perf_counter())
            self.num_tokens += len(output.token_ids)
        if len(self.seconds) >= self._expected:
            self.is_reached.set()
        if output.finish_reason is not None:
            self.is_reached.set()
            self.is_done.set()


def _request(name: str, draw: random.Random, num_tokens: int, max_tokens: int, on_output: _Timed) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=tuple(draw.randrange(VOCABULARY) for _ in range(num_tokens)),
        sampling=SamplingParams(seed=1, temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        speculation=SpeculationParams(),
        on_output=on_output,
        arrival_seconds=time.monotonic(),
    )


def figures(delays: Sequence[Delay]) -> dict[str, Ratio]:
    """Of the project's target: added latency in steps, with its interval over the rounds; and with contended steps."""
    steps = [one.step for one in delays]
    return {
        "p99_added_steps": ratio([one.added for one in delays], steps),
        "p99_added_steps_in_all": ratio([one.added_in_all for one in delays], steps),
    }


def main(
    model: Annotated[Path, typer.Option(help="GGUF file or Hugging Face folder.")],
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    speculation: Annotated[Literal["off", "auto"], typer.Option(help="As `serve` takes it.")] = "off",
    quick: Annotated[bool, typer.Option("--quick", help="3 rounds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the figure and all delays go.")] = None,
) -> None:
    """Print by how many steps a prompt of 2,000 tokens delays a running stream's tokens at the 99th percentile."""
    stream_tokens = 3000
    settings = ServeSettings(
        model=str(model), max_model_len=stream_tokens + PROMPT_TOKENS, speculation=speculation, prefix_cache="off"
    )
    loaded = load_model(settings)
    runner = WatchedRunner(loaded.runner)
    engine = assemble(settings, replace(loaded, runner=cast("Runner", runner)), lambda finished: None)
    engine.start()
    if not engine.wait_ready(READY_SECONDS):
        raise SystemExit(f"the engine isn't ready after {READY_SECONDS:.0f} s")
    delays = measure(engine, runner, num_rounds=3 if quick else rounds, stream_tokens=stream_tokens)
    engine.stop()
    found = figures(delays)
    figure, in_all = found["p99_added_steps"], found["p99_added_steps_in_all"]
    step = statistics.median(one.step for one in delays)
    tokens = statistics.median(one.tokens_per_step for one in delays)
    typer.echo(
        f"a prompt of {PROMPT_TOKENS} tokens delays a running stream's tokens by {figure.value:.2f} steps of "
        f"{step * 1e3:.2f} ms and {tokens:.2f} tokens at the 99th percentile (95 % interval {figure.low:.2f} to "
        f"{figure.high:.2f}); {in_all.value:.2f} with the {sum(one.contended for one in delays)} of "
        f"{sum(one.gaps for one in delays)} gaps in which other work interrupted a step"
    )
    if json_file is not None:
        content = {"figures": {name: asdict(one) for name, one in found.items()}, "delays": list(map(asdict, delays))}
        json_file.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    typer.run(main)
