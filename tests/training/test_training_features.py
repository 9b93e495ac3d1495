"""The target's states of recorded requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bowsprit_engine.errors import WorldError
from bowsprit_engine.training import features
from bowsprit_engine.training.data import Split, TokenSequence, split
from bowsprit_engine.training.deadline import Deadline
from bowsprit_engine.training.features import StateReader
from bowsprit_engine.training.selection import Chosen, choose
from bowsprit_engine.training.states import StateFile
from training.learnable import HIDDEN, LearnableRunner, recorded, states_of


def chosen_of(sides: Split) -> Chosen:
    return choose(sides, None, hidden_size=HIDDEN, max_state_bytes=1 << 30)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StateFile]:
    with StateFile(tmp_path, num_bytes=1 << 20) as file:
        yield file


def test_states_are_those_of_each_request_run_by_itself(runner: LearnableRunner) -> None:
    """Sharing a cache and a prefix with other requests changes nothing, and the order given is kept."""
    prefix = tuple(range(20))
    requests = [
        TokenSequence(prompt_token_ids=prefix + r.prompt_token_ids, response_token_ids=r.response_token_ids)
        for r in recorded(runner, 12)
    ]
    found = StateReader(runner, longest=64).read(requests, is_late=lambda: False)
    expected = [states_of(runner, request) for request in requests]
    assert [f.prompt_token_ids for f in found] == [r.prompt_token_ids for r in requests]
    assert all(torch.equal(e.hidden, f.hidden) for e, f in zip(expected, found, strict=True))


def test_a_shared_prefix_is_run_once(runner: LearnableRunner) -> None:
    """Two requests with the same 30 prompt tokens and one of its own cost 30 rows once."""
    prefix = tuple(range(30))
    requests = [TokenSequence(prompt_token_ids=(*prefix, last), response_token_ids=(1, 2, 3, 4)) for last in (50, 51)]
    StateReader(runner, longest=64).read(requests, is_late=lambda: False)
    assert runner.rows_run == 30 + 2 * (1 + 3)


def test_what_time_cuts_off_is_the_oldest_whoever_asked_it(
    runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two system prompts in turn: neither is left out for its first letter."""
    monkeypatch.setattr(features, "READ_TOGETHER", 4)
    requests = [
        TokenSequence(
            prompt_token_ids=(1 + number % 2, 3, 4), response_token_ids=(5, 6 + number), arrival=number, tenant=""
        )
        for number in range(16)
    ]
    done: list[int] = []
    reader = StateReader(runner, longest=64)
    found = dict(reader.states(requests, is_late=lambda: len(done) == 8, on_request=done.append))
    assert sorted(requests[index].arrival for index in found) == list(range(8, 16))


def test_a_long_prompt_is_run_in_chunks(runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks give the states of one go."""
    monkeypatch.setattr(features, "PREFILL_ROWS", 7)
    request = recorded(runner, 1, length=30)[0]
    found = StateReader(runner, longest=64).read([request], is_late=lambda: False)[0]
    assert torch.equal(states_of(runner, request).hidden, found.hidden)


def test_a_run_without_time_for_its_holdout_fails_with_the_numbers(runner: LearnableRunner, file: StateFile) -> None:
    """Fewer held-out requests than asked for would be no verdict."""
    chosen = chosen_of(split(recorded(runner, 110), min_holdout_requests=40))
    with pytest.raises(WorldError, match=r"0 of 63 requests to judge by and 0 to train on .* 11 of 12 s") as raised:
        features.compute(runner, chosen, file, deadline=Deadline(elapsed=lambda: 11.0, seconds=12.0))
    assert raised.value.reason == "DeadlineExceeded"


def test_only_what_trains_is_kept_in_half_the_bytes(runner: LearnableRunner, file: StateFile) -> None:
    """What judges is asked for drafts as serving does, with float32 states."""
    chosen = chosen_of(split(recorded(runner, 110), min_holdout_requests=40))
    found = features.compute(runner, chosen, file, deadline=Deadline(elapsed=lambda: 0.0, seconds=12.0))
    assert {request.hidden.dtype for request in found.train} == {torch.bfloat16}
    assert {request.hidden.dtype for request in (*found.validation, *found.holdout)} == {torch.float32}
    assert torch.equal(found.train[0].hidden, states_of(runner, chosen.train[0]).hidden.bfloat16())
