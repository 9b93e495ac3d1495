"""How a run's time is shared out. The clock comes from whoever starts the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Shares of the deadline: when features stop growing, and when training stops. The rest is for the evaluation.
FEATURES_UNTIL = 0.5
TRAINING_UNTIL = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """`elapsed`: seconds since the run began; `seconds`: how many it has."""

    elapsed: Callable[[], float]
    seconds: float

    def is_past(self, share: float) -> bool:
        """Whether this share of the time is over."""
        return self.elapsed() >= share * self.seconds
