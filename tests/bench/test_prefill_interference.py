"""How much later a running stream's tokens come while a long prompt is computed."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest

from bench.prefill_interference import Delay, Round, delay, figures


def a_round(*gaps: float, arrival: float, first_token: float, tokens_per_step: int = 1) -> Round:
    """A stream whose first token comes at 0."""
    token_seconds = (0.0, *accumulate(gaps))
    num_tokens = tokens_per_step * len(token_seconds)
    return Round(token_seconds=token_seconds, num_tokens=num_tokens, arrival=arrival, first_token=first_token)


def test_the_delay_is_the_slow_gap_beyond_the_stream_s_own_step() -> None:
    """Gaps after the prompt's first token are the stream's own again."""
    of = a_round(1, 1, 1, 3, 3.5, 3, 9, arrival=3.0, first_token=12.0)
    assert delay(of) == Delay(step=1.0, added=2.5, added_in_all=2.5, contended=0, gaps=3, tokens_per_step=1.0)


def test_gaps_in_which_other_work_interrupted_a_step_are_told_apart() -> None:
    """The steps that ended at 6.2 and 9.5 were interrupted; the first was the stream's alone."""
    of = replace(a_round(1, 1, 1, 3, 3.5, 3, 9, arrival=3.0, first_token=12.0), contended=(1.0, 6.2, 9.5))
    assert delay(of) == Delay(step=1.0, added=2.0, added_in_all=2.5, contended=1, gaps=3, tokens_per_step=1.0)


def test_the_gap_in_which_the_prompt_came_counts() -> None:
    """It may hold the first chunk."""
    assert delay(a_round(1, 1, 1, 4, 1, arrival=3.5, first_token=7.5)).added == 3.0


def test_a_step_that_brings_several_tokens_is_one_gap() -> None:
    """Latency is the steps', whatever they bring."""
    of = delay(a_round(1, 1, 1, 3, 1, arrival=3.0, first_token=6.0, tokens_per_step=4))
    assert (of.step, of.added, of.tokens_per_step) == (1.0, 2.0, 4.0)


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
    with pytest.raises(ValueError, match="0 gaps before the prompt and 2 without contention of 2 during it"):
        delay(a_round(1, 1, arrival=0.5, first_token=2.0))


def test_the_figure_is_in_steps_and_has_an_interval() -> None:
    """Added over own step, medians over rounds."""
    of = [
        Delay(step=step, added=2 * step, added_in_all=3 * step, contended=1, gaps=9, tokens_per_step=1.0)
        for step in (0.004, 0.005)
    ]
    found = figures(of)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {"p99_added_steps": 2.0, "p99_added_steps_in_all": 3.0}
    )
    assert found["p99_added_steps"].low == found["p99_added_steps"].high == pytest.approx(2.0)
