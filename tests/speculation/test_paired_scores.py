"""Two drafts of one place, judged by the text that was emitted there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowsprit_engine.speculation.paired_scores import Pair, PairedScores


def pair(candidate, incumbent, *, limit=4):
    return Pair(start=2, limit=limit, candidate=tuple(candidate), incumbent=incumbent and tuple(incumbent))


@pytest.mark.parametrize(
    ("candidate", "incumbent", "emitted", "is_decided"),
    [
        ([5, 6, 7, 8], [5, 6, 0, 0], [], False),
        ([5, 6, 7, 8], [5, 6, 0, 0], [5, 6, 7], False),  # the candidate may match once more
        ([5, 6, 7, 8], [5, 6, 0, 0], [5, 6, 7, 8], True),
        ([5, 6, 7, 8], [5, 6, 0, 0], [5, 0], True),
        ([5, 6, 7, 8], [0, 6, 7, 8], [5, 0], True),
        ([5], [0], [5], False),  # it drafted no second token: reached, if there is one
        ([5], [0], [5, 9], True),
        ([], None, [5], True),
    ],
)
def test_a_pair_is_decided_when_no_more_text_changes_a_count(candidate, incumbent, emitted, is_decided):
    """Both drafts have missed, or all positions have their token."""
    assert pair(candidate, incumbent).is_decided(emitted) == is_decided


def test_counts_and_paired_differences_of_a_toy_are_those_made_by_hand():
    """Three rows: 3 against 1 matched, 0 against 2, and an answer that ended after two tokens, 2 against 2."""
    scores = PairedScores(incumbent="old")
    scores.add(pair([5, 6, 7, 0], [5, 0, 0, 0]), [5, 6, 7, 8])
    scores.add(pair([0, 6, 7, 8], [5, 6, 0, 8]), [5, 6, 7, 8])
    scores.add(pair([5, 6, 7, 8], [5, 6, 9, 9]), [5, 6])
    candidate, incumbent = scores.candidate_counts, scores.incumbent_counts
    assert (candidate.reached, candidate.matched) == ([3, 2, 1, 1], [2, 2, 1])
    assert (incumbent.reached, incumbent.matched) == ([3, 3, 1], [3, 2])
    assert (scores.num_pairs, scores.squared_differences) == (3, 2**2 + 2**2 + 0)


def test_a_place_without_a_token_is_no_row():
    """The answer ended before it."""
    scores = PairedScores(incumbent="old")
    scores.add(pair([5], [5]), [])
    assert (scores.num_pairs, scores.candidate_counts.reached) == (0, [])


TOKENS = st.lists(st.integers(0, 1), max_size=4)


@given(rows=st.lists(st.tuples(TOKENS, TOKENS, st.lists(st.integers(0, 1), min_size=1, max_size=4)), max_size=30))
def test_positions_count_as_their_definition_says(rows):
    """Reached: a token stands there and all before it were drafted and right."""
    scores = PairedScores(incumbent="old")
    for candidate, incumbent, emitted in rows:
        scores.add(pair(candidate, incumbent), emitted)
    for counts, side in ((scores.candidate_counts, 0), (scores.incumbent_counts, 1)):
        for i in range(4):
            reached = [row for row in rows if i < len(row[2]) and len(row[side]) >= i and row[side][:i] == row[2][:i]]
            matched = [row for row in reached if len(row[side]) > i and row[side][i] == row[2][i]]
            found = [(values[i] if i < len(values) else 0) for values in (counts.reached, counts.matched)]
            assert found == [len(reached), len(matched)]
