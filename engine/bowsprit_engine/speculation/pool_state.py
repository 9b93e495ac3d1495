"""What the pool keeps from step to step: its drafters, and what is known of them. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_engine.speculation.asking import Sampling
from bowsprit_engine.speculation.beliefs import Beliefs
from bowsprit_engine.speculation.members import Members
from bowsprit_engine.speculation.prices import Prices
from bowsprit_engine.speculation.scoring import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """Each part changes, and is the same object for the pool's life."""

    members: Members
    prices: Prices
    beliefs: Beliefs
    scores: Scores
    sampling: Sampling
