"""What a draft's tokens gain where rows have a price."""

from __future__ import annotations

import pytest

from bowsprit_engine.speculation.beliefs import Beliefs
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter

COUNTS = FakeDrafter(name="counts", type=DrafterType.NGRAM, draft=lambda _: ())
HEAD = FakeDrafter(name="head", draft=lambda _: ())
LONG = Draft(token_ids=(1, 2, 3, 4, 5, 6), confidences=(0.7,) * 6)
SHORT = Draft(token_ids=(1,), confidences=(1.0,))


def gain(draft, row_price):
    candidate = Beliefs([COUNTS]).candidate(COUNTS, "counts", draft, others=(), fortune=2, row_price=row_price)
    return candidate.gain


def test_a_long_unsure_draft_gains_more_than_a_short_sure_one_unless_rows_cost():
    """Its far tokens are worth less than their rows then, and aren't counted."""
    assert gain(LONG, 0.0) > gain(SHORT, 0.0)
    assert gain(LONG, 0.5) < gain(SHORT, 0.5)
    assert gain(LONG, 1.0) == 0.0


def test_what_a_head_is_expected_to_gain_is_net_of_its_rows():
    """By length; a token that is worth less than its row adds nothing."""
    beliefs = Beliefs([HEAD])
    free = beliefs.foreseen(HEAD, most=4, fortune=2, row_price=0.0)
    paid = beliefs.foreseen(HEAD, most=4, fortune=2, row_price=free[1] - free[0])

    assert free[0] < free[1] < free[2] < free[3]
    assert paid == pytest.approx((2 * free[0] - free[1],) * 4)
