"""Compiling grammars beside the event loop and the engine's thread.

Decides that one thread compiles, so that a flood of large schemas slows their own callers only, how many may wait for
it, and how much the grammars of all requests may hold together. Requests of one tenant that ask for the same grammar
share it as long as one of them is there; another tenant's don't, who could tell by the time what others ask for.
Refuses to know what a grammar is of, and what running sequences add (core/lexers.py).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from bowsprit_engine.core.grammar import CompiledGrammar, GrammarCompiler
from bowsprit_engine.core.memory_budget import MIB, readable
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.server.schemas import Schema
from bowsprit_engine.server.structured import Structure, json_source

MAX_INSIDE = 64  # grammars that compile or wait: usual ones take 1 ms each, a refusal whose place is searched for 60 ms
# Of the grammars of requests that run and wait, as far as compiling makes them: 80 usual ones, ten of the largest.
MAX_LIVE_BYTES = 128 * MIB
# Measured on 49,152 tokens: a grammar and its first mask took 0.1 to 1.5 MiB, and of 24,000 characters of schema 6.5.
LEAST_BYTES = 3 * MIB // 2
BYTES_PER_CHARACTER = 256

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
        # By tenant and source, as long as a request has it. The compiling thread's alone.
        self._live: WeakValueDictionary[tuple[str, str, bool], CompiledGrammar] = WeakValueDictionary()
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
        self, make: Callable[[], Structure | None], *, tenant: str = "", names_place: bool = True
    ) -> CompiledGrammar | None:
        """What `make` describes; None where that is nothing. `make` runs in the thread too: a schema may be large.

        Raises CallerError that names the field, as deep in its schema as can be told if it `names_place`, which takes
        time; and WorldError (reason Overloaded) where too many wait, or those that are there hold too much.
        """
        if not self._room.acquire(blocking=False):
            raise WorldError(f"{MAX_INSIDE} grammars compile or wait, which is the limit", reason="Overloaded")
        compiling = self._executor.submit(self._compile, make, tenant=tenant, names_place=names_place)
        compiling.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(compiling)

    def _compile(
        self, make: Callable[[], Structure | None], *, tenant: str, names_place: bool
    ) -> CompiledGrammar | None:
        structure = make()
        if structure is None:
            return None
        if self._compiler is None:
            raise CallerError(
                f"{structure.param}: the answers of this model can't be constrained: {self._why_refused}",
                param=structure.param,
                code="unsupported_parameter",
            )
        key = (tenant, structure.source, structure.is_costly)
        grammar = self._live.get(key)
        if grammar is not None:
            return grammar
        self._check_room(len(structure.source))
        try:
            grammar = self._live[key] = self._compiler.compile(structure.source, is_costly=structure.is_costly)
            return grammar
        except CallerError as error:
            if not names_place:
                raise
            raise structure.refusal(error, partial(_why_not, self._compiler)) from error

    def _check_room(self, num_characters: int) -> None:
        live = sum(grammar_bytes(grammar.num_characters) for grammar in self._live.values())
        needed = grammar_bytes(num_characters)
        if live + needed > MAX_LIVE_BYTES:
            raise WorldError(
                f"grammars of running and waiting requests take {readable(live)} ({len(self._live)} of them), this one "
                f"{readable(needed)} more, and the limit is {readable(MAX_LIVE_BYTES)}",
                reason="Overloaded",
            )


def grammar_bytes(num_characters: int) -> int:
    """What compiling a source of so many characters makes, at most."""
    return LEAST_BYTES + num_characters * BYTES_PER_CHARACTER


def _why_not(compiler: GrammarCompiler, schema: Schema) -> str | None:
    """The words with which a schema alone is refused; None when it isn't."""
    try:
        compiler.compile(json_source(schema))
    except CallerError as error:
        return str(error)
    return None
