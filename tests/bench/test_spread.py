"""Medians, quartiles and the interval of a ratio."""

from __future__ import annotations

import pytest

from bench.spread import Ratio, Spread, ratio, spread


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    """Of any order; inclusive, as few rounds ask for."""
    assert spread([5, 1, 4, 2, 3]) == Spread(median=3, low=2, high=4)


def test_one_sample_is_its_own_spread() -> None:
    """A quick run of one round must not fail."""
    assert spread([7.0]) == Spread(median=7.0, low=7.0, high=7.0)


def test_no_samples_have_no_spread() -> None:
    """Nothing stands for nothing."""
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_a_ratio_is_of_the_medians() -> None:
    """Not the median of ratios: one slow round of one side moves neither median."""
    assert ratio([20, 21, 100], [10, 10.5, 1]).value == 2.1


def test_a_constant_ratio_has_no_width_however_the_machine_drifts() -> None:
    """Rounds are drawn whole: what slows a round slows both sides of it."""
    theirs = [10.0, 5.0, 20.0, 8.0, 13.0]
    assert ratio([3 * rate for rate in theirs], theirs) == Ratio(value=3.0, low=3.0, high=3.0)


def test_an_interval_is_as_wide_as_the_rounds_differ() -> None:
    """And holds the ratio."""
    steady = ratio([20.0, 20.1, 19.9, 20.0, 20.05], [10.0] * 5)
    noisy = ratio([20.0, 30.0, 10.0, 21.0, 19.0], [10.0] * 5)
    assert noisy.low <= noisy.value <= noisy.high
    assert noisy.high - noisy.low > 10 * (steady.high - steady.low)


def test_the_same_samples_give_the_same_interval() -> None:
    """A report can be computed again from its JSON."""
    samples = [3.0, 4.0, 5.0, 9.0], [1.0, 2.0, 3.0, 1.5]
    assert ratio(*samples) == ratio(*samples)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], [])])
def test_samples_without_a_partner_are_refused(ours: list[float], theirs: list[float]) -> None:
    """Both counts are named."""
    with pytest.raises(ValueError, match=f"{len(ours)} numerators and {len(theirs)} denominators"):
        ratio(ours, theirs)
