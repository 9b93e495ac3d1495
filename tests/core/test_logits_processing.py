"""Penalties, bias and masks at every draft position, and the target's log-probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sampling import DrawRows, Sampler, target_logprobs
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.kernels import reference

VOCAB = 12
EOS = 11
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8)


def sequence_of(prompt, emitted, **sampling):
    request = Request(
        request_id="r",
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(**{"seed": 5, "temperature": 0.0, **sampling}),
        speculation=SpeculationParams(),
        on_output=lambda _: None,
    )
    return LiveSequence(request=request, token_ids=[*prompt, *emitted])


def drawn(logits, *groups):
    return Sampler(eos_token_ids=[EOS], draw=reference.draw).draw(logits, groups).token_ids


def rows(sequence, draft=(), first_row=0):
    return DrawRows(sequence=sequence, draft=tuple(draft), first_row=first_row)


@settings(max_examples=120, deadline=None)
@given(
    prompt=TOKENS,
    emitted=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    draft=TOKENS,
    sampling=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.9]),
            "presence_penalty": st.sampled_from([0.0, 0.8]),
            "frequency_penalty": st.sampled_from([0.0, 0.6]),
            "repetition_penalty": st.sampled_from([1.0, 1.5]),
            "logit_bias": st.sampled_from([{}, {2: 3.0, 7: -4.0}]),
            "min_tokens": st.sampled_from([0, 4]),
            "top_k": st.sampled_from([0, 3]),
        }
    ),
    seed=st.integers(0, 1000),
)
def test_a_draft_row_is_drawn_as_if_the_drafts_before_it_had_been_emitted(prompt, emitted, draft, sampling, seed):
    """Whatever the parameters, row i of a verification is the plain draw of the sequence with i drafts appended."""
    logits = 2 * torch.randn(len(draft) + 1, VOCAB, generator=torch.Generator().manual_seed(seed))
    together = drawn(logits, rows(sequence_of(prompt, emitted, **sampling), draft))

    one_by_one = [
        drawn(logits[i : i + 1], rows(sequence_of(prompt, emitted + draft[:i], **sampling)))[0]
        for i in range(len(draft) + 1)
    ]

    assert together == one_by_one


@settings(max_examples=40, deadline=None)
@given(prompt=TOKENS, steps=st.lists(st.tuples(TOKENS, st.integers(0, 8)), max_size=5))
def test_counts_kept_from_step_to_step_are_those_of_the_whole_context(prompt, steps):
    """Drafts that were refused leave nothing behind, whether their tokens had been seen before or not."""
    penalties = {"frequency_penalty": 0.6, "presence_penalty": 0.3, "repetition_penalty": 1.3}
    logits = 2 * torch.randn(9, VOCAB, generator=torch.Generator().manual_seed(len(prompt)))
    living = sequence_of(prompt, [], **penalties)
    for draft, num_accepted in steps:
        emitted = living.token_ids[len(prompt) :]
        expected = drawn(logits[: len(draft) + 1], rows(sequence_of(prompt, emitted, **penalties), draft))
        assert drawn(logits[: len(draft) + 1], rows(living, draft)) == expected
        living.token_ids += draft[:num_accepted]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, 0),
        ({"presence_penalty": 1.5}, 1),  # 0 was emitted: 3.0 - 1.5 < 2.9; 1 is only in the prompt
        ({"frequency_penalty": 0.06}, 1),  # 0 was emitted twice: 3.0 - 0.12 < 2.9
        ({"frequency_penalty": 0.04}, 0),
        ({"repetition_penalty": 1.2}, 2),  # 0 and 1 were seen: 2.5, 2.42 < 2.8
        ({"logit_bias": {5: 10.0}}, 5),
        ({"logit_bias": {0: -100.0, 1: -100.0}}, 2),
    ],
)
def test_each_processor_counts_what_it_should(sampling, expected):
    """Presence and frequency count emitted tokens, repetition the prompt's too, bias adds."""
    logits = torch.tensor([[3.0, 2.9, 2.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]])

    assert drawn(logits, rows(sequence_of([1], [0, 0], **sampling))) == [expected]


def test_a_repetition_penalty_makes_what_was_seen_less_likely_below_zero_too():
    """Divided, a negative logit would rise: -1.0 becomes -1.2 and falls behind -1.1."""
    logits = torch.tensor([[-1.0, -1.05, -1.1, *[-5.0] * 9]])

    assert drawn(logits, rows(sequence_of([1], [0, 0], repetition_penalty=1.2))) == [2]


def test_an_ending_is_masked_until_min_tokens_and_the_given_logits_stay():
    """EOS and stop tokens can't be drawn too early; the model's own logits are untouched for log-probabilities."""
    logits = torch.zeros(3, VOCAB)
    logits[:, EOS], logits[:, 4], logits[:, 6] = 9.0, 8.0, 7.0
    given_logits = logits.clone()
    sequence = sequence_of([1], [2], min_tokens=3, stop_token_ids=frozenset({4}))

    assert drawn(logits, rows(sequence, draft=[6, 6])) == [6, 6, EOS]
    assert torch.equal(logits, given_logits)


def test_sequences_of_one_step_have_their_own_parameters():
    """Greedy and sampled, penalised and plain, side by side: each as if alone."""
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    greedy, sampled = sequence_of([1], []), sequence_of([2], [3], temperature=1.3, seed=-7)
    penalised = sequence_of([2], [3, 3], frequency_penalty=2.0)

    together = drawn(logits, rows(greedy), rows(sampled, [4], first_row=1), rows(penalised, first_row=3))

    assert together == [
        *drawn(logits[:1], rows(greedy)),
        *drawn(logits[1:3], rows(sampled, [4])),
        *drawn(logits[3:], rows(penalised)),
    ]


def test_rows_that_are_not_finite_are_named():
    """NaN, an infinity or both of them in a row: that row and no other."""
    logits = torch.zeros(4, VOCAB)
    logits[1, 3], logits[2, 0], logits[2, 1], logits[3, 5] = torch.nan, torch.inf, -torch.inf, 3e38

    result = Sampler(eos_token_ids=[EOS], draw=reference.draw).draw(logits, [rows(sequence_of([1], []), [0, 0, 0])])

    assert sorted(result.faults) == [1, 2]


def test_logprobs_are_of_the_models_own_distribution():
    """log softmax of the raw logits, the chosen token's and the most likely ones."""
    logits = torch.tensor([[0.0] * VOCAB, [2.0, 1.0] + [0.0] * (VOCAB - 2)])
    norm = torch.logsumexp(logits[1], dim=0)

    (entry,) = target_logprobs(logits, first_row=1, token_ids=[1], num_top=2)

    assert (entry.token_id, [token for token, _ in entry.top]) == (1, [0, 1])
    assert torch.allclose(torch.tensor([entry.logprob, entry.top[0][1]]), torch.stack([1.0 - norm, 2.0 - norm]))


def test_an_end_token_beyond_the_models_logits_needs_no_mask():
    """A configuration may name one; min_tokens must not make the step, and with it every request, fail."""
    sampler = Sampler(eos_token_ids=[VOCAB, EOS], draw=reference.draw)
    logits = torch.zeros(1, VOCAB)
    logits[0, EOS] = 9.0

    token_ids = sampler.draw(logits, [rows(sequence_of([1], [], min_tokens=2))]).token_ids

    assert token_ids == [0]
