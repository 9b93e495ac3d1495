"""What work beside the steps may cost: earned before it is spent, whatever it turns out to cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bowsprit_engine.speculation.allowance import Allowance

SECONDS = st.integers(1, 10_000).map(lambda parts: parts / 1024)  # no rounding
SHARE = 1 / 8


def pieces(allowance, steps, costs):
    """Numbers of the steps after which a piece ran, as soon as each was paid for."""
    begun, costs = [], iter(costs)
    for number, seconds in enumerate(steps, start=1):
        allowance.earn(seconds)
        if allowance.is_enough:
            begun.append(number)
            allowance.spend_on_piece(next(costs))
    return begun


@given(steps=st.lists(SECONDS, max_size=200), costs=st.lists(SECONDS, min_size=200, max_size=200))
def test_when_a_piece_begins_all_before_it_and_what_it_should_cost_are_within_the_share(steps, costs):
    """For steps and pieces of any length: the share is a bound, but for how much the last piece surprised."""
    begun = pieces(Allowance(share=SHARE), steps, costs)
    for number, step in enumerate(begun):
        last = costs[number - 1] if number else sum(steps[:step]) / step
        assert sum(costs[:number]) + last <= SHARE * sum(steps[:step]) + 1e-9


def test_pieces_of_one_length_take_exactly_the_share():
    """The first waits for as much as a step takes; then each for what the one before it took."""
    begun = pieces(Allowance(share=SHARE), [1.0] * 100, [2.0] * 100)
    assert begun == [8, 32, 48, 64, 80, 96]


def test_a_piece_that_took_long_is_paid_off_and_soon_forgotten():
    """Ten seconds are paid, ten more are saved for the next piece, then five, and so on down to what pieces take."""
    begun = pieces(Allowance(share=SHARE), [1.0] * 400, [10.0] + [1.0] * 100)
    assert begun[:5] == [8, 160, 200, 220, 230]


def test_nothing_is_saved_up_while_there_is_nothing_to_do():
    """After a long quiet time one piece runs, and the next waits until it is paid for."""
    allowance = Allowance(share=SHARE)
    for _ in range(1000):
        allowance.earn(1.0)
    allowance.spend_on_piece(1.0)
    assert [allowance.is_enough, *pieces(allowance, [1.0] * 20, [1.0] * 9)] == [False, 8, 16]


def test_other_time_counts_and_is_paid_before_the_next_piece():
    """Scoring is not a piece, and not free."""
    allowance = Allowance(share=SHARE)
    allowance.earn(1.0)
    allowance.spend(1.0)
    assert pieces(allowance, [1.0] * 15, [1.0]) == [15]
