"""The lexers of one grammar: how large one gets, and which of them a sequence takes.

Decides that there are never more grown lexers than sequences that run. A matcher's copies share its lexer, which
remembers every state that it has seen and lives as long as one of them: so the sequences of a grammar take the lexer of
the newest that is still there, the first of all takes the one that compiling has warmed, and one that begins when all
others have ended gets an empty one. Refuses to know grammars and places in them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

from llguidance import LLMatcher

# States that a lexer remembers; when it is full, an empty one begins. Any mask fits beside a long text: the dearest
# that were seen made 5,000 new ones on 49,152 tokens (`(.*[a-m].{18}[^b])*`).
LEAST_STATES = 16_384
TOKENS_PER_STATE = 4  # of the vocabulary, where that is more: a mask walks through the beginnings of all tokens
BYTES_PER_STATE = 1024  # at most 0.91 KiB measured, full, over Unicode classes; 0.45 over `(.*[a-m].{12}[^b])*`


class Holder(Protocol):
    """A sequence's place in a grammar, as far as lexers go."""

    @property
    def beginning(self) -> LLMatcher | None:
        """The grammar before any token, over the sequence's lexer; None where it has none yet."""


def lexer_states(vocab_size: int) -> int:
    return max(LEAST_STATES, vocab_size // TOKENS_PER_STATE)


def lexer_bytes(vocab_size: int) -> int:
    """Of one that is full."""
    return lexer_states(vocab_size) * BYTES_PER_STATE


class Lexers:
    """Used by the thread that compiles, then by the engine's alone."""

    def __init__(self, warm: LLMatcher, fresh: Callable[[], LLMatcher]) -> None:
        """`warm`: has computed its first mask. `fresh`: one that shares nothing."""
        self.fresh = fresh
        self._warm: LLMatcher | None = warm
        self._newest: weakref.ref[Holder] | None = None

    def unshared(self) -> LLMatcher:
        """A matcher over a lexer that nobody else has."""
        warm, self._warm = self._warm, None
        return self.fresh() if warm is None else warm

    def shared_by(self, holder: Holder) -> LLMatcher:
        """A matcher over the lexer of a holder that is still there, which `holder` will pass on."""
        newest = None if self._newest is None else self._newest()
        beginning = None if newest is None else newest.beginning
        self._newest = weakref.ref(holder)
        return self.unshared() if beginning is None else beginning.deep_copy()
