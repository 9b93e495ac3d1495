"""How much later a running stream's tokens come while a long prompt is computed."""

from __future__ import annotations

from itertools import accumulate

import pytest

from bench.prefill_interference import Delay, Round, delay, figures


def a_round(*gaps: float, arrival: float, first_token: float) -> Round:
    """A stream whose first token comes at 0."""
    return Round(token_seconds=(0.0, *accumulate(gaps)), arrival=arrival, first_token=first_token)


def test_the_delay_is_the_slow_gap_beyond_the_stream_s_own_step() -> None:
    """Gaps after the prompt's first token are the stream's own again."""
    of = a_round(1, 1, 1, 3, 3.5, 3, 9, arrival=3.0, first_token=12.0)
    assert delay(of) == Delay(step=1.0, added=2.5)


def test_the_gap_in_which_the_prompt_came_counts() -> None:
    """It may hold the first chunk."""
    assert delay(a_round(1, 1, 1, 4, 1, arrival=3.5, first_token=7.5)).added == 3.0


def test_one_gap_of_a_hundred_and_more_may_be_slower() -> None:
    """The 99th percentile: here the second slowest of 200."""
    gaps = [2.0] * 198 + [5.0, 50.0]
    of = a_round(1, 1, *gaps, arrival=2.0, first_token=1e9)
    assert delay(of).added == 4.0


def test_a_stream_that_is_not_delayed_has_no_negative_delay() -> None:
    """Faster steps are no credit."""
    assert delay(a_round(2, 2, 1, 1, arrival=4.0, first_token=6.0)).added == 0.0


def test_a_round_without_gaps_to_compare_is_an_error() -> None:
    """Both counts are named."""
    with pytest.raises(ValueError, match="0 gaps before the prompt and 2 during it"):
        delay(a_round(1, 1, arrival=0.5, first_token=2.0))


def test_the_figure_is_in_steps_and_has_an_interval() -> None:
    """Added over own step, medians over rounds."""
    figure = figures([Delay(step=0.004, added=0.008), Delay(step=0.005, added=0.010)])["p99_added_steps"]
    assert figure.value == pytest.approx(2.0)
    assert figure.low == figure.high == pytest.approx(2.0)
