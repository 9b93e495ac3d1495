"""Where the library's work for a grammar is limited or its memory full, an answer is the one without drafts."""

from __future__ import annotations

import pytest
from llguidance import LLMatcher, LLParserLimits

from bowsprit_engine.core import grammar
from bowsprit_engine.core.grammar import UNBOUND_FUEL, CompiledGrammar
from bowsprit_engine.core.request import FinishReason
from core import toy_grammar
from fakes import FakeDrafter, oracle

COSTLY = ("abbb(.*a.{8}b)*", "(.*[ab].{9}[^b])*", "(.*(a.{7}|b.{9}|c.{11})d)*[a-t]{30}")
NUM_SEQUENCES = 6


def compiled(pattern: str, *, is_costly: bool, fuel: int = UNBOUND_FUEL, num_states: int = 100_000) -> CompiledGrammar:
    limits = LLParserLimits(step_lexer_fuel=fuel, max_lexer_states=num_states, verbose_errors=False)
    return toy_grammar.compiler().compile(LLMatcher.grammar_from_regex(pattern), is_costly=is_costly, limits=limits)


def answers(
    served, form: CompiledGrammar, **sampling: object
) -> list[tuple[tuple[int, ...], FinishReason, str | None]]:
    """Of several sequences of one grammar at once: their tokens, and how and why they end."""
    submitted = [
        served.submit(f"r{index}", [index, 7], grammar=form, seed=index, temperature=1.0, max_tokens=60, **sampling)
        for index in range(NUM_SEQUENCES)
    ]
    ended = [answer.wait() for answer in submitted]
    return [(tuple(answer.token_ids), answer.finish_reason, answer.last.error_code) for answer in ended]


def drafters(known: dict[str, list[int]]) -> list[FakeDrafter]:
    """Right ones, wrong ones, and right ones that go wrong."""
    right = oracle(known, "right")
    warming = toy_grammar.encode("bacbad")
    return [
        right,
        FakeDrafter(name="wrong", draft=lambda context: warming),
        FakeDrafter(
            name="turning", draft=lambda context: [*known[context.request_id][len(context.token_ids) :][:2], *warming]
        ),
    ]


@pytest.mark.parametrize(
    ("pattern", "fuel", "num_failing"),
    [(COSTLY[0], 250, 5), (COSTLY[1], 500, 0), (COSTLY[2], 500, 4)],  # with a shared lexer, drafts change each of them
)
def test_a_costly_grammar_fails_at_the_same_place_whatever_is_drafted(serve, pattern, fuel, num_failing):
    """Alone or among others, at K = 0 and at K = 6: the same text, the same end."""
    form = compiled(pattern, is_costly=True, fuel=fuel)
    expected = answers(serve(speculation_mode="off", max_batch_size=1), form)
    known = {f"r{index}": [index, 7, *tokens] for index, (tokens, _, _) in enumerate(expected)}
    for drafter in drafters(known):
        assert answers(serve(drafters=[drafter], speculation_mode=6), form) == expected
    assert [code for _, _, code in expected].count(grammar.FAILED) == num_failing


@pytest.mark.parametrize("pattern", COSTLY)
def test_a_lexer_that_is_full_ends_no_answer_and_changes_none(serve, monkeypatch, pattern):
    """An empty one takes its place, as often as need be; one lexer is shared by all sequences of the grammar.

    Filters go by what masks leave, so that there are masks enough to fill it.
    """
    filtered = {"top_p": 0.9}
    expected = answers(serve(speculation_mode="off", max_batch_size=1), compiled(pattern, is_costly=False), **filtered)
    known = {f"r{index}": [index, 7, *tokens] for index, (tokens, _, _) in enumerate(expected)}
    begun: list[object] = []
    begin_again = grammar.GrammarState._begin_again
    monkeypatch.setattr(grammar.GrammarState, "_begin_again", lambda state: begun.append(state) or begin_again(state))
    for drafter in drafters(known):
        small = compiled(pattern, is_costly=False, num_states=150)
        assert answers(serve(drafters=[drafter], speculation_mode=6), small, **filtered) == expected
    assert len(set(begun)) > 1


def test_nothing_is_drafted_for_a_costly_grammar(serve):
    """Not even what it forces; its sequences share no lexer."""
    form = compiled("abc[ab]{3}", is_costly=True)
    state = form.begin()
    assert (state.forced(3), state.num_possible(toy_grammar.encode("abc"))) == ((), 0)
    assert compiled("abc[ab]{3}", is_costly=False).begin().forced(3) == tuple(toy_grammar.encode("abc"))
    drafter = FakeDrafter(name="right", draft=lambda context: toy_grammar.encode("abc"))
    served = serve(drafters=[drafter], speculation_mode=3)
    served.submit("r", [1, 2], grammar=form, max_tokens=9).wait()
    assert served.engine.drafters()[0].drafted_tokens == 0
