"""A tokenizer for the fake model's 61 tokens, so that its answers are texts which a grammar can judge."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import llguidance
from llguidance import LLMatcher, LLTokenizer

from bowsprit_engine.core.grammar import Allowed, CompiledGrammar, GrammarCompiler, GrammarState
from fakes import FAKE_EOS, FAKE_VOCAB

SINGLE = 'abcdefghijklmnopqrst0123456789 .,:;"{}[]-_'
LONGER = (
    "ab",
    "cd",
    "abc",
    "00",
    "12",
    "123",
    '": ',
    '", ',
    '{"',
    '"}',
    "a1",
    "b2",
    ", ",
    "  ",
    "de",
    "fg",
    "hi",
    "}]",
)
TEXTS = (*SINGLE, *LONGER)
assert len(TEXTS) == FAKE_EOS


class _Toy:
    """What llguidance asks of a tokenizer."""

    eos_token_id = FAKE_EOS
    bos_token_id = None
    special_token_ids = (FAKE_EOS,)
    tokens = (*(text.encode() for text in TEXTS), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        """One token per character."""
        decoded = text.decode() if isinstance(text, bytes) else text
        return [TEXTS.index(character) for character in decoded]


def encode(text: str) -> list[int]:
    return _Toy()(text)


def text_of(token_ids: Sequence[int]) -> str:
    """The text, without the end token."""
    return "".join(TEXTS[token] for token in token_ids if token != FAKE_EOS)


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(
        LLTokenizer(llguidance.TokenizerWrapper(_Toy())), vocab_size=FAKE_VOCAB, eos_token_ids=[FAKE_EOS]
    )


def masks(state: GrammarState, draft: Sequence[int]) -> list[Allowed]:
    """At the state's place and after each draft token, as far as these are possible; the state is as before."""
    found = [state.mask()]
    for token in draft:
        if not found[-1][token]:
            break
        state.take(token)
        found.append(state.mask())
    state.go_back()
    return found


def regex(pattern: str) -> CompiledGrammar:
    return compiler().compile(LLMatcher.grammar_from_regex(pattern))
