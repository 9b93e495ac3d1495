"""A mask is made only where the token drawn without one may not follow; what is emitted is as if all rows had one."""

from __future__ import annotations

import json
from unittest import mock

import llguidance
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from bowsprit_engine.core.grammar import CompiledGrammar, GrammarCompiler, GrammarState
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sampling import DrawRows, Sampler, choose_draw
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.kernels import reference
from bowsprit_engine.server.structured import BLANKS
from bowsprit_engine.speculation.verify import judge
from core import toy_grammar
from fakes import FAKE_EOS, FAKE_VOCAB

SCHEMA = {
    "type": "object",
    "properties": {
        "degree": {"type": "integer"},
        "scale": {"enum": ["celsi", "fahrenheit"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["degree", "scale"],
    "additionalProperties": False,
}
CALLS = (
    'start: text "[[" call "]]"\ntext[suffix="::"]: /[a-t ]*/\ncall: get | got\n'
    'get: "{name: get, in: " /[a-t]+/ "}"\ngot: "{name: got, in: " /[0-9]+/ "}"'
)
SOURCES = {
    "words": (LLMatcher.grammar_from_regex(r"[a-h]{2,9}(, [a-h0-9]{2,6}){1,4}\."), False),
    "anything": (LLMatcher.grammar_from_regex(r"[^:]{0,40}"), False),
    "one text": (LLMatcher.grammar_from_regex("abcdefghabcdefgh"), False),
    "costly": (LLMatcher.grammar_from_regex("(.*[ab].{9}[^b])*"), True),
    "schema": (LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), overrides=dict(BLANKS)), False),
    "calls": (LLMatcher.grammar_from_lark(CALLS), False),
}
SAMPLINGS = (
    {"temperature": 0.0},
    {"temperature": 0.0, "top_p": 0.5, "min_tokens": 7},
    {"temperature": 0.9},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.1, "top_k": 3, "logit_bias": {3: 4.0, FAKE_EOS: 2.0}, "min_tokens": 9},
    {"temperature": 1.0, "min_p": 0.2, "presence_penalty": 0.4, "stop_token_ids": frozenset({4, 5})},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.7, "min_p": 0.05},
)
GRAMMARS = {name: toy_grammar.compiler().compile(of, is_costly=costly) for name, (of, costly) in SOURCES.items()}


def sequence_of(grammar: CompiledGrammar | None, emitted, sampling) -> LiveSequence:
    request = Request(
        request_id="r",
        prompt_token_ids=(1, 2),
        sampling=SamplingParams(**{"seed": 5, **sampling}),
        speculation=SpeculationParams(),
        on_output=lambda _: None,
        grammar=grammar,
    )
    sequence = LiveSequence.begin(request)
    sequence.token_ids.extend(emitted)
    if sequence.grammar is not None:
        sequence.grammar.advance(emitted)
    return sequence


def sampler(draw=reference.draw) -> Sampler:
    return Sampler(eos_token_ids=[FAKE_EOS], draw=draw)


def always_masked(logits, grammar: CompiledGrammar, emitted, sampling) -> int:
    """The definition: what may not follow is taken from the logits first, then the row is drawn as if in free text."""
    state = grammar.begin()
    state.advance(emitted)
    allowed = torch.from_numpy(state.mask())
    params = SamplingParams(**{"seed": 5, **sampling})
    if len(emitted) < params.min_tokens:
        unended = allowed.clone()
        unended[[FAKE_EOS, *params.stop_token_ids]] = False
        allowed = unended if unended.any() else allowed
    free = sequence_of(None, emitted, {**sampling, "min_tokens": 0})
    return draw_rows(logits.masked_fill(~allowed, -torch.inf)[None], free, []).token_ids[0]


def draw_rows(logits, sequence, draft, draw=reference.draw):
    return sampler(draw).draw(logits, [DrawRows(sequence=sequence, draft=tuple(draft), first_row=0)])


def an_answer(grammar: CompiledGrammar, sampling, *, seed: int, num_rows: int, knowing: float):
    """Logits of rows that know their grammar more or less, and the always masked answer that they give."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_rows, FAKE_VOCAB, generator=generator)
    answer: list[int] = []
    state = grammar.begin()
    for row in logits:
        allowed = torch.from_numpy(state.mask())
        row[allowed] += knowing
        token = always_masked(row, grammar, answer, sampling)
        answer.append(token)
        if token == FAKE_EOS:
            break
        state.advance([token])
    return logits, answer


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from(sorted(GRAMMARS)),
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 10_000),
    knowing=st.sampled_from([0.0, 3.0, 12.0]),
    num_right=st.integers(0, 8),
    num_emitted=st.integers(0, 6),
    wrong=st.lists(st.integers(0, FAKE_VOCAB - 1), max_size=4),
)
def test_what_is_emitted_is_what_masks_at_every_row_would_give(
    form, sampling, seed, knowing, num_right, num_emitted, wrong
):
    """Greedy, sampled and filtered, drafted rightly and wrongly, whether the model knows the grammar or not."""
    grammar = GRAMMARS[form]
    logits, answer = an_answer(grammar, sampling, seed=seed, num_rows=11, knowing=knowing)
    emitted = answer[: min(num_emitted, len(answer) - 1)]
    draft = [token for token in answer[len(emitted) :][:num_right] if token != FAKE_EOS]
    draft = [] if SOURCES[form][1] else [*draft, *wrong]
    rows = logits[len(emitted) :][: len(draft) + 1]
    sequence = sequence_of(grammar, emitted, sampling)

    drawn = draw_rows(rows, sequence, draft[: len(rows) - 1])

    ends = {FAKE_EOS, *sampling.get("stop_token_ids", ())}
    reached = judge(drawn=drawn.token_ids, draft=draft[: len(rows) - 1], stop_token_ids=ends).token_ids
    expected = answer[len(emitted) : len(emitted) + len(reached)]
    assert list(reached) == expected
    assert drawn.faults == {}


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(sorted(GRAMMARS)), text=st.lists(st.integers(0, FAKE_VOCAB - 1), max_size=30), data=st.data()
)
def test_a_token_that_follows_without_a_mask_is_one_that_the_mask_allows(form, text, data):
    """At every place; and one that doesn't follow leaves the state where it was."""
    asked, masked = GRAMMARS[form].begin(), GRAMMARS[form].begin()
    for token in text:
        mask = masked.mask()
        possible = data.draw(st.sampled_from([token, *mask.nonzero()[0].tolist()]))
        refusal = asked.follow(possible)
        if refusal is not None:
            assert refusal.tolist() == mask.tolist()
            if not mask[possible] or possible == FAKE_EOS:
                continue
            asked.take(possible)
        assert mask[possible]
        masked.take(possible)


def test_a_model_that_keeps_to_its_grammar_needs_no_mask():
    """Nor do rows that aren't reached; a model that doesn't keep to it needs one for each token that is refused."""
    logits, answer = an_answer(GRAMMARS["words"], {"temperature": 0.0}, seed=3, num_rows=8, knowing=50.0)
    for first, num_masks in ((answer[0], 0), (toy_grammar.encode(":")[0], 1)):
        rows = logits.clone()
        rows[0, first] += 100.0
        rows[6] = 0.0  # a comma, say: which may not follow a comma
        with mock.patch.object(GrammarState, "_computed", autospec=True, side_effect=GrammarState._computed) as masks:
            draw_rows(rows, sequence_of(GRAMMARS["words"], [], {"temperature": 0.0}), [*answer[:4], 0, 0, 0])
        assert masks.call_count == num_masks


def test_the_likeliest_token_passes_every_filter_and_needs_no_mask():
    """Another winner of the unfiltered draw does: what filters leave depends on what the mask leaves."""
    sampling = {"temperature": 1.0, "top_p": 0.9}
    for knowing, num_masks in ((50.0, 0), (0.0, 1)):
        logits = torch.zeros(1, FAKE_VOCAB)
        logits[0, 0] = knowing or 0.1
        with mock.patch.object(GrammarState, "_computed", autospec=True, side_effect=GrammarState._computed) as masks:
            draw_rows(logits, sequence_of(GRAMMARS["anything"], [], sampling), [])
        assert masks.call_count == num_masks


def test_the_walk_is_the_same_for_the_native_draw():
    """Several sequences of one step, each redrawn as often as its grammar refuses."""
    native = choose_draw(torch.device("cpu"))
    groups, logits, expected = [], [], []
    for index, (sampling, form) in enumerate(zip(SAMPLINGS, [*sorted(GRAMMARS), "words"], strict=True)):
        own, answer = an_answer(GRAMMARS[form], sampling, seed=index, num_rows=5, knowing=2.0 * index)
        draft = [] if SOURCES[form][1] else [token for token in answer[:-1] if token != FAKE_EOS]
        groups.append(
            DrawRows(sequence=sequence_of(GRAMMARS[form], [], sampling), draft=tuple(draft), first_row=len(logits))
        )
        logits.extend(own[: len(draft) + 1])
        expected.append(answer[: len(draft) + 1])
    drawn = sampler(native).draw(torch.stack(logits), groups).token_ids
    assert [drawn[group.first_row :][: len(tokens)] for group, tokens in zip(groups, expected, strict=True)] == expected


class _Twins:
    """A tokenizer with two tokens of one text, one of no text, and one that is special."""

    eos_token_id = 5
    bos_token_id = None
    special_token_ids = (4, 5)
    tokens = (b"a", b"b", b"a", b"", b"<x>", b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return [self.tokens.index(bytes([byte])) for byte in (text.encode() if isinstance(text, str) else text)]


@pytest.mark.parametrize("pattern", ["[ab]*", "ab", "(a|<x>)b*"])
def test_tokens_of_one_text_of_none_and_special_ones_follow_as_masks_say(pattern):
    """What the library's check of one token and its masks could differ in."""
    compiler = GrammarCompiler(LLTokenizer(llguidance.TokenizerWrapper(_Twins())), vocab_size=6, eos_token_ids=[5])
    grammar = compiler.compile(LLMatcher.grammar_from_regex(pattern))
    mask = grammar.begin().mask()
    followed = [token for token in range(6) if grammar.begin().follow(token) is None]
    assert followed == [token for token in range(6) if mask[token] and token != 5]
