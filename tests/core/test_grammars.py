"""Constrained output: every answer keeps to its grammar, and is the same with and without speculation."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits

from bowsprit_engine.core import grammar
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import FinishReason, Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sampling import NOT_FINITE, DrawRows, Sampler
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.errors import CallerError
from bowsprit_engine.kernels import reference
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.verify import judge
from bowsprit_policy.wire import DrafterType
from core import toy_grammar
from fakes import FAKE_EOS, FAKE_VOCAB, FakeDrafter, FakeRunner, adversary, oracle

WORDS = r"[a-h]{2,9}(, [a-h0-9]{2,6}){1,4}\."
PATTERNS = (WORDS, r'\{"a1": [0-9]{1,8}, "b2": "[a-t ]{4,20}"\}', r"(abc|cd|12)+[0-9]{3}", r"[^:]{1,30}:")
SAMPLINGS = (
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    {"temperature": 1.1, "top_k": 5, "logit_bias": {3: 4.0, FAKE_EOS: 2.0}, "min_tokens": 9},
)
TOKENS = st.integers(0, FAKE_VOCAB - 1)


def sequence_of(prompt, emitted, pattern, **sampling) -> LiveSequence:
    request = Request(
        request_id="r",
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(**{"seed": 5, "temperature": 0.0, **sampling}),
        speculation=SpeculationParams(),
        on_output=lambda _: None,
        grammar=toy_grammar.regex(pattern),
    )
    sequence = LiveSequence.begin(request)
    for token in emitted:
        sequence.token_ids.append(token)
        sequence.grammar.advance([token])
    return sequence


def draw(logits, sequence, draft=()):
    group = DrawRows(sequence=sequence, draft=tuple(draft), first_row=0)
    return Sampler(eos_token_ids=[FAKE_EOS], draw=reference.draw).draw(logits, [group])


def answers_of(served, *, max_tokens=60):
    """Eight requests at once, of every pattern and sampling."""
    return [
        served.submit(
            f"r{index}",
            [index + 1, 7, index],
            grammar=toy_grammar.regex(PATTERNS[index % 4]),
            seed=index,
            max_tokens=max_tokens,
            **SAMPLINGS[(index + index // 4) % 4],
        )
        for index in range(8)
    ]


@pytest.fixture(scope="module")
def plain():
    return {}


@pytest.fixture
def expected(plain, serve):
    """Each answer without speculation, one request at a time."""
    if not plain:
        served = serve(speculation_mode="off", max_batch_size=1)
        plain.update({index: answer.wait() for index, answer in enumerate(answers_of(served))})
    return [plain[index].token_ids for index in range(8)]


def test_every_answer_matches_its_pattern_and_ends_by_itself(plain, expected):
    """The end token follows where the pattern can't go on, and only where it may end."""
    for index, token_ids in enumerate(expected):
        if plain[index].finish_reason is FinishReason.STOP:
            assert re.fullmatch(PATTERNS[index % 4], toy_grammar.text_of(token_ids))
            assert token_ids[-1] == FAKE_EOS
    assert sum(answer.finish_reason is FinishReason.STOP for answer in plain.values()) >= 4


@pytest.mark.parametrize(
    ("drafting", "draft_tokens", "changes"),
    [
        ("ngram", 3, {}),
        ("adversary", 4, {"max_batch_size": 3}),
        ("oracle", 6, {}),
        ("oracle", 1, {"max_batch_size": 2}),
        ("oracle", 5, {"kv_blocks": 16}),
        ("adversary", 2, {"kv_blocks": 16, "prefill_chunk": 4}),
    ],
)
def test_a_constrained_answer_does_not_depend_on_drafts_batch_or_preemption(
    serve, expected, drafting, draft_tokens, changes
):
    """Greedy, sampled, penalised, biased, held back by min_tokens: token for token the plain engine's."""
    known = {f"r{index}": [index + 1, 7, index, *tokens] for index, tokens in enumerate(expected)}
    drafter = {
        "ngram": lambda: NGramDrafter(name="drafter"),
        "adversary": lambda: adversary("drafter"),
        "oracle": lambda: oracle(known, "drafter"),
    }[drafting]()
    served = serve(drafters=[drafter], speculation_mode=draft_tokens, **changes)
    assert [answer.wait().token_ids for answer in answers_of(served)] == expected
    if drafting == "oracle":
        (stats,) = served.engine.drafters()
        assert stats.accepted_tokens == stats.drafted_tokens > 0


def test_what_a_grammar_forces_is_drafted_and_counts_for_nobody(serve):
    """A text with one letter of choice takes a few steps, with a drafter that never has anything to say."""
    silent = FakeDrafter(name="silent", draft=lambda _: (), type=DrafterType.NGRAM)
    pattern = "abcdefgh[ab]ijklmnop"
    asked = {"max_tokens": 32, "temperature": 1.0, "grammar": toy_grammar.regex(pattern)}
    plain = serve(speculation_mode="off").submit("r", [1], **asked).wait()
    served = serve(drafters=[silent], speculation_mode=6)
    forced = served.submit("r", [1], **asked).wait()
    (stats,) = served.engine.drafters()

    assert forced.token_ids == plain.token_ids
    assert len(plain.outputs) == len(plain.token_ids)
    assert len(forced.outputs) <= 5
    assert (stats.drafted_tokens, stats.accepted_tokens) == (0, 0)


@settings(max_examples=80, deadline=None)
@given(
    pattern=st.sampled_from(PATTERNS),
    seed=st.integers(0, 1000),
    length=st.integers(0, 12),
    draft=st.lists(TOKENS, max_size=5),
    sampling=st.sampled_from(SAMPLINGS),
)
def test_a_draft_row_is_drawn_as_if_the_drafts_before_it_had_been_emitted(pattern, seed, length, draft, sampling):
    """Up to the first draft that isn't its row's token, after which no row is reached; drawing anew changes nothing."""
    logits = 2 * torch.randn(length + 7, FAKE_VOCAB, generator=torch.Generator().manual_seed(seed))
    emitted: list[int] = []
    for row in range(length):
        (token,) = draw(logits[row : row + 1], sequence_of([1], emitted, pattern, **sampling)).token_ids
        if token == FAKE_EOS:
            break
        emitted.append(token)
    rows = logits[length : length + len(draft) + 2]
    likely = draw(rows[:1], sequence_of([1], emitted, pattern, **sampling)).token_ids
    draft = [*likely, *draft]
    sequence = sequence_of([1], emitted, pattern, **sampling)

    drawn = draw(rows, sequence, draft)
    reached = judge(drawn=drawn.token_ids, draft=draft, stop_token_ids={FAKE_EOS}).token_ids

    assert list(reached) == [
        draw(rows[i : i + 1], sequence_of([1], emitted + draft[:i], pattern, **sampling)).token_ids[0]
        for i in range(len(reached))
    ]
    assert drawn.faults == {}
    assert draw(rows, sequence, draft) == drawn


def test_a_draft_is_cut_where_the_grammar_is_violated(serve):
    """Impossible tokens cost no row: nothing is verified of a drafter that proposes nothing else."""
    drafter = FakeDrafter(name="wrong", draft=lambda context: toy_grammar.encode(":::"))
    served = serve(drafters=[drafter], speculation_mode=3)
    answer = served.submit("r", [1, 2], grammar=toy_grammar.regex("[a-h]{12}"), max_tokens=30).wait()
    (stats,) = served.engine.drafters()
    assert (stats.opportunities > 0, stats.drafted_tokens) == (True, 0)
    assert re.fullmatch("[a-h]{12}", toy_grammar.text_of(answer.token_ids))


def test_an_end_token_and_what_follows_it_are_cut_from_a_draft():
    """The row after an end could give nothing; the row before draws the end as its bonus."""
    sequence = sequence_of([1], toy_grammar.encode("ab"), "[ab]{2,4}")
    assert sequence.num_possible([*toy_grammar.encode("a"), FAKE_EOS, 1]) == 1
    assert sequence.num_possible([FAKE_EOS]) == 0


@pytest.mark.parametrize("sampling", [{"ignore_eos": True}, {"min_tokens": 20}, {"logit_bias": {FAKE_EOS: -100.0}}])
def test_at_its_end_a_grammar_allows_the_end_token_alone(serve, sampling):
    """Whatever else the request says of ends: no token could follow."""
    answer = serve().submit("r", [1, 2], grammar=toy_grammar.regex("[ab]{6}"), max_tokens=40, **sampling).wait()
    assert (answer.finish_reason, answer.token_ids[-1]) == (FinishReason.STOP, FAKE_EOS)
    assert re.fullmatch("[ab]{6}", toy_grammar.text_of(answer.token_ids))


def test_min_tokens_holds_an_end_back_where_the_grammar_can_go_on(serve):
    """The most likely end waits until then."""
    answer = (
        serve(runner=FakeRunner(eos_bias=0.0))
        .submit(
            "r",
            [1, 2],
            grammar=toy_grammar.regex("[ab]*"),
            max_tokens=40,
            min_tokens=11,
            logit_bias={FAKE_EOS: 100.0},
        )
        .wait()
    )
    assert (len(answer.token_ids), answer.finish_reason) == (12, FinishReason.STOP)


def test_of_several_sequences_of_one_grammar_each_is_at_its_own_place(serve):
    """As `n` choices are: compiled once, begun apart."""
    compiled = toy_grammar.regex(WORDS)
    served = serve()
    answers = [served.submit(f"r{i}", [1, 2], grammar=compiled, seed=i, temperature=1.0) for i in range(6)]
    texts = [toy_grammar.text_of(answer.wait().token_ids) for answer in answers]
    assert [text for text in texts if not re.fullmatch(WORDS, text)] == []
    assert len(set(texts)) > 1


def too_complex_later(*, is_costly: bool = True) -> CompiledGrammar:
    """A grammar whose first four letters are cheap, and which then asks for more than the library may do."""
    return toy_grammar.compiler().compile(
        LLMatcher.grammar_from_regex("abbb(.*a.{8}b)*"),
        is_costly=is_costly,
        limits=LLParserLimits(step_lexer_fuel=80, verbose_errors=False),
    )


def test_a_grammar_that_fails_ends_its_own_request_with_the_librarys_words(serve):
    """The tokens before it stand; neighbours go on, and it is told apart from a failure of the engine."""
    served = serve(drafters=[adversary()], speculation_mode=4)
    neighbour = served.submit("neighbour", [1, 2], grammar=toy_grammar.regex(WORDS), max_tokens=40)
    failed = served.submit("failed", [3, 4], grammar=too_complex_later(), max_tokens=40).wait()
    assert (failed.finish_reason, failed.last.error_code) == (FinishReason.ERROR, grammar.FAILED)
    assert "lexer error" in failed.last.error
    assert toy_grammar.text_of(failed.token_ids).startswith("abbb")
    assert re.fullmatch(WORDS, toy_grammar.text_of(neighbour.wait().token_ids))


def test_a_grammar_that_fails_costs_nobody_a_shared_prefix(serve):
    """What the target computed is right, whatever the request's own grammar couldn't."""
    served = serve()
    prompt = [index % 50 for index in range(40)]
    served.submit("failed", prompt, grammar=too_complex_later(), max_tokens=40).wait()
    after = served.submit("after", prompt, max_tokens=2).wait()
    assert after.last.metrics.num_cached_tokens == 32


def test_a_failure_at_a_row_that_is_not_reached_harms_nothing():
    """The matcher begins again with what was emitted, and a fresh one would fail at the same row."""
    state = too_complex_later(is_costly=False).begin()
    first = state.mask()
    for _ in range(2):
        for token in toy_grammar.encode("abbb"):
            state.mask()
            state.take(token)
        with pytest.raises(CallerError, match="lexer error: too many expressions constructed"):
            state.mask()
        state.go_back()
        assert (state.mask() == first).all()


def test_a_grammar_that_fails_at_a_row_gives_that_row_a_fault():
    """Where it is reached; the rows before it have their tokens, and a row behind another draft isn't looked at."""
    logits = torch.zeros(6, FAKE_VOCAB)
    for row, token in enumerate(toy_grammar.encode("abbbc")):
        logits[row, token] = 9.0
    for draft, failing in (("abbbc", [4]), ("abbab", [])):
        sequence = sequence_of([1], [], "abbb(.*a.{8}b)*")
        sequence.grammar = too_complex_later(is_costly=False).begin()
        logits[4, FAKE_EOS] = 10.0  # it asks for a mask
        drawn = draw(logits, sequence, toy_grammar.encode(draft))
        assert toy_grammar.text_of(drawn.token_ids[:4]) == "abbb"
        assert {row: fault.code for row, fault in drawn.faults.items()} == dict.fromkeys(failing, grammar.FAILED)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_row_that_is_not_finite_is_that_also_where_its_grammar_fails(temperature):
    """It is the engine's fault then, not the request's, and nobody may share what it computed."""
    sequence = sequence_of([1], [], "abbb(.*a.{8}b)*", temperature=temperature)
    sequence.grammar = too_complex_later(is_costly=False).begin()
    logits = torch.zeros(5, FAKE_VOCAB)
    for row, token in enumerate(toy_grammar.encode("abbb")):
        logits[row, token] = 99.0
    logits[4] = torch.nan
    drawn = draw(logits, sequence, toy_grammar.encode("abbb"))
    assert drawn.faults == {4: NOT_FINITE}


def test_the_row_after_an_impossible_draft_is_not_reached():
    """The row before it draws what the grammar allows, whatever was drafted and is likeliest."""
    sequence = sequence_of([1], [], "a{9}")
    logits = torch.zeros(4, FAKE_VOCAB)
    impossible = toy_grammar.encode("aab")
    logits[2, impossible[2]] = 9.0
    drawn = draw(logits, sequence, impossible)
    assert toy_grammar.text_of(drawn.token_ids[:3]) == "aaa"
    assert drawn.faults == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (LLMatcher.grammar_from_regex("("), "unclosed group"),
        (LLMatcher.grammar_from_json_schema('{"type": "objct"}'), "Invalid type: objct"),
        (LLMatcher.grammar_from_lark("start: " + '"a"? ' * 6000), "too big"),
        ("x" * 70_000, "65536"),
    ],
)
def test_what_the_library_refuses_is_refused_in_its_words(source, words):
    """Before anything runs."""
    with pytest.raises(CallerError, match=words):
        toy_grammar.compiler().compile(source)


def test_logits_that_are_not_finite_end_a_constrained_request_too(serve):
    """A mask doesn't hide them."""
    runner = FakeRunner()
    runner.poisoned = {(1, 2)}
    answer = serve(runner=runner).submit("r", [1, 2], grammar=toy_grammar.regex(WORDS)).wait()
    assert (answer.finish_reason, answer.last.error_code) == (FinishReason.ERROR, NOT_FINITE.code)
