"""How answers are drafted that are compared with plain ones: the default, others beside it, and the worst there is.

Decides drafters and lengths only; asks nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_policy.wire import DrafterState, DrafterType


class RandomTokens:
    """The worst drafter: any tokens, as many as it may."""

    type = DrafterType.HEAD
    state = DrafterState.ACTIVE
    reason = ""
    revision: str | None = None

    def __init__(self, *, name: str, vocab_size: int) -> None:
        self.name = name
        self._vocab_size = vocab_size
        self._dice = random.Random(5)

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [
            Draft(token_ids=tuple(self._dice.randrange(self._vocab_size) for _ in range(context.max_draft_tokens)))
            for context in contexts
        ]

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """How the rounds of one kind are drafted."""

    name: str
    draft_tokens: int
    drafters: Callable[[int], list[Drafter]]  # from the vocabulary's size


def _suffix(_: int) -> list[Drafter]:
    return [SuffixDrafter(name="suffix")]


def _ngram(_: int) -> list[Drafter]:
    return [NGramDrafter(name="ngram")]


def _ngram_else_random(vocab_size: int) -> list[Drafter]:
    return [NGramDrafter(name="ngram"), RandomTokens(name="random", vocab_size=vocab_size)]


DRAFTINGS = (
    Drafting(name="suffix, K = 8", draft_tokens=8, drafters=_suffix),
    Drafting(name="n-gram, K = 4", draft_tokens=4, drafters=_ngram),
    Drafting(name="n-gram, else random, K = 3", draft_tokens=3, drafters=_ngram_else_random),
    Drafting(name="n-gram, K = 16", draft_tokens=16, drafters=_ngram),
    Drafting(name="n-gram, else random, K = 1", draft_tokens=1, drafters=_ngram_else_random),
)
