"""Oracles of look-up: what they may copy, and how far."""

from __future__ import annotations

import pytest

from bench.lookup_bounds import Places, aligned_oracle, bounds, place_oracle, steps_of, stitching_oracle
from bench.recorded_answers import Answer

PROMPT = (1, 2, 3, 4, 5, 6)


def places(*texts: tuple[int, ...]) -> Places:
    known = Places()
    for text in texts:
        known.add(text)
    return known


def test_the_longest_of_all_places_is_copied() -> None:
    """Own text and earlier answers alike, up to the most."""
    text = (*PROMPT, 9, 3, 4, 7, 8)
    assert place_oracle(text, places(), context=0, most=16)(7) == 2
    assert place_oracle(text, places((3, 4, 7, 8)), context=0, most=16)(7) == 4
    assert place_oracle(text, places((3, 4, 7, 8)), context=0, most=3)(7) == 3


def test_a_place_must_follow_the_same_tokens() -> None:
    """3 4 follows 2 in the prompt and 9 in the answer."""
    text = (*PROMPT, 9, 3, 4)
    assert place_oracle(text, places(), context=1, most=16)(7) == 0
    assert place_oracle(text, places((9, 3)), context=1, most=16)(7) == 1


def test_what_is_emitted_later_is_no_place_but_a_copy_may_run_into_itself() -> None:
    """A period: 1 2 1 2 1 2 is a copy of its first two tokens; the first of them is copied from nowhere."""
    text = (7, 1, 2, 1, 2, 1, 2)
    oracle = place_oracle(text, places(), context=0, most=16)
    assert [oracle(1), oracle(3)] == [0, 4]


def test_stitching_changes_places_where_one_place_ends() -> None:
    """1 2 comes from one answer, 2 3 from another; 3 9 from nowhere."""
    text = (1, 2, 3, 9)
    known = places((1, 2), (2, 3))
    assert place_oracle(text, known, context=1, most=16)(1) == 1
    assert stitching_oracle(text, known, context=1, most=16)(1) == 2


def test_after_an_edit_the_aligned_oracle_goes_on_where_the_source_does() -> None:
    """The changed token comes from the target; no context is asked of what follows it."""
    text = (*PROMPT, 1, 2, 9, 4, 5, 6)
    oracle = aligned_oracle(text, len(PROMPT), most=16)
    assert [oracle(6), oracle(8), oracle(9)] == [2, 0, 3]


def test_every_step_ends_with_a_token_of_the_target_s_own() -> None:
    """10 tokens by drafts of up to 4 are 5 + 5; without drafts 10 steps."""
    assert steps_of(lambda start: 4, begin=0, end=10) == 2
    assert steps_of(lambda start: 0, begin=0, end=10) == 10


def test_bounds_judge_the_judged_and_know_only_what_came_before() -> None:
    """The second answer repeats the first: 4 tokens after its first in one step; the first one's own 4 took 4."""
    first = Answer(index=0, prompt=(0,), tokens=(1, 2, 3, 4, 5), is_judged=False)
    second = Answer(index=1, prompt=(0,), tokens=(1, 2, 3, 4, 5), is_judged=True)
    assert bounds([first, second], cap=16)["one place, 1 token before it alike"] == 4.0
    assert bounds([second], cap=16)["one place, 1 token before it alike"] == 1.0
    assert bounds([second, first], cap=16)["all that is emitted"] == 4.0


def test_a_cap_below_one_is_refused() -> None:
    """With the value and the limit."""
    with pytest.raises(ValueError, match="cap is 0, the least is 1"):
        bounds([], cap=0)
