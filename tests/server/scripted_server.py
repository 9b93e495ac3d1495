"""`python -m server.scripted_server FLAGS`: the whole process of `serve`, but for the model.

It answers 200 tokens at a time of its own, so that a test can end it in the middle of a stream. Asked by the prompt
"fail", its engine's thread dies.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence

from typer import Typer

from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.request import Request
from bowsprit_engine.errors import EngineError
from bowsprit_engine.options import command
from bowsprit_engine.server.serve import Loaded, capture_from, serve
from scripted_engine import END, MAX_MODEL_LEN, VOCAB_SIZE, ScriptedEngine, byte_tokenizer

STEP_SECONDS = 0.01


class PacedEngine(ScriptedEngine):
    """Each answer takes two seconds."""

    def pace(self) -> None:
        time.sleep(STEP_SECONDS)


def answer(request: Request) -> Sequence[int]:
    if bytes(request.prompt_token_ids) == b"fail":
        raise RuntimeError("told to fail")
    return b"0123456789" * 20


def load(settings: ServeSettings) -> Loaded:
    capture = capture_from(settings, "d" * 64)
    return Loaded(
        engine=PacedEngine(answer=answer, step_tokens=1, on_finished=capture.take),
        tokenizer=byte_tokenizer(),
        capture=capture,
        digest="d" * 64,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=[END],
    )


def run(settings: ServeSettings) -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    try:
        asyncio.run(serve(settings, load))
    except EngineError as error:
        sys.exit(f"scripted_server: {error}")


if __name__ == "__main__":
    application = Typer()
    application.command()(command(ServeSettings, run))
    application()
