"""What a grammar leaves no choice about is told before it is drawn, and asking changes nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from bowsprit_engine.core.grammar import CompiledGrammar, GrammarState
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.structured import BLANKS
from core import toy_grammar
from fakes import FAKE_EOS

REPORT = {
    "type": "object",
    "properties": {
        "degree": {"type": "integer"},
        "scale": {"enum": ["celsi", "fahrenheit"]},
        "kind": {"const": "dais"},
    },
    "required": ["degree", "scale", "kind"],
    "additionalProperties": False,
}
CALLS = (
    'start: "[[" call "]]"\ncall: get | got\nget: "{name: get, in: " /[a-t]+/ "}"\ngot: "{name: got, in: " /[0-9]+/ "}"'
)


def json_grammar(schema: dict) -> CompiledGrammar:
    return toy_grammar.compiler().compile(
        LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=dict(BLANKS))
    )


def after(grammar: CompiledGrammar, text: str) -> GrammarState:
    state = grammar.begin()
    state.advance(toy_grammar.encode(text))
    return state


def forced_text(grammar: CompiledGrammar, text: str, *, limit: int = 100) -> str:
    return toy_grammar.text_of(after(grammar, text).forced(limit))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '{"degree": '),
        ('{"degree": 1', ""),  # another digit or a comma
        ('{"degree": 1,', ' "scale": "'),
        ('{"degree": 1, "scale": "', ""),  # one of two
        ('{"degree": 1, "scale": "c', 'elsi", "kind": "dais"}'),
        ('{"degree": 1, "scale": "fahr', 'enheit", "kind": "dais"}'),
        ('{"degree": 1, "scale": "celsi", "kind": "dais"}', ""),  # only an end may follow
    ],
)
def test_names_of_an_object_and_what_a_choice_decides_are_forced(text, expected):
    """Up to the next place where something may be chosen."""
    assert forced_text(json_grammar(REPORT), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "[[{name: g"), ("[[{name: ge", "t, in: "), ("[[{name: get, in: a", ""), ("[[{name: get, in: a}", "]]")],
)
def test_a_call_is_forced_but_for_the_function_and_its_arguments(text, expected):
    """The function's name from the letter on that tells it from the others."""
    assert forced_text(toy_grammar.compiler().compile(LLMatcher.grammar_from_lark(CALLS)), text) == expected


def test_free_text_forces_nothing():
    """Nor does what is left where a grammar is at its end."""
    assert forced_text(toy_grammar.regex("[a-t ]*"), "abc") == ""
    assert after(toy_grammar.regex("abc"), "abc").forced(5) == ()


def test_no_more_than_the_limit_is_told():
    """The first of them."""
    state = after(toy_grammar.regex("abcdefgh"), "")
    assert [toy_grammar.text_of(state.forced(limit)) for limit in (0, 1, 3, 50)] == ["", "a", "abc", "abcdefgh"]


def test_a_grammar_that_has_failed_forces_nothing():
    """Its failure is told by the next mask, not here."""
    state = after(toy_grammar.regex("ab"), "dd")
    assert state.forced(4) == ()
    with pytest.raises(CallerError):
        state.mask()


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 45), draft=st.text("abcdef0123456789", max_size=3), limit=st.integers(1, 40))
def test_forced_tokens_are_the_only_ones_that_masks_allow_and_asking_changes_no_mask(length, draft, limit):
    """At every place of an answer, whatever was drafted before."""
    text = '{"degree": 120, "scale": "celsi", "kind": "dais"}'[:length]
    asked, unasked = after(json_grammar(REPORT), text), after(json_grammar(REPORT), text)
    toy_grammar.masks(asked, toy_grammar.encode(draft))
    forced = asked.forced(limit)
    masks, expected = toy_grammar.masks(asked, forced), toy_grammar.masks(unasked, forced)
    assert len(masks) == len(forced) + 1
    assert [mask.nonzero()[0].tolist() for mask in masks[: len(forced)]] == [[token] for token in forced]
    assert [mask.tolist() for mask in masks] == [mask.tolist() for mask in expected]
    assert FAKE_EOS not in forced
