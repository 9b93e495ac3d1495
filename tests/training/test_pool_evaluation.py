"""Acceptance lengths of recorded answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.training.data import RequestFeatures
from bowsprit_engine.training.evaluate import (
    Matches,
    Walk,
    acceptance_length,
    compare,
    compare_pools,
    head_matches,
    ngram_matches,
    no_matches,
    per_position,
    walk,
)
from fakes import FakeDrafter
from training.learnable import LearnableRunner, recorded, states_of


def request(prompt: Sequence[int], response: Sequence[int]) -> RequestFeatures:
    """States whose first element is the row's index."""
    hidden = torch.arange(len(response), dtype=torch.float32)[:, None]
    return RequestFeatures(prompt_token_ids=tuple(prompt), token_ids=torch.tensor(response), hidden=hidden)


def test_without_a_proposal_every_step_emits_one_token() -> None:
    """The first token comes from the prompt: five tokens take four decode steps."""
    one = request([1, 2], [3, 4, 5, 6, 7])
    nothing = no_matches([one])[0]
    assert walk(nothing, nothing) == Walk(steps=4, tokens=4)


def test_a_step_emits_the_accepted_drafts_and_the_bonus() -> None:
    """Two accepted drafts skip two positions."""
    first = Matches(per_row=(2, None, None, 0, None, 1))
    second = Matches(per_row=(None, None, None, None, 1, None))
    assert walk(first, second) == Walk(steps=3, tokens=6)  # 2 + 1, then 0 + 1, then the head's 1 + 1


def test_the_head_is_asked_only_where_the_ngram_drafter_proposes_nothing() -> None:
    """A wrong n-gram proposal isn't replaced by the head's right one."""
    assert walk(Matches(per_row=(0, 0)), Matches(per_row=(1, 1))) == Walk(steps=2, tokens=2)


def test_a_repeated_answer_is_found_by_the_ngram_drafter() -> None:
    """After `5 6` came `7 8 9` before; the answer's end cuts the draft."""
    one = request([5, 6, 7, 8, 9], [5, 6, 7, 8])
    assert ngram_matches(one, draft_tokens=4).per_row == (None, 2, 1)


def test_the_head_gets_the_state_of_the_row_that_emitted_the_last_token() -> None:
    """Row i's state and token i are given to predict token i + 1."""
    seen: list[tuple[int, float]] = []

    def draft(context: DraftContext) -> Sequence[int]:
        hidden = context.hidden
        assert isinstance(hidden, torch.Tensor)
        seen.append((context.token_ids[-1], float(hidden[0])))
        return [context.token_ids[-1] + 1, 99]

    matches = head_matches(FakeDrafter(name="head", draft=draft), [request([1], [10, 11, 12, 20])], draft_tokens=2)
    assert seen == [(10, 0.0), (11, 1.0), (12, 2.0)]
    assert matches[0].per_row == (1, 1, 0)


def test_equal_pools_gain_nothing_with_certainty() -> None:
    """Pairing leaves no noise when both take the same steps, however different the requests are."""
    walks = [Walk(steps=10 + number % 7, tokens=30) for number in range(50)]
    gain = compare(walks, walks).gain
    assert (gain.low, gain.mean, gain.high, gain.requests) == (0.0, 0.0, 0.0, 50)


def test_a_pool_that_halves_the_steps_gains_everything() -> None:
    """Ratio of sums: 20 steps to 10 for 40 tokens each."""
    figures = compare([Walk(steps=20, tokens=40)] * 30, [Walk(steps=10, tokens=40)] * 30)
    assert (figures.incumbent.mean, figures.candidate.mean, figures.gain.mean) == (2.0, 4.0, 1.0)


def test_the_interval_of_an_uncertain_gain_includes_none() -> None:
    """Half the requests better by a step, half worse: no verdict."""
    before = [Walk(steps=10, tokens=30)] * 60
    after = [Walk(steps=9 if number % 2 else 11, tokens=30) for number in range(60)]
    gain = compare(before, after).gain
    assert gain.low < 0 < gain.high


def test_acceptance_by_position_counts_only_rows_that_reached_it() -> None:
    """Of four proposals three match at the first position, and one of those at the second."""
    assert per_position([Matches(per_row=(0, 1, 2, None, 1))], draft_tokens=2) == [0.75, 1 / 3]


def test_acceptance_length_is_a_ratio_of_sums() -> None:
    """Long answers weigh more than short ones."""
    assert acceptance_length([Walk(steps=10, tokens=10), Walk(steps=10, tokens=30)]) == 2.0


def test_a_real_answer_walks_to_its_end(runner: LearnableRunner) -> None:
    """Whatever is drafted, every token but the first is emitted by a step."""
    states = states_of(runner, recorded(runner, 1, length=12)[0])
    wild = FakeDrafter(name="head", draft=lambda context: [context.token_ids[-1]] * 3)
    matches = head_matches(wild, [states], draft_tokens=3)[0]
    assert walk(no_matches([states])[0], matches).tokens == 11


def test_a_comparison_keeps_how_the_candidate_matched_at_each_position(runner: LearnableRunner) -> None:
    """Of its own drafts at every step, whatever the pool would have asked it for."""
    states = states_of(runner, recorded(runner, 1, length=12)[0])
    repeating = FakeDrafter(name="head", draft=lambda context: [context.token_ids[-1]] * 3)
    expected = per_position(head_matches(repeating, [states], draft_tokens=3), draft_tokens=3)
    compared = compare_pools([states], None, repeating, draft_tokens=3)
    assert compared.per_position == tuple(round(rate, 4) for rate in expected)
