"""Where a run is, written by the run and read by the control port's thread.

Holds one frozen value and replaces it whole, so that a reader never sees half an update. Also logs each phase once.
"""

from __future__ import annotations

import logging

from bowsprit_policy.wire import TrainingPhase, TrainingProgress

logger = logging.getLogger(__name__)


class Tracker:
    """The run's progress. `current` may be called from any thread."""

    def __init__(self) -> None:
        self._current = TrainingProgress(phase=TrainingPhase.LOADING)

    def current(self) -> TrainingProgress:
        return self._current

    def enter(self, phase: TrainingPhase, message: str, *, steps: int = 0) -> None:
        """A new phase of `steps` steps; the last acceptance length stays known."""
        self._current = TrainingProgress(
            phase=phase, steps=steps, acceptance_length=self._current.acceptance_length, message=message
        )
        logger.info("%s: %s", phase, message)

    def step(self, step: int, *, steps: int | None = None, acceptance_length: float | None = None) -> None:
        """How far the phase is."""
        known = {"step": step, "steps": steps, "acceptance_length": acceptance_length}
        update = {name: value for name, value in known.items() if value is not None}
        self._current = self._current.model_copy(update=update)
