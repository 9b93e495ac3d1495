"""What drafting costs, by a clock that the test moves: look-up by the sequence, a head by its call."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.prices import MOST_GROWTH, MOST_PRICE, CallSeconds, Prices
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter

LOOK_UP = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda _: ())
HEAD = FakeDrafter(name="head", draft=lambda _: ())


class Clock:
    """Seconds so far."""

    now = 0.0

    def __call__(self):
        return self.now


def asked(prices, clock, drafter, *, seconds, sequences=1, tokens=1):
    with prices.asking(drafter, sequences=sequences, tokens=tokens) as taken:
        clock.now += seconds
    return taken


def line(*calls):
    of = CallSeconds()
    for tokens, seconds in calls:
        of.add(tokens, seconds)
    return of


def test_a_calls_fixed_part_and_its_price_per_token_are_told_apart_by_calls_of_two_lengths():
    """However often each comes; what was never asked lies on the same line."""
    of = line(*[(4, 0.74), (1, 0.56), (4, 0.74), (4, 0.74)] * 10)

    assert [of.of(tokens) for tokens in (1, 2, 4, 8)] == pytest.approx([0.56, 0.62, 0.74, 0.98], abs=0.01)


def test_calls_of_one_length_price_shorter_ones_in_proportion():
    """So that they are tried, and tell."""
    assert line((4, 0.8), (4, 0.8)).of(1) == pytest.approx(0.2)


@pytest.mark.parametrize("calls", [[(4, 0.1), (1, 0.3)], [(1, 0.1), (4, 0.9)]])
def test_no_call_takes_less_than_nothing_nor_less_for_more_tokens(calls):
    """Whatever noise tells."""
    of = line(*calls)

    assert 0 <= of.of(1) <= of.of(2) <= of.of(8)


def test_one_slow_call_counts_as_a_few_times_what_was_known():
    """Somebody else had the processor."""
    of, slow = line((2, 1.0)), line((2, 1.0))
    of.add(2, MOST_GROWTH)
    slow.add(2, 1e6)

    assert slow.of(2) == of.of(2)


def test_a_look_up_costs_what_it_keeps_every_sequence_waiting():
    """In tokens of a step that emits one for each; the first call on cold tables isn't counted, one slow one hardly."""
    clock = Clock()
    prices = Prices(clock)
    asked(prices, clock, LOOK_UP, seconds=9.0)
    asked(prices, clock, LOOK_UP, seconds=8e-5, sequences=4)
    without_steps = prices.look_up(LOOK_UP, batch=8)
    prices.note_step(1e-2, is_contended=False)

    assert without_steps == 0.0
    assert prices.look_up(LOOK_UP, batch=8) == pytest.approx(0.016)
    assert prices.share_of_look_up([LOOK_UP, HEAD], batch=8) == pytest.approx(0.016)
    prices.note_step(1e-9, is_contended=False)
    assert prices.look_up(LOOK_UP, batch=1000) == MOST_PRICE


def test_a_heads_call_costs_the_same_for_one_sequence_and_for_eight():
    """It is one call; what the pool does with each draft is told beside it."""
    clock = Clock()
    prices = Prices(clock)
    prices.note_step(1.0, is_contended=False)
    for sequences in (1, 8, 8):
        prices.begin_step()
        asked(prices, clock, HEAD, seconds=0.1, sequences=sequences, tokens=4)
        with prices.handling():
            clock.now += 0.01 * sequences
    prices.begin_step()

    assert prices.calls(HEAD, most=4)[-1] == pytest.approx(0.1)
    assert prices.handling_share == pytest.approx(0.01)


def test_what_only_a_heads_drafts_need_is_no_part_of_a_look_ups_price():
    """Look-up after its tokens, say."""
    clock = Clock()
    prices = Prices(clock)
    prices.note_step(1.0, is_contended=False)
    for _ in range(2):
        asked(prices, clock, LOOK_UP, seconds=0.01)
        asked(prices, clock, HEAD, seconds=0.1)
        with prices.handling():
            clock.now += 0.02
        with prices.handling(costly=True):
            clock.now += 0.05
        prices.begin_step()

    assert prices.look_up(LOOK_UP, batch=1) == pytest.approx(0.02)
    assert prices.handling_share == pytest.approx(0.06)


def test_the_price_of_a_drafter_that_was_swapped_is_unknown():
    """Its first call counts for nothing again."""
    clock = Clock()
    prices = Prices(clock)
    prices.note_step(1.0, is_contended=False)
    for _ in range(2):
        asked(prices, clock, HEAD, seconds=0.1)
    known = prices.calls(HEAD, most=1)[-1]
    prices.forget("head")
    asked(prices, clock, HEAD, seconds=0.5)

    assert known == pytest.approx(0.1)
    assert prices.calls(HEAD, most=1)[-1] == 0.0
