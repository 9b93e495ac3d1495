"""`bowsprit-engine`: serve a model, train a speculator, inspect and measure a model.

Wires settings to the parts and ends cleanly. A failure is one line that says what and why, the last one on standard
error: Kubernetes shows it as the reason of a container that ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

import typer

from bowsprit_engine.config import BenchSettings, ServeSettings, SettingsT, TrainSettings
from bowsprit_engine.errors import EngineError
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.options import command

SERVE_HELP = """Serve a model over OpenAI's API, with speculative decoding.

\b
    bowsprit-engine serve --model SmolLM2.gguf
    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"model": "SmolLM2", "messages": [{"role": "user", "content": "Hello"}]}'

\b
    bowsprit-engine serve --model ./Llama-3.1-8B-Instruct --device cuda --max-batch-size 32 --kv-cache-memory 8Gi
    bowsprit-engine serve --model SmolLM2.gguf --drafter suffix=Suffix         # looks recent answers up too
    bowsprit-engine serve --model SmolLM2.gguf --speculation off               # plain decoding
    BOWSPRIT_MODEL=SmolLM2.gguf BOWSPRIT_DRAIN_SECONDS=2m bowsprit-engine serve

Every flag is an environment variable too: --max-batch-size is BOWSPRIT_MAX_BATCH_SIZE; the flag wins.
Health is at :8001/healthz and /readyz, metrics at :8001/metrics. /readyz says 200 once the model is loaded and its
steps are timed. SIGTERM: new requests get 503 with Retry-After, running answers have --drain-seconds to finish.
By the native kernels (CPU) speculation never changes an answer: the same seed gives the same text with and without.
"""
TRAIN_HELP = """Train a speculator from captured traffic, evaluate it, and write it with its evaluation.

\b
    bowsprit-engine train --model SmolLM2.gguf --capture-uri file:///traffic/capture \\
      --output-uri file:///traffic/speculators/head-1 --revision head-1 --beside suffix=Suffix

Exits 0 when it was evaluated, whatever the verdict; 1 when the run failed. The result is JSON in --termination-log.
"""
INSPECT_HELP = """Print a model's shape, its digest and what it needs in memory, as `serve` would load it.

\b
    bowsprit-engine inspect --model SmolLM2.gguf
"""

BENCH_HELP = """Measure a model on this machine: tokens/s with and without speculation, in one run, in turn.

\b
    bowsprit-engine bench --model SmolLM2.gguf
    bowsprit-engine bench --model SmolLM2.gguf --modes "off auto 2 8" --batch-sizes "1 4 8" --rounds 5
    bowsprit-engine bench --model SmolLM2.gguf --prompts my-prompts.jsonl --speculator-uri file:///heads/7

Use prompts like your own traffic: what speculation gains depends on the text. `auto` is what an engine does before an
operator has pushed a table. The ratio to plain decoding is taken round by round, and so bears a load that comes and
goes. Every prompt is new to every round: what a Suffix drafter remembers of answers is forgotten between two.
"""

application = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Bowsprit's engine: serves language models with speculative decoding, and trains what speculates.",
)


def serve(settings: ServeSettings) -> None:
    """Until SIGTERM."""
    import uvloop

    from bowsprit_engine.server import serve as serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving.serve(settings))


def train(settings: TrainSettings) -> None:
    from bowsprit_engine.training import job

    raise typer.Exit(job.run(settings))


def bench(settings: BenchSettings) -> None:
    from bowsprit_engine.benchmark import command as benchmark

    benchmark.run(settings)


def inspect(settings: ModelSettings) -> None:
    from bowsprit_engine.server.inspection import print_model

    print_model(settings)


def _guarded(run: Callable[[SettingsT], None]) -> Callable[[SettingsT], None]:
    """Log as the settings say, and turn the world's failures into one last line and exit code 1."""

    def guarded(settings: SettingsT) -> None:
        logging.basicConfig(
            level=settings.log_level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        try:
            run(settings)
        except EngineError as error:
            typer.echo(f"bowsprit-engine: {error}", err=True)
            raise typer.Exit(1) from error

    return guarded


application.command("serve", help=SERVE_HELP)(command(ServeSettings, _guarded(serve)))
application.command("train", help=TRAIN_HELP)(command(TrainSettings, _guarded(train)))
application.command("inspect", help=INSPECT_HELP)(command(ModelSettings, _guarded(inspect)))
application.command("bench", help=BENCH_HELP)(command(BenchSettings, _guarded(bench)))


def main() -> None:
    """Entry point of `bowsprit-engine`."""
    application()


if __name__ == "__main__":
    main()
