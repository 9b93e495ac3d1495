"""What is emitted from drawn tokens and a draft: a table of every ending."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.verify import Verdict, judge, num_leading_equal

STOP = 9


@pytest.mark.parametrize(
    ("drawn", "draft", "emitted", "num_accepted", "num_reached", "is_stopped"),
    [
        ([5], [], (5,), 0, 0, False),  # no draft: the target's own token
        ([5, 6, 7], [5, 6], (5, 6, 7), 2, 2, False),  # all right: the bonus comes on top
        ([5, 6, 7], [5, 8], (5, 6), 1, 2, False),  # the first wrong one is replaced
        ([5, 6, 7], [4, 6], (5,), 0, 1, False),  # a later match doesn't count
        ([STOP], [], (STOP,), 0, 0, True),
        ([5, STOP, 7], [5, STOP], (5, STOP), 2, 2, True),  # a drafted stop ends, without a bonus
        ([5, STOP, 7], [5, 6], (5, STOP), 1, 2, True),  # so does an undrafted one
        ([STOP, 6, 7], [STOP, 6], (STOP,), 1, 1, True),  # drafts after a stop are never judged
        ([5, 6, STOP], [5, 6], (5, 6, STOP), 2, 2, True),  # the bonus may be the stop
    ],
)
def test_drafts_are_kept_while_they_are_what_the_target_drew(
    drawn, draft, emitted, num_accepted, num_reached, is_stopped
):
    """Accepted drafts, then one token of the target's own, cut after a stop token."""
    assert judge(drawn=drawn, draft=draft, stop_token_ids={STOP}) == Verdict(
        token_ids=emitted, num_accepted=num_accepted, num_reached=num_reached, is_stopped=is_stopped
    )


def test_a_draft_without_its_bonus_row_is_a_mistake():
    """k drafts need k + 1 drawn tokens."""
    with pytest.raises(ValueError, match="2 drawn tokens for 2 drafts"):
        judge(drawn=[5, 6], draft=[5, 6], stop_token_ids=())


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [((1, 2, 3), (1, 2, 4), 2), ((1, 2), (1, 2, 3), 2), ((5,), (6,), 0), ((), (1,), 0), ([1, 2], (1, 2), 2)],
)
def test_sequences_share_what_is_equal_from_the_start(ours, theirs, expected):
    """Up to the first difference, or the shorter one's end."""
    assert num_leading_equal(ours, theirs) == expected
