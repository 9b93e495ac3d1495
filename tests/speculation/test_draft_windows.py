"""Rows of a step, shared among sequences: always the most tokens per second that the curve allows."""

from __future__ import annotations

from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_engine.speculation.windows import row_share, windows

FLAT = (1.0,) * 20
STEEP = tuple(1.0 + 0.5 * n for n in range(20))


def test_on_a_flat_curve_every_likely_token_is_verified():
    """Rows cost nothing there."""
    assert windows([(0.5, 0.1), (0.9,)], FLAT, sure_tokens=2) == [2, 1]


def test_on_a_steep_curve_only_the_surest_tokens_are_verified():
    """A row that takes half a step must bring half of what the step brings."""
    assert windows([(0.9, 0.3), (0.1,)], STEEP, sure_tokens=1) == [1, 0]


def test_a_stair_in_the_curve_is_stepped_over():
    """The first row doubles the step, seven more are free: nothing short of all of them pays."""
    assert windows([(0.9,) * 8], (1.0, *(2.0,) * 8), sure_tokens=1) == [8]
    assert windows([(0.9,)], (1.0, 2.0), sure_tokens=1) == [0]


def test_a_curve_that_falls_is_noise():
    """More rows never cost less than fewer."""
    assert windows([(0.4, 0.01)], (1.0, 2.0, 0.5), sure_tokens=1) == [0]


def test_rows_beyond_the_curve_are_not_drafted():
    """What a step takes there nobody knows."""
    assert windows([(0.9, 0.9, 0.9)], (1.0, 1.0), sure_tokens=1) == [1]
    assert windows([(0.9,)], (), sure_tokens=1) == [0]


probabilities = st.lists(st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95]), max_size=3).map(
    lambda conditional: tuple(accumulate(conditional, lambda a, b: a * b))
)


@given(
    st.lists(probabilities, min_size=1, max_size=3), st.lists(st.sampled_from([0.0, 0.1, 0.6]), min_size=9, max_size=9)
)
def test_no_other_choice_emits_more_per_second(survivals, rises):
    """Against every choice of windows there is."""
    curve = tuple(accumulate(rises, initial=1.0))

    def goodput(lengths):
        tokens = len(survivals) + sum(sum(of[:n]) for of, n in zip(survivals, lengths, strict=True))
        return tokens / curve[sum(lengths)]

    best = max(goodput(lengths) for lengths in product(*(range(len(of) + 1) for of in survivals)))

    assert goodput(windows(survivals, curve, sure_tokens=len(survivals))) == pytest.approx(best)


@pytest.mark.parametrize(
    ("curve", "batch", "share"),
    [
        ([2.0, 2.4, 2.4, 2.4], 1, 0.2 / 3),  # as many at once as are cheapest
        ([2.0, 2.2, 2.8], 1, 0.1),
        ([2.0, 2.0, 2.8], 2, 0.2),  # a row for one of two sequences is free, and tells nothing
        ([2.0, 1.9], 1, 0.0),  # noise
        ([2.0], 1, 0.0),
        ([], 1, 0.0),
    ],
    ids=str,
)
def test_a_row_costs_what_it_does_where_rows_are_cheapest_for_all_sequences(curve, batch, share):
    """A curve has steps; nothing where it falls, or isn't known."""
    assert row_share(curve, batch=batch) == pytest.approx(share)
