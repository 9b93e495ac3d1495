"""What the pool keeps from step to step: its drafters, and what is known of them. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_engine.speculation.asking import Sampling
from bowsprit_engine.speculation.contexts import Texts
from bowsprit_engine.speculation.ledger import Ledger
from bowsprit_engine.speculation.members import Members
from bowsprit_engine.speculation.prices import Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """Each part changes, and is the same object for the pool's life."""

    members: Members
    prices: Prices
    ledger: Ledger
    texts: Texts
    sampling: Sampling
