"""A drafter's recent acceptance in one batch bucket, and whether it pays: what the engine may judge by itself.

Decides from an exponentially weighted window of drafts against the measured slow-down of a step with that many drafts.
Pure; the fleet's estimates are bowsprit_policy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HALF_LIFE_DRAFTS = 64
KEEP = 0.5 ** (1 / HALF_LIFE_DRAFTS)
LEAST_DRAFTS_TO_LOWER = 32.0
LEAST_DRAFTS_TO_RESTORE = 3.5  # probes are rare: four of them, and a clear gain


@dataclass(slots=True, kw_only=True)
class AcceptanceWindow:
    """Weighted sums over drafts: their number, their lengths, how much of them was accepted (and its square)."""

    drafts: float = 0.0
    drafted: float = 0.0
    accepted: float = 0.0
    accepted_squared: float = 0.0

    def add(self, *, drafted: int, accepted: int) -> None:
        """Take one draft in."""
        self.drafts = self.drafts * KEEP + 1
        self.drafted = self.drafted * KEEP + drafted
        self.accepted = self.accepted * KEEP + accepted
        self.accepted_squared = self.accepted_squared * KEEP + accepted * accepted

    @property
    def mean_drafted(self) -> float:
        return self.drafted / self.drafts if self.drafts else 0.0

    @property
    def acceptance_length(self) -> float:
        """Tokens per sequence-step with a draft, bonus included."""
        return 1.0 + (self.accepted / self.drafts if self.drafts else 0.0)

    @property
    def standard_error(self) -> float:
        mean = self.acceptance_length - 1.0
        variance = max(0.0, self.accepted_squared / self.drafts - mean * mean) if self.drafts else 0.0
        return math.sqrt(variance / self.drafts) if self.drafts else math.inf

    def loses(self, slowdown: float) -> bool:
        """Whether drafting surely costs more than it gains (two standard errors)."""
        has_evidence = self.drafts >= LEAST_DRAFTS_TO_LOWER
        return has_evidence and self.acceptance_length + 2 * self.standard_error < slowdown

    def wins(self, slowdown: float) -> bool:
        """Whether fresh probes say that drafting pays again."""
        has_evidence = self.drafts >= LEAST_DRAFTS_TO_RESTORE
        return has_evidence and self.acceptance_length - self.standard_error > slowdown
