"""Compiling grammars beside the event loop and the engine's thread.

Decides that one thread compiles, so that a flood of large schemas slows their own callers only. Refuses to know what
a grammar is of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bowsprit_engine.core.grammar import CompiledGrammar, GrammarCompiler
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.schemas import Schema
from bowsprit_engine.server.structured import Structure, json_source

logger = logging.getLogger(__name__)


class Grammars:
    """The served model's grammars. Built where it may take a second."""

    def __init__(
        self,
        tokenizer: Any,  # a transformers fast tokenizer
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bowsprit-grammar")
        self._compiler: GrammarCompiler | None = None
        ends = [token for token in eos_token_ids if token < vocab_size]
        if not ends:
            self._why_refused = "it has no end token"
            return
        import llguidance.hf  # with transformers: seconds, and not before the ports answer

        try:
            readable = llguidance.hf.from_tokenizer(tokenizer, max(vocab_size, len(tokenizer)), ends)
        except (ValueError, TypeError, RuntimeError) as error:
            self._why_refused = f"its tokenizer can't be read: {error}"
            logger.warning("structured output is refused for this model: %s", self._why_refused)
            return
        self._compiler = GrammarCompiler(readable, vocab_size=vocab_size, eos_token_ids=ends)

    async def compile(self, make: Callable[[], Structure | None]) -> CompiledGrammar | None:
        """What `make` describes; None where that is nothing. `make` runs in the thread too: a schema may be large.

        Raises CallerError that names the field, as deep in its schema as can be told.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._compile, make)

    def _compile(self, make: Callable[[], Structure | None]) -> CompiledGrammar | None:
        structure = make()
        if structure is None:
            return None
        if self._compiler is None:
            raise CallerError(
                f"{structure.param}: the answers of this model can't be constrained: {self._why_refused}",
                param=structure.param,
                code="unsupported_parameter",
            )
        try:
            return self._compiler.compile(structure.source)
        except CallerError as error:
            raise structure.refusal(error, partial(_why_not, self._compiler)) from error


def _why_not(compiler: GrammarCompiler, schema: Schema) -> str | None:
    """The words with which a schema alone is refused; None when it isn't."""
    try:
        compiler.compile(json_source(schema))
    except CallerError as error:
        return str(error)
    return None
