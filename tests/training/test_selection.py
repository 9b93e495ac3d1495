"""How much of the traffic a run takes: tokens, bytes of states, and seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bowsprit_engine.errors import WorldError
from bowsprit_engine.training import selection
from bowsprit_engine.training.data import RequestFeatures, Split, split
from bowsprit_engine.training.selection import choose, num_tokens
from bowsprit_engine.training.teaching import in_time
from training.learnable import LearnableRunner, recorded

PLENTY = 1 << 30


@pytest.fixture
def sides(runner: LearnableRunner) -> Split:
    """40 requests are held out, 32 validate and 128 train, ten tokens each."""
    return split(recorded(runner, 200), min_holdout_requests=40)


def test_every_request_has_one_purpose(sides: Split) -> None:
    """Nothing that judges trains, and without a base sample nothing is left out."""
    chosen = choose(sides, None, hidden_size=4, max_state_bytes=PLENTY)
    found = (chosen.train, chosen.validation, chosen.holdout, chosen.base_holdout)
    assert found == (list(sides.train), list(sides.validation), list(sides.holdout), [])


def test_beyond_a_million_tokens_the_oldest_are_left_out(sides: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that judge stay."""
    assert selection.MAX_TRAIN_TOKENS == 1_000_000
    monkeypatch.setattr(selection, "MAX_TRAIN_TOKENS", 305)
    chosen = choose(sides, None, hidden_size=4, max_state_bytes=PLENTY)
    assert (chosen.train, len(chosen.judging)) == (list(sides.train[-30:]), 72)


def test_states_that_do_not_fit_on_the_disk_are_those_of_the_oldest(sides: Split) -> None:
    """72 requests of 4 float32 numbers a row judge; what is left holds 25 of bfloat16 and a half."""
    limit = 72 * 10 * 4 * 4 + 255 * 4 * 2
    chosen = choose(sides, None, hidden_size=4, max_state_bytes=limit)
    assert chosen.train == list(sides.train[-25:])
    assert chosen.state_bytes(4) == limit - 5 * 4 * 2


def test_a_replayed_sample_is_within_the_limit_too(sides: Split, runner: LearnableRunner) -> None:
    """Its requests that judge take room, and its training ones come after the recent ones."""
    base = split(recorded(runner, 120, seed=5), min_holdout_requests=40)
    limit = (72 + 40) * 10 * 4 * 4 + 300 * 4 * 2
    chosen = choose(sides, base, hidden_size=4, max_state_bytes=limit)
    assert (chosen.train, len(chosen.judging)) == (list(sides.train[-30:]), 112)
    unlimited = choose(sides, base, hidden_size=4, max_state_bytes=PLENTY)
    assert (unlimited.train[:128], num_tokens(unlimited.train)) == (list(sides.train), 1600)


def test_what_one_sample_is_judged_by_is_not_learned_from_in_the_other(sides: Split, runner: LearnableRunner) -> None:
    """The base sample has recent requests in it, and more of its prompts are held out."""
    base = split(recorded(runner, 200)[:120], min_holdout_requests=56)
    chosen = choose(sides, base, hidden_size=4, max_state_bytes=PLENTY)
    judged = {request.prompt_token_ids for request in chosen.judging}
    assert judged & {request.prompt_token_ids for request in (*sides.train, *base.train)}
    assert [request for request in chosen.train if request.prompt_token_ids in judged] == []


def test_a_limit_that_holds_nothing_but_what_judges_is_refused_with_both_numbers(sides: Split) -> None:
    """A head that learned from nothing would be no candidate."""
    with pytest.raises(WorldError, match=r"judge take 12 MiB and --scratch-limit is 12 MiB: nothing is left") as raised:
        choose(sides, None, hidden_size=4500, max_state_bytes=72 * 10 * 4500 * 4 + 1000)
    assert raised.value.reason == "InsufficientStorage"


def features(count: int) -> list[RequestFeatures]:
    """Of ten tokens each; the later in the list, the older."""
    return [
        RequestFeatures(
            prompt_token_ids=(1,),
            token_ids=torch.arange(10),
            hidden=torch.zeros(10, 2),
            arrival=count - index,
        )
        for index in range(count)
    ]


def test_what_there_is_no_time_to_learn_from_is_the_oldest() -> None:
    """A second a token and 200 seconds: 18 requests, since a tenth of the time is validations'."""
    requests = features(40)
    assert in_time(list(requests), seconds_per_token=1.0, seconds=200.0) == requests[:18]


@pytest.mark.parametrize(("seconds_per_token", "kept"), [(0.0, 40), (0.45, 40), (1e9, 1)])
def test_all_are_learned_from_where_time_suffices_and_one_where_it_never_does(
    seconds_per_token: float, kept: int
) -> None:
    """The loop's own deadline ends the latter."""
    assert len(in_time(list(features(40)), seconds_per_token=seconds_per_token, seconds=200.0)) == kept


def test_the_newest_is_told_by_its_arrival(sides: Split) -> None:
    """Requests are in no order that could tell."""
    requests = features(3)
    mixed = [replace(requests[place], token_ids=torch.arange(4)) for place in (2, 0, 1)]
    kept = in_time(list(mixed), seconds_per_token=1.0, seconds=9.0)
    assert [request.arrival for request in kept] == [3, 2]
