"""Which requests train and which judge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bowsprit_engine.errors import WorldError
from bowsprit_engine.training.data import (
    MIN_TRAIN_REQUESTS,
    TokenSequence,
    newest,
    split,
    usable,
    with_replay,
)
from training.learnable import VOCAB, LearnableRunner, recorded


def sequence(prompt: tuple[int, ...], response: tuple[int, ...]) -> TokenSequence:
    return TokenSequence(prompt_token_ids=prompt, response_token_ids=response)


def test_no_prompt_is_on_both_sides(runner: LearnableRunner) -> None:
    """Different answers to one prompt fall on one side together."""
    twice = [
        sequence(request.prompt_token_ids, (*request.response_token_ids[:-1], last))
        for request in recorded(runner, 120)
        for last in (1, 2)
    ]
    sides = split(twice, min_holdout_requests=50)
    prompts = [
        {request.prompt_token_ids for request in side} for side in (sides.train, sides.validation, sides.holdout)
    ]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


def test_the_minimum_is_held_out_and_the_rest_trains(runner: LearnableRunner) -> None:
    """Nothing is lost and nothing is held out that could train."""
    sides = split(recorded(runner, 150), min_holdout_requests=40)
    assert (len(sides.holdout), len(sides.validation), len(sides.train)) == (40, 32, 78)


def test_the_split_does_not_depend_on_the_order_of_the_traffic(runner: LearnableRunner) -> None:
    """Requests are chosen by their content."""
    requests = recorded(runner, 150)
    assert set(split(requests, min_holdout_requests=40).holdout) == set(
        split(requests[::-1], min_holdout_requests=40).holdout
    )


def test_what_trained_once_never_judges_more_traffic(runner: LearnableRunner) -> None:
    """Growing traffic moves prompts towards training only, so an incumbent is judged on prompts new to it."""
    requests = recorded(runner, 300)
    before, after = (split(part, min_holdout_requests=40) for part in (requests[:200], requests))
    assert set(before.train) & {*after.holdout, *after.validation} == set()


def test_too_few_requests_name_both_numbers(runner: LearnableRunner) -> None:
    """The failure says how many there are and how many it takes."""
    with pytest.raises(WorldError, match=f"103 distinct captured requests, {40 + MIN_TRAIN_REQUESTS} needed") as raised:
        split(recorded(runner, 103), min_holdout_requests=40)
    assert raised.value.reason == "NotEnoughRequests"


def test_requests_of_a_single_prompt_can_not_be_split() -> None:
    """Many answers to one prompt leave nothing to train on."""
    requests = [sequence((1, 2), (3, number)) for number in range(200)]
    with pytest.raises(WorldError, match="only 1 different prompts") as raised:
        split(requests, min_holdout_requests=40)
    assert raised.value.reason == "NotEnoughRequests"


def test_unusable_requests_are_left_out_and_repetitions_count_once() -> None:
    """One token is nothing to predict; a strange token or one too many would break the target."""
    good = sequence((1,), (2, 3))
    requests = [
        good,
        good,
        sequence((1,), (2,)),
        sequence((), (2, 3)),
        sequence((1,), (2, VOCAB)),
        sequence((1,) * 30, (2, 3)),
    ]
    assert usable(requests, vocab_size=VOCAB, max_model_len=31) == [good]


def test_requests_keep_their_place_in_the_traffic_and_their_tenant() -> None:
    """Of a repetition, those of its first time: that is when look-up has learned it."""
    first, second = (replace(sequence((1, 2), (n, 4)), tenant=tenant) for n, tenant in ((3, "a"), (5, "b")))
    found = usable([first, replace(first, tenant="b"), second], vocab_size=VOCAB, max_model_len=31)
    assert [(one.arrival, one.tenant, one.response_token_ids) for one in found] == [(0, "a", (3, 4)), (2, "b", (5, 4))]


def test_a_fifth_of_the_training_requests_is_replayed_from_the_base_sample(runner: LearnableRunner) -> None:
    """80 recent requests take 20 of the base sample."""
    recent, base = recorded(runner, 80), recorded(runner, 60, seed=1)
    mixed = with_replay(recent, base)
    assert (mixed[:80], len(mixed), set(mixed[80:]) <= set(base)) == (recent, 100, True)


def test_the_newest_requests_fill_the_token_budget(runner: LearnableRunner) -> None:
    """Three answers of ten tokens fit into 35."""
    requests = recorded(runner, 8, length=10)
    assert newest(requests, max_tokens=35) == requests[-3:]
