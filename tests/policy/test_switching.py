"""Comparing choices of caps: gains with their errors, and pools that are too large to price every combination."""

from __future__ import annotations

import itertools

import pytest

from bowsprit_policy import cost, switching
from bowsprit_policy.acceptance import AcceptanceEstimate, Estimate
from bowsprit_policy.composition import Member, score
from bowsprit_policy.cost import CostState
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.switching import Pool
from bowsprit_policy.wire import DrafterType
from builders import profile, step_cell

TIMES = StepTimes(
    cost=CostState(
        profile=cost.profiled([profile([step_cell(rows=r, milliseconds=10 + (r - 1) * 0.8) for r in range(1, 18)])])
    )
)


def pool(*drafters: tuple[float, float], error: float = 0.02) -> Pool:
    """Each drafter: share and match."""
    members, estimates = [], []
    for i, (share, match) in enumerate(drafters):
        name = f"drafter-{i}"
        members.append(
            Member(
                name=name,
                type=DrafterType.NGRAM,
                share=share,
                positions=(match,) * 8,
                lengths=(1.0,) * 8,
                unit_seconds=0.0001,
            )
        )
        estimates.append(
            AcceptanceEstimate(
                name=name,
                share=Estimate(value=share, error=error),
                positions=(Estimate(value=match, error=error),) * 8,
                lengths=(1.0,) * 8,
                drafts=1000.0,
            )
        )
    return Pool(members=tuple(members), estimates=tuple(estimates))


def gain(of: Pool, before: int, after: int) -> Estimate:
    scores = [score(of.members, (k,), batch=1, times=TIMES) for k in (before, after)]
    return switching.gain(of, current=scores[0], other=scores[1], batch=1, times=TIMES)


def test_a_gain_is_relative_goodput() -> None:
    """One token of 0.5: 1.5 tokens in 10.9 ms (0.1 ms of it drafting) against 1 in 10 ms."""
    assert gain(pool((1.0, 0.5)), 0, 1).value == pytest.approx(1.5 / 10.9 * 10 - 1)


def test_errors_that_both_choices_share_cancel() -> None:
    """K=4 and K=5 rest on the same four positions: their difference is surer than either."""
    assert gain(pool((1.0, 0.8)), 4, 5).error < 0.5 * gain(pool((1.0, 0.8)), 0, 5).error


def test_a_vaguer_estimate_makes_a_vaguer_gain() -> None:
    """In proportion, beside the error of the curve."""
    assert gain(pool((1.0, 0.8), error=0.1), 0, 4).error > 2 * gain(pool((1.0, 0.8), error=0.02), 0, 4).error


def test_a_pool_too_large_to_price_every_combination_still_finds_its_best() -> None:
    """Four drafters with nine caps each are 6,561 choices, swept one drafter at a time over its whole range."""
    four = pool((0.3, 0.9), (0.5, 0.7), (0.2, 0.2), (1.0, 0.6))
    swept = switching.enumerated(four, [range(9)] * 4, batch=1, times=TIMES)
    every = (score(four.members, caps, batch=1, times=TIMES) for caps in itertools.product(range(9), repeat=4))
    assert len(swept) < 500
    assert swept[0].goodput(1) == pytest.approx(max(s.goodput(1) for s in every), rel=0.01)
    assert any(not any(s.caps) for s in swept)
