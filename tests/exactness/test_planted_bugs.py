"""Each test of this folder's kind can fail: a bug planted in one function is rejected, by the verdict that should."""

from __future__ import annotations

import pytest
import torch

from bowsprit_engine.core import commit, sampling
from bowsprit_engine.core.request import SamplingParams
from bowsprit_engine.core.sampling import Sampler
from bowsprit_engine.kernels import reference
from exactness import planted, toy
from exactness.planted import draw_with_keys
from exactness.toy import LOGITS, PROMPT
from exactness.verdicts import dependences, differences, misfits

COUNT = 2000
MASKED = {"min_tokens": 3, "stop_token_ids": frozenset({3})}
PENALISED = {"presence_penalty": 2.0, "repetition_penalty": 1.8}
FILTERED = {"top_k": 3, "top_p": 0.8}


def fit(params, *, draft_tokens=0, draw=None, count=COUNT):
    """Why the engine's texts don't fit the parameters."""
    texts = toy.texts(params, count=count, draft_tokens=draft_tokens, draw=draw)
    return misfits(texts, toy.text_distribution(params))


def drafted_otherwise(params, *, draw=None):
    """Why texts with and without drafts differ."""
    plain, drafted = (toy.texts(params, count=COUNT // 4, draft_tokens=k, draw=draw) for k in (0, 3))
    return differences(plain, drafted)


def defined(params):
    """The texts by the definition of the draw alone, position by position."""
    known = SamplingParams(**{"seed": 0, "temperature": 1.0, **params})
    return [_defined_text(seed, known) for seed in range(COUNT // 10)]


def _defined_text(seed, params):
    text = ()
    while len(text) < toy.LENGTH and toy.EOS not in text:
        logits = torch.tensor(LOGITS[(*PROMPT, *text)[-1]])
        token = reference.draw_row(
            logits,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            seed=seed,
            position=len(PROMPT) + len(text),
        )
        text = (*text, token)
    return text


@pytest.mark.parametrize("params", [{}, FILTERED])
@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_a_sound_engine_draws_as_defined(params, draft_tokens):
    """Text by text what the definition gives with the absolute position as its key."""
    assert differences(defined(params), toy.texts(params, count=COUNT // 10, draft_tokens=draft_tokens)) == []


def test_an_off_by_one_of_every_position_is_rejected():
    """It has the right distribution; it isn't the defined draw."""
    draw = draw_with_keys(planted.positions_are_off_by_one)

    assert fit({}, draw=draw) == []
    assert differences(defined({}), toy.texts({}, count=COUNT // 10, draft_tokens=0, draw=draw)) != []


def test_an_off_by_one_of_rows_after_drafts_is_rejected(monkeypatch):
    """Then the text depends on what was drafted."""
    monkeypatch.setattr(sampling, "_draw_arguments", planted.drafts_are_keyed_one_late(sampling._draw_arguments))

    assert drafted_otherwise({}) != []


def test_noise_by_the_row_of_the_step_is_rejected():
    """A good distribution that depends on neighbours and drafts."""
    draw = draw_with_keys(planted.noise_goes_by_row)

    assert drafted_otherwise({}, draw=draw) != []


def test_noise_reused_at_two_positions_is_rejected():
    """Whole texts come in other proportions, drafted or not."""
    draw = draw_with_keys(planted.noise_of_two_positions_is_one)

    assert fit({}, draw=draw) != []
    assert fit({}, draft_tokens=3, draw=draw) != []


@pytest.mark.parametrize(
    ("change", "lag", "places"),
    [
        pytest.param(planted.noise_of_two_requests_is_one, 1, (0, 0), id="the same noise"),
        pytest.param(planted.seed_and_position_are_added, 1, (1, 0), id="seed + position"),
    ],
)
def test_noise_shared_by_two_requests_is_rejected(change, lag, places):
    """Each text alone fits; two of them aren't independent."""
    texts = toy.texts({}, count=COUNT, draft_tokens=0, draw=draw_with_keys(change))

    assert dependences(texts, toy.text_distribution({}), lag=lag, places=places) != []


def test_a_mask_after_the_draw_is_rejected(monkeypatch):
    """No end comes too early, and yet the others come in wrong proportions."""
    monkeypatch.setattr(Sampler, "draw", planted.mask_after_the_draw(Sampler.draw))

    reasons = fit(MASKED)

    assert reasons
    assert not any("probability 0" in reason for reason in reasons)


def test_filters_in_another_order_are_rejected(monkeypatch):
    """top_p over what top_k left isn't top_k over what top_p left."""
    assert fit(FILTERED, draw=reference.draw, count=COUNT // 5) == []

    monkeypatch.setattr(reference, "filtered", planted.min_p_then_top_p_then_top_k(reference.filtered))

    assert fit(FILTERED, draw=reference.draw, count=COUNT // 5) != []


@pytest.mark.parametrize(("method", "params"), [("_penalise", PENALISED), ("_hold_ends_back", MASKED)])
def test_processors_at_the_first_row_only_are_rejected(monkeypatch, method, params):
    """Only drafted texts are wrong, and both verdicts say so."""
    monkeypatch.setattr(Sampler, method, planted.only_the_first_row(getattr(Sampler, method)))

    assert fit(params) == []
    assert fit(params, draft_tokens=3) != []
    assert drafted_otherwise(params) != []


def test_a_draft_accepted_though_it_is_impossible_is_rejected(monkeypatch):
    """Tokens that top_k leaves out are emitted."""
    monkeypatch.setattr(commit, "judge", planted.the_first_draft_is_taken)

    assert any("probability 0" in reason for reason in fit(FILTERED, draft_tokens=3))
    assert fit({}, draft_tokens=3) != []
