"""When a step is a probe: one at K = 0, or one whose sequence is drafted by one drafter alone up to its limit.

Decides the intervals: each kind comes as often as keeps its cost under half a percent of the steps, and a drafter that
takes long to ask is probed as seldom as that takes. Refuses to know what probes find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

PROBE_COST = 0.005
SHORTEST_INTERVAL = 64
LONGEST_INTERVAL = 2048
UNKNOWN_INTERVAL = 256
FIRST_BASELINE_PROBE = 16
SCORED_ANYWAY = 4  # times as seldom: what look-up drafts is judged by the text, only how far it would go is not
STEPS_TO_NEXT_TRY = 16  # after a probe for which the drafter had no proposal: it cost little


@dataclass(slots=True, kw_only=True)
class Probes:
    """Of one batch bucket: steps until the next one of each kind."""

    steps_to_baseline: int = FIRST_BASELINE_PROBE
    steps_to_probe: int = UNKNOWN_INTERVAL
    num_steps: int = 0
    probed_at: dict[str, int] = field(default_factory=dict)  # by drafter, the step of its latest probe
    probed: str | None = None  # the drafter that the step under way probes

    def baseline_is_due(self) -> bool:
        """Whether the step that begins should run without drafts."""
        self.steps_to_baseline -= 1
        return self.steps_to_baseline <= 0

    def probe_due(self, candidates: Sequence[str], *, asking: Callable[[str], float]) -> str | None:
        """The drafter that the step that begins should probe: each in its turn.

        `asking`: what asking it costs, in steps. One for which that isn't earned yet keeps no other one waiting.
        """
        self.num_steps += 1
        self.steps_to_probe -= 1
        if self.steps_to_probe > 0:
            return None
        earned = [name for name in candidates if PROBE_COST * self._steps_since(name) >= asking(name)]
        if not earned:
            return None
        self.probed = max(earned, key=self._steps_since)
        self.probed_at[self.probed] = self.num_steps
        return self.probed

    def heard_of(self, drafters: Collection[str]) -> None:
        """The step ended, and these had drafted."""
        if self.probed is not None and self.probed not in drafters:
            self.steps_to_probe = STEPS_TO_NEXT_TRY
        self.probed = None

    def _steps_since(self, name: str) -> int:
        return self.num_steps - self.probed_at.get(name, 0)


def interval(cost: float | None) -> int:
    """Steps between probes of which each costs `cost` steps; None: unknown."""
    if cost is None:
        return UNKNOWN_INTERVAL
    return min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, math.ceil(cost / PROBE_COST)))
