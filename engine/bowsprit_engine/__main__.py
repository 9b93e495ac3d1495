"""`bowsprit-engine`: serve a model, train a speculator, inspect a model. Wires settings to the parts and ends cleanly.

A failure is one line that says what and why, the last one on standard error: Kubernetes shows it as the reason of a
container that ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

import typer

from bowsprit_engine.config import ServeSettings, SettingsT, TrainSettings
from bowsprit_engine.errors import EngineError
from bowsprit_engine.options import command

SERVE_HELP = """Serve a model over OpenAI's API, with speculative decoding.

\b
    bowsprit-engine serve --model SmolLM2.gguf
    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"model": "SmolLM2", "messages": [{"role": "user", "content": "Hello"}]}'

Every flag is an environment variable too: --max-batch-size is BOWSPRIT_MAX_BATCH_SIZE; the flag wins.
Health is at :8001/healthz and /readyz, metrics at :8001/metrics. SIGTERM lets running answers finish.
By the native kernels (CPU) speculation never changes an answer: the same seed gives the same text with and without.
"""
TRAIN_HELP = """Train a speculator from captured traffic, evaluate it, and write it with its evaluation.

Exits 0 when it was evaluated, whatever the verdict; 1 when the run failed. The result is JSON in --termination-log.
"""
INSPECT_HELP = """Print a model's shape, its digest and what it needs in memory, as `serve` would load it.

\b
    bowsprit-engine inspect --model SmolLM2.gguf
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


def inspect(settings: ServeSettings) -> None:
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
application.command("inspect", help=INSPECT_HELP)(command(ServeSettings, _guarded(inspect)))


def main() -> None:
    """Entry point of `bowsprit-engine`."""
    application()


if __name__ == "__main__":
    main()
