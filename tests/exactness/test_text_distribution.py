"""What the engine emits has exactly the distribution that the sampling parameters ask for, drafted or not.

Seeds are fixed: a test passes always or never. A sound engine fails one of the some 300 statistics with probability
below 3e-4 (verdicts.ALARM each); what they find is in the last test.
"""

from __future__ import annotations

import functools

import pytest

from exactness import toy, verdicts
from exactness.toy import EOS
from exactness.verdicts import dependences, differences, misfits

COUNT = 3000
SAMPLINGS = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.75},
    "min_p": {"min_p": 0.25},
    "all filters": {"temperature": 1.3, "top_k": 4, "top_p": 0.9, "min_p": 0.15},
    "presence": {"presence_penalty": 1.2},
    "frequency": {"frequency_penalty": 0.9},
    "repetition": {"repetition_penalty": 1.6},
    "bias": {"logit_bias": {2: 1.5, 1: -2.0}},
    "min_tokens": {"min_tokens": 3, "stop_token_ids": frozenset({3})},
    "all of them": {
        "temperature": 1.4,
        "top_k": 4,
        "top_p": 0.95,
        "min_p": 0.05,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.3,
        "logit_bias": {3: 0.8, EOS: 0.5},
        "min_tokens": 2,
    },
}


@functools.cache
def served(kind: str, draft_tokens: int) -> list[toy.Text]:
    return toy.texts(SAMPLINGS[kind], count=COUNT, draft_tokens=draft_tokens)


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_texts_come_as_often_as_their_parameters_say(kind, draft_tokens):
    """Whole texts and the tokens at each place, by chi-square and total variation; no impossible text ever."""
    assert misfits(served(kind, draft_tokens), toy.text_distribution(SAMPLINGS[kind])) == []


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_texts_are_the_same_with_drafts(kind):
    """Seed by seed, all 3,000 of them."""
    assert differences(served(kind, 0), served(kind, 3)) == []


@pytest.mark.parametrize("places", [(0, 0), (1, 1), (0, 1), (1, 0), (3, 2)])
@pytest.mark.parametrize("lag", [1, 2, 64])
def test_texts_of_other_seeds_are_independent(lag, places):
    """Neighbouring seeds, and requests at the same place of the batch, at equal positions and shifted ones."""
    assert dependences(served("plain", 3), toy.text_distribution({}), lag=lag, places=places) == []


def test_texts_can_be_told_apart():
    """The power of the above: what a test of 3,000 texts finds with a probability of 0.999 and more."""
    assert verdicts.power(effect=0.25, num_cells=138, count=COUNT) > 0.999  # whole texts
    assert verdicts.power(effect=0.16, num_cells=5, count=COUNT) > 0.999  # tokens at one place
    assert verdicts.power(effect=0.27, num_cells=25, count=COUNT // 2) > 0.999  # pairs of tokens of two requests
    assert verdicts.surely_found(num_cells=5, count=COUNT) < 0.115  # total variation at one place
