"""What a long prompt does to a stream that runs: how much later its tokens come while the prompt is computed.

    python -m bench.prefill_interference --help

The engine is as `serve` assembles it, its bound on that delay included. Latency is counted in the stream's own steps:
a gap between two of its tokens, less the median gap before the prompt came, over that median. Refuses to know HTTP.
"""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from bench.spread import Ratio, ratio
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.server.assembly import assemble
from bowsprit_engine.server.assembly import load as load_model

PROMPT_TOKENS = 2000
TOKENS_BEFORE = 64
PERCENTILE = 99
READY_SECONDS = 120.0
VOCABULARY = 40_000  # of random prompts: within any model's that is measured here


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Times of a running stream's tokens, and of a prompt that came and got its first token. Seconds, one clock."""

    token_seconds: Sequence[float]
    arrival: float
    first_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Seconds: the median gap before the prompt, and by how much the slow gaps during it exceed that."""

    step: float
    added: float


def delay(of: Round) -> Delay:
    """At the 99th percentile. Raises ValueError when the stream had no token before the prompt or during it."""
    gaps = [(begin, end) for begin, end in pairwise(of.token_seconds)]
    before = [end - begin for begin, end in gaps if end <= of.arrival]
    during = sorted(end - begin for begin, end in gaps if end > of.arrival and begin < of.first_token)
    if not before or not during:
        raise ValueError(f"{len(before)} gaps before the prompt and {len(during)} during it: nothing to compare")
    step = statistics.median(before)
    slow = during[min(len(during) - 1, len(during) * PERCENTILE // 100)]
    return Delay(step=step, added=max(0.0, slow - step))


def measure(engine: Engine, *, num_rounds: int, stream_tokens: int) -> list[Delay]:
    """One stream and one prompt per round, nothing else in the engine."""
    draw = random.Random(0)
    return [delay(_round(engine, number, draw, stream_tokens)) for number in range(num_rounds)]


def _round(engine: Engine, number: int, draw: random.Random, stream_tokens: int) -> Round:
    stream, late = _Timed(expected=TOKENS_BEFORE), _Timed(expected=1)
    engine.submit(_request(f"stream-{number}", draw, 64, stream_tokens, stream))
    stream.is_reached.wait()
    arrival = time.perf_counter()
    engine.submit(_request(f"prompt-{number}", draw, PROMPT_TOKENS, 1, late))
    late.is_done.wait()
    engine.cancel(f"stream-{number}")
    stream.is_done.wait()
    return Round(token_seconds=tuple(stream.seconds), arrival=arrival, first_token=late.seconds[0])


class _Timed:
    """Writes down when tokens came."""

    def __init__(self, *, expected: int) -> None:
        self._expected = expected
        self.seconds: list[float] = []
        self.is_reached = threading.Event()
        self.is_done = threading.Event()

    def __call__(self, output: StepOutput) -> None:
        if output.token_ids:
            self.seconds.append(time.perf_counter())
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
        speculation=SpeculationParams(enabled=False),
        on_output=on_output,
        arrival_seconds=time.monotonic(),
    )


def figures(delays: Sequence[Delay]) -> dict[str, Ratio]:
    """Of the project's target: added latency in steps, with its interval over the rounds."""
    return {"p99_added_steps": ratio([one.added for one in delays], [one.step for one in delays])}


def main(
    model: Annotated[Path, typer.Option(help="GGUF file or Hugging Face folder.")],
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    quick: Annotated[bool, typer.Option("--quick", help="3 rounds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the figure and all delays go.")] = None,
) -> None:
    """Print by how many steps a prompt of 2,000 tokens delays a running stream's tokens at the 99th percentile."""
    stream_tokens = 3000
    settings = ServeSettings(
        model=str(model), max_model_len=stream_tokens + PROMPT_TOKENS, speculation="off", prefix_cache="off"
    )
    loaded = load_model(settings)
    engine = assemble(settings, loaded, lambda finished: None)
    engine.start()
    if not engine.wait_ready(READY_SECONDS):
        raise SystemExit(f"the engine isn't ready after {READY_SECONDS:.0f} s")
    delays = measure(engine, num_rounds=3 if quick else rounds, stream_tokens=stream_tokens)
    engine.stop()
    found = figures(delays)
    figure = found["p99_added_steps"]
    step = statistics.median(one.step for one in delays)
    typer.echo(
        f"a prompt of {PROMPT_TOKENS} tokens delays a running stream's tokens by {figure.value:.2f} steps of "
        f"{step * 1e3:.2f} ms at the 99th percentile (95 % interval {figure.low:.2f} to {figure.high:.2f})"
    )
    if json_file is not None:
        content = {"figures": {name: asdict(one) for name, one in found.items()}, "delays": list(map(asdict, delays))}
        json_file.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    typer.run(main)
