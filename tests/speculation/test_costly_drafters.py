"""When a head is asked and for how many tokens: what it brings against what its call and the pool take."""

from __future__ import annotations

from collections import Counter

import pytest

from bowsprit_engine.speculation.asking import SAMPLED_EVERY
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import DrafterState, DrafterType
from speculation.pool_drafters import emit, sequence


class PricedHead:
    """Says 7 four times, sure of it, and takes 10 ms by the pool's clock for each token that it is asked for."""

    name, type, state, reason, revision = "head", DrafterType.HEAD, DrafterState.ACTIVE, "", None

    def __init__(self):
        self.asked, self._seconds = [], 0.0

    def clock(self):
        return self._seconds

    def wait(self, seconds):
        self._seconds += seconds

    def propose(self, contexts):
        self.asked += [context.max_draft_tokens for context in contexts]
        self._seconds += 0.01 * sum(context.max_draft_tokens for context in contexts)
        lengths = [context.max_draft_tokens for context in contexts]
        return [Draft(token_ids=(7,) * length, confidences=(0.9,) * length) for length in lengths]

    def forget(self, request_id):
        pass


def asked_lengths(
    monkeypatch, *, num_right, step_seconds, batch=1, bound=(), is_contended=False, seconds_to_handle=0.0
):
    """The lengths asked most often, late, of a head whose first `num_right` tokens come true, never more.

    `seconds_to_handle`: what the pool takes for each of its drafts, but for making it.
    """
    head = PricedHead()
    pool = DrafterPool([head], vocab_size=10, clock=head.clock)
    take = pool.state.ledger.take

    def take_slowly(answers):
        head.wait(seconds_to_handle * sum(len(each.drafts) for each in answers))
        return take(answers)

    monkeypatch.setattr(pool.state.ledger, "take", take_slowly)
    live = [sequence(f"{index}") for index in range(batch)]
    late = Counter()
    for step in range(60):
        pool.note_step(step_seconds, is_contended=is_contended)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * batch, bound=bound)
        late[tuple(head.asked)] += step >= 40
        for one in live:
            emit(pool, one, *[7] * num_right, 5)
    return list(late.most_common(1)[0][0])


@pytest.mark.parametrize(("num_right", "length"), [(4, 4), (1, 1), (0, None)])
def test_a_head_is_asked_for_as_many_tokens_as_pay(monkeypatch, num_right, length):
    """A token costs a tenth of a step: none that never comes true is asked for, nor any where none does."""
    assert asked_lengths(monkeypatch, num_right=num_right, step_seconds=0.1) == ([] if length is None else [length])


def test_a_head_that_is_dearer_than_what_it_brings_is_not_asked_even_where_nobody_else_drafts(monkeypatch):
    """All four tokens come true and take eight steps."""
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.005) == []


def test_on_a_machine_that_is_never_quiet_a_head_has_its_price_too(monkeypatch):
    """Contended steps are as slow as contended drafts; the first quiet step counts more than all of them."""
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.005, is_contended=True) == []
    assert asked_lengths(monkeypatch, num_right=4, step_seconds=0.1, is_contended=True) == [4]
    pool = DrafterPool([PricedHead()], vocab_size=10)
    for seconds, is_contended in ((9.0, True), (0.1, False), (9.0, True)):
        pool.note_step(seconds, is_contended=is_contended)
    assert pool.state.prices.step_seconds == 0.1


def test_a_head_keeps_the_whole_batch_waiting(monkeypatch):
    """What pays for one sequence alone doesn't where eight wait for eight drafts."""
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.04) == [1]
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.04, batch=8) == []


def test_what_the_pool_does_with_a_draft_is_part_of_its_price(monkeypatch):
    """A token for 10 ms pays for eight in steps of 500 ms, and doesn't where the pool takes 30 ms more of each."""
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, batch=8) == [1] * 8
    assert asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, batch=8, seconds_to_handle=0.03) == []
    assert len(asked_lengths(monkeypatch, num_right=1, step_seconds=0.5, seconds_to_handle=0.03)) == 1


def test_a_head_that_is_not_worth_asking_is_looked_at_at_every_eighth_step_only(monkeypatch):
    """Weighing it costs what look-up costs; once steps are slow it is asked again."""
    head = PricedHead()
    pool, live = DrafterPool([head], vocab_size=10, clock=head.clock), [sequence("a"), sequence("b")]
    weigh, weighed, asked = pool.state.ledger.whom_to_ask, [], []

    def counted(*args, **kwargs):
        weighed.append(step)
        return weigh(*args, **kwargs)

    monkeypatch.setattr(pool.state.ledger, "whom_to_ask", counted)
    for step in range(200):
        pool.note_step(0.001 if step < 150 else 10.0)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * 2)
        asked.append(bool(head.asked))
        for one in live:
            emit(pool, one, 7, 7, 7, 7, 5)

    assert len({step for step in weighed if 50 <= step < 146}) == 96 // SAMPLED_EVERY
    assert not any(asked[50:150])
    assert any(asked[150 : 150 + 2 * SAMPLED_EVERY])


class SlowOnce(PricedHead):
    """One call takes five minutes more."""

    def __init__(self, *, call):
        super().__init__()
        self._calls_before = call

    def propose(self, contexts):
        if self._calls_before == 0:
            self.wait(300.0)
        self._calls_before -= 1
        return super().propose(contexts)


@pytest.mark.parametrize("call", [0, 40])
def test_one_slow_answer_shuts_no_head_up(call):
    """A first call on cold weights, or one that somebody else interrupted."""
    head = SlowOnce(call=call)
    pool, live = DrafterPool([head], vocab_size=10, clock=head.clock), [sequence("a"), sequence("b")]
    asked = []
    for _ in range(80):
        pool.note_step(1.0)
        head.asked.clear()
        pool.draft(live, [{"head": 4}] * 2)
        asked.append(bool(head.asked))
        for one in live:
            emit(pool, one, 7, 7, 7, 7, 5)

    assert all(asked)


def test_a_head_that_was_hopeless_is_asked_again_once_probes_come_true():
    """In answers that are each probed once: what heads got there in the last hundred tokens or so counts for all."""
    head = PricedHead()
    pool = DrafterPool([head], vocab_size=10, clock=head.clock)

    def asked(name, *, is_right, is_probe):
        one = sequence(name)
        pool.note_step(0.1)
        head.asked.clear()
        pool.draft([one], [{"head": 4}], bound=[0] if is_probe else [])
        emit(pool, one, *([7] * 4 if is_right else []), 5)
        pool.forget(one)
        return head.asked

    for index in range(1000):
        asked(f"wrong {index}", is_right=False, is_probe=index % 10 == 0)
    assert asked("hopeless", is_right=False, is_probe=False) == []
    for index in range(20):
        asked(f"probed {index}", is_right=True, is_probe=True)
    assert asked("hopeful", is_right=True, is_probe=False) != []


def test_a_sequence_that_is_bound_to_draft_gets_the_head_s_draft_up_to_its_cap(monkeypatch):
    """A probe measures far positions too."""
    assert asked_lengths(monkeypatch, num_right=0, step_seconds=0.005, bound=[0]) == [4]


@pytest.mark.parametrize(("row_share", "is_asked"), [(0.0, True), (0.9, False)])
def test_a_head_is_not_asked_where_rows_cost_more_than_its_drafts_are_sure_of(row_share, is_asked):
    """Every other first token comes true, a row takes nearly a step, and asking a tenth."""
    head = PricedHead()
    pool, one = DrafterPool([head], vocab_size=10, clock=head.clock), sequence("a")
    late = 0
    for step in range(120):
        pool.note_step(0.1)
        head.asked.clear()
        report = pool.draft([one], [{"head": 4}], row_share=row_share)
        pool.grant([one], report.proposals)
        late += step >= 80 and bool(head.asked)
        emit(pool, one, 7 if step % 2 else 5)

    assert late == (40 if is_asked else 0)
