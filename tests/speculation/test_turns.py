"""Whose turn each position of a verified proposal was."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.proposal import Proposal, Turn, turns


@pytest.mark.parametrize(
    ("num_accepted", "num_emitted", "expected"),
    [
        (0, 1, [("head", 0, 2, 2, 1), ("counts", 2, 3, 4, 1)]),
        (3, 4, [("head", 0, 2, 2, 4), ("counts", 2, 3, 4, 4)]),
        (3, 3, [("head", 0, 2, 2, 3), ("counts", 2, 3, 4, 3)]),  # the last draft ended the sequence
    ],
)
def test_each_position_is_the_turn_of_whose_token_stands_there(num_accepted, num_emitted, expected):
    """Only the last drafter could have gone on, within its cap; a position after the end was never judged."""
    proposal = Proposal(token_ids=(7, 7, 8), sources=("head", "head", "counts"), survivals=(0.9, 0.8, 0.7))
    found = turns(
        proposal,
        asked=("counts", "head"),
        caps={"head": 5, "counts": 4},
        num_accepted=num_accepted,
        num_emitted=num_emitted,
    )

    assert [(t.drafter, t.begin, t.end, t.limit, t.num_judged) for t in found] == expected


def test_where_nothing_was_drafted_it_was_everybodys_turn():
    """Of all who were asked: each could have begun."""
    found = turns(Proposal(), asked=("counts",), caps={"counts": 4}, num_accepted=0, num_emitted=1)

    assert found == [Turn(drafter="counts", begin=0, end=0, limit=1, num_judged=1, num_accepted=0)]


def test_forced_tokens_are_no_turn_of_any_drafter():
    """Its turn begins where they end; without any of its own it had none."""
    both = Proposal(token_ids=(8, 9, 4), sources=("", "", "counts"), survivals=(0.9, 0.9, 0.5))

    assert turns(both, asked=("counts",), caps={"counts": 1}, num_accepted=3, num_emitted=4) == [
        Turn(drafter="counts", begin=2, end=3, limit=3, num_judged=4, num_accepted=3)
    ]
    assert turns(both.cut(2), asked=("counts",), caps={"counts": 1}, num_accepted=2, num_emitted=3) == []
    assert both.drafter == ""
