"""Compiling grammars beside the event loop and the engine's thread.

Decides that one thread compiles, so that a flood of large schemas slows their own callers only, and how many may wait
for it. Refuses to know what a grammar is of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bowsprit_engine.core.grammar import CompiledGrammar, GrammarCompiler
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.server.schemas import Schema
from bowsprit_engine.server.structured import Structure, json_source

MAX_INSIDE = 64  # grammars that compile or wait: usual ones take 1 ms each, a refusal whose place is searched for 60 ms

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
        self._room = threading.BoundedSemaphore(MAX_INSIDE)
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

    async def compile(
        self, make: Callable[[], Structure | None], *, names_place: bool = True
    ) -> CompiledGrammar | None:
        """What `make` describes; None where that is nothing. `make` runs in the thread too: a schema may be large.

        Raises CallerError that names the field, as deep in its schema as can be told if it `names_place`, which takes
        time; and WorldError (reason Overloaded) where too many wait.
        """
        if not self._room.acquire(blocking=False):
            raise WorldError(f"{MAX_INSIDE} grammars compile or wait, which is the limit", reason="Overloaded")
        compiling = self._executor.submit(self._compile, make, names_place=names_place)
        compiling.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(compiling)

    def _compile(self, make: Callable[[], Structure | None], *, names_place: bool) -> CompiledGrammar | None:
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
            return self._compiler.compile(structure.source, is_costly=structure.is_costly)
        except CallerError as error:
            if not names_place:
                raise
            raise structure.refusal(error, partial(_why_not, self._compiler)) from error


def _why_not(compiler: GrammarCompiler, schema: Schema) -> str | None:
    """The words with which a schema alone is refused; None when it isn't."""
    try:
        compiler.compile(json_source(schema))
    except CallerError as error:
        return str(error)
    return None
