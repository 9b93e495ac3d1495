"""Lexers grow no larger than is planned, and there are no more of them than sequences that run."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from allocated import allocated_bytes
from bowsprit_engine.core.grammar import CompiledGrammar, GrammarState
from bowsprit_engine.core.lexers import lexer_bytes
from core import toy_grammar
from fakes import FAKE_VOCAB

NUM_TOKENS = 6_000
GROWING = "(.*[a-m].{18}[^b])*"  # nearly every token is at a place that was never seen
WORDS = "[a-t]+( [a-t]+)*"


def walked(state: GrammarState, num_tokens: int) -> None:
    """An answer of tokens drawn by chance, with a mask at each."""
    chance = np.random.default_rng(0)
    ends = toy_grammar.compiler().compile("start: /a/").eos_token_ids
    for _ in range(num_tokens):
        allowed = state.mask()
        allowed[list(ends)] = False
        state.advance([int(chance.choice(np.flatnonzero(allowed)))])


def test_a_grammar_that_meets_new_places_at_every_token_stays_within_its_plan() -> None:
    """The lexer begins anew when it is full; the answer goes on."""
    state = toy_grammar.regex(GROWING).begin()
    before = allocated_bytes()
    walked(state, NUM_TOKENS)
    grown = allocated_bytes() - before
    assert 0 < grown < lexer_bytes(FAKE_VOCAB) == 16 << 20


@pytest.mark.parametrize(("vocab_size", "expected"), [(49_152, 16 << 20), (128_256, 32_064 << 10)])
def test_a_larger_vocabulary_has_larger_lexers(vocab_size: int, expected: int) -> None:
    """A mask walks through the beginnings of all tokens."""
    assert lexer_bytes(vocab_size) == expected


def lexers_made(monkeypatch: pytest.MonkeyPatch, form: CompiledGrammar) -> list[str]:
    """One entry for each that is made from now on."""
    made: list[str] = []
    fresh = form.lexers.fresh
    monkeypatch.setattr(form.lexers, "fresh", lambda: made.append("fresh") or fresh())
    return made


def test_sequences_of_one_grammar_share_the_lexer_that_compiling_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one of them is there; then it goes, and the next one has an empty one."""
    form = toy_grammar.regex(WORDS)
    made = lexers_made(monkeypatch, form)
    first, second = form.begin(), form.begin()
    masks = [state.mask().tolist() for state in (first, second)]
    del first
    third = form.begin()
    masks.append(third.mask().tolist())
    assert made == []
    del second, third
    masks.append(form.begin().mask().tolist())
    assert made == ["fresh"]
    assert masks == [masks[0]] * 4


def test_a_sequence_that_waits_has_no_lexer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is dropped: who is asked first takes what compiling left."""
    form = toy_grammar.regex(WORDS)
    made = lexers_made(monkeypatch, form)
    waiting = [form.begin() for _ in range(3)]
    waiting[2].mask()
    assert [state.beginning is None for state in waiting] == [True, True, False]
    assert made == []


def test_a_request_that_has_ended_leaves_nothing_of_its_grammar(serve) -> None:
    """Without a garbage collection: what it held is free for others at once."""
    form = toy_grammar.regex(WORDS)
    states: list[weakref.ref[GrammarState]] = []
    begin = CompiledGrammar.begin

    def noted(grammar: CompiledGrammar) -> GrammarState:
        state = begin(grammar)
        states.append(weakref.ref(state))
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledGrammar, "begin", noted)
        served = serve()
        served.submit("r", [1, 2], grammar=form, max_tokens=5).wait()
        served.submit("s", [1, 2], max_tokens=5).wait()
    assert [state() for state in states] == [None]
