"""Acceptance lengths of recorded answers, by the pool that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.training.data import RequestFeatures, TokenSequence
from bowsprit_engine.training.evaluate import (
    LOOK_UPS,
    ServedPool,
    Traffic,
    Walk,
    acceptance_length,
    compare,
    compare_pools,
    per_position,
    prepared,
    walks,
)
from bowsprit_policy.wire import COUNT_BASED
from fakes import FakeDrafter
from training.learnable import VOCAB, LearnableRunner, recorded, states_of


def request(prompt: Sequence[int], response: Sequence[int], *, arrival: int = 0) -> RequestFeatures:
    """States whose first element is the row's index."""
    hidden = torch.arange(len(response), dtype=torch.float32)[:, None]
    return RequestFeatures(
        prompt_token_ids=tuple(prompt), token_ids=torch.tensor(response), hidden=hidden, arrival=arrival
    )


def pool(*beside: str, draft_tokens: int = 3) -> ServedPool:
    return ServedPool(
        beside=tuple(map(DrafterChoice.read, beside)),
        draft_tokens=draft_tokens,
        draft_tokens_max=8,
        vocab_size=VOCAB,
    )


def knowing(*requests: RequestFeatures, wrong_every: int = 0) -> FakeDrafter:
    """A head that knows these answers by their last token, which must occur once; every so many tokens it errs."""
    following = {}
    for one in requests:
        tokens = one.token_ids.tolist()
        following.update({token: tokens[index + 1 :] for index, token in enumerate(tokens)})
    asked = iter(range(1, 1_000_000))

    def draft(context: DraftContext) -> Sequence[int]:
        tokens = following.get(context.token_ids[-1], [])[: context.max_draft_tokens]
        if wrong_every and next(asked) % wrong_every == 0 and tokens:
            return [(tokens[0] + 1) % VOCAB, *tokens[1:]]
        return tokens

    return FakeDrafter(name="head", draft=draft)


def test_without_a_drafter_every_step_emits_one_token() -> None:
    """The first token comes from the prompt: five tokens take four decode steps."""
    traffic = Traffic(judged=[request([1, 2], [3, 4, 5, 6, 7])])
    assert walks(traffic, None, pool()) == [Walk(steps=4, tokens=4)]


def test_a_step_emits_the_accepted_drafts_and_the_bonus() -> None:
    """Drafts of three of a head that is always right: nine tokens after the first take three steps."""
    one = request([1], range(10, 20))
    head = prepared(knowing(one), [one], draft_tokens=3)
    assert walks(Traffic(judged=[one]), head, pool()) == [Walk(steps=3, tokens=9)]


def test_a_look_up_goes_on_where_the_head_ends() -> None:
    """As in serving: the head drafts one token, and the n-gram drafter finds what followed it in the prompt."""
    one = request([*range(10, 20), 1], range(30, 33))
    copied = request([*range(10, 20), 1], [40, *range(10, 20)])
    head = prepared(knowing(one, copied), [one, copied], draft_tokens=3)
    alone, both = (
        walks(Traffic(judged=[one, copied]), head, pool(*beside))[1].steps for beside in ((), ("ngram=NGram",))
    )
    assert (alone, both) == (3, 2)


def test_a_wrong_look_up_gives_way_to_the_head() -> None:
    """What the n-gram drafter finds never goes on; the head, which is right, is chosen for its record."""
    text = [token for pair in zip([5] * 30, range(30, 60), strict=True) for token in pair]
    one = request([5, 6] * 4, text)
    right = knowing(one)
    right.draft = lambda context: text[int(context.hidden[0]) + 1 :][:3]  # type: ignore[index]
    head = prepared(right, [one], draft_tokens=3)
    without, with_head = (walks(Traffic(judged=[one]), chosen, pool("ngram=NGram"))[0] for chosen in (None, head))
    assert without.steps > 50
    assert with_head.steps < 25


def test_look_up_knows_what_was_answered_before_and_nothing_later() -> None:
    """An answer that had been given by then takes one step of nine tokens; one that comes later teaches nothing."""
    answer = tuple(range(30, 40))
    one = request([1, 2, 3], answer, arrival=5)
    earlier = TokenSequence(prompt_token_ids=(9, 2, 3), response_token_ids=answer, arrival=4)
    later = replace(earlier, arrival=6)
    steps = [
        walks(Traffic(judged=[one], others=[other]), None, pool("suffix=Suffix"))[0].steps for other in (earlier, later)
    ]
    assert steps == [1, 9]


def test_the_answers_of_another_tenant_are_not_looked_up() -> None:
    """The service wouldn't either."""
    answer = tuple(range(30, 40))
    one = request([1, 2, 3], answer, arrival=5)
    other = TokenSequence(prompt_token_ids=(9, 2, 3), response_token_ids=answer, arrival=4, tenant="b")
    assert walks(Traffic(judged=[one], others=[other]), None, pool("suffix=Suffix"))[0].steps == 9


def test_the_head_gets_the_state_of_the_row_that_emitted_the_last_token() -> None:
    """Row i's state and token i are given to predict token i + 1."""
    seen: list[tuple[int, float]] = []

    def draft(context: DraftContext) -> Sequence[int]:
        hidden = context.hidden
        assert isinstance(hidden, torch.Tensor)
        seen.append((context.token_ids[-1], float(hidden[0])))
        return [context.token_ids[-1] + 1, 99]

    one = request([1], [10, 11, 12, 20])
    head = prepared(FakeDrafter(name="head", draft=draft), [one], draft_tokens=2)
    assert seen == [(10, 0.0), (11, 1.0), (12, 2.0)]
    assert [draft.token_ids for draft in head.drafts["0"]] == [(11, 99), (12, 99), (13, 99)]


def test_equal_pools_gain_nothing_with_certainty() -> None:
    """Pairing leaves no noise when both take the same steps, however different the requests are."""
    walked = [Walk(steps=10 + number % 7, tokens=30) for number in range(50)]
    gain = compare(walked, walked).gain
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


def test_acceptance_by_position_counts_only_drafts_that_reached_it() -> None:
    """Of three drafts all match at the first position, two of them were longer, and one of those matched on."""
    one = request([1], [10, 11, 12, 20])
    drafts = {10: [11, 12], 11: [12, 13], 12: [20, 5]}
    head = prepared(FakeDrafter(name="head", draft=lambda c: drafts[c.token_ids[-1]]), [one], draft_tokens=2)
    assert per_position(head, [one], draft_tokens=2) == (1.0, 1 / 3)


def test_acceptance_length_is_a_ratio_of_sums() -> None:
    """Long answers weigh more than short ones."""
    assert acceptance_length([Walk(steps=10, tokens=10), Walk(steps=10, tokens=30)]) == 2.0


def test_look_up_learns_the_newest_of_the_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By arrival, whatever their order in the list: room is for one, and only the newer holds what was answered."""
    monkeypatch.setattr("bowsprit_engine.training.evaluate.MAX_TAUGHT_TOKENS", 8)
    answer = [5, 9, 4, 8, 3, 7, 2, 6]
    others = [
        TokenSequence(prompt_token_ids=(1, 2, 3), response_token_ids=tuple(response), arrival=arrival)
        for arrival, response in ((1, answer), (0, [1] * 8))
    ]
    judged = request([1, 2, 3], answer, arrival=2)
    (with_others,) = walks(Traffic(judged=[judged], others=others), None, pool("suffix=Suffix"))
    (without,) = walks(Traffic(judged=[judged]), None, pool("suffix=Suffix"))
    assert with_others.steps < without.steps


def test_every_type_of_look_up_can_be_judged_beside_a_head() -> None:
    """What the settings allow is what there is."""
    assert LOOK_UPS.keys() == COUNT_BASED


def test_the_same_traffic_is_judged_alike_every_time(runner: LearnableRunner) -> None:
    """No clock is in the figures: an incumbent has those that it had as a candidate."""
    judged = [states_of(runner, one) for one in recorded(runner, 30, length=12)]
    head = knowing(*judged[:1], wrong_every=3)
    head.draft = lambda context: [runner.following[context.token_ids[-1]]] * 2
    first = compare_pools(Traffic(judged=judged), None, head, pool("ngram=NGram", "suffix=Suffix"))
    second = compare_pools(Traffic(judged=judged), head, head, pool("ngram=NGram", "suffix=Suffix"))
    assert (second.incumbent, second.candidate) == (first.candidate, first.candidate)


def test_a_comparison_keeps_how_the_candidate_matched_at_each_position(runner: LearnableRunner) -> None:
    """Of its own drafts at every position, whatever the pool would have asked it for."""
    states = states_of(runner, recorded(runner, 1, length=12)[0])
    right_once = FakeDrafter(name="head", draft=lambda context: [runner.following[context.token_ids[-1]]] * 3)
    compared = compare_pools(Traffic(judged=[states]), None, right_once, pool())
    assert compared.per_position == (1.0, 0.0, 0.0)
