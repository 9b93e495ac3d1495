"""Step times as the policy asks for them: of several sources, the best first, each used for one answer alone.

Decides which source answers, and how often sources are read again. Refuses to know who measured (costs.py has the
buckets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bowsprit_engine.speculation.costs import StepTimes, context_bucket, curve_of

STEPS_PER_CURVE = 32  # step times are copied under a lock


class TimeSources:
    """`read` gives the sources as they are now, the best first."""

    def __init__(self, read: Callable[[], Sequence[StepTimes]]) -> None:
        self._read = read
        self._recent: Sequence[StepTimes] = ()
        self._steps_to_reading = 0
        self._curves: dict[tuple[int, int, int, int], tuple[float, ...]] = {}

    def slowdown(self, *, batch: int, rows: float, context: float) -> float | None:
        """How much longer a step of `rows` rows takes than one without drafts; None where no source knows."""
        for times in self._read():
            slowdown = times.slowdown(batch=batch, rows=rows, context=context)
            if slowdown is not None:
                return slowdown
        return None

    def curve(self, *, batch: int, rows: int, most: int, context: float) -> tuple[float, ...]:
        """Seconds of a step of `batch` sequences with `rows`, `rows` + 1, … up to `most` more rows; () where unknown.

        One source's figures, the first that knows both ends; what it doesn't know between them ends the curve.
        """
        key = (batch, rows, most, context_bucket(context))
        sources = self._read_lately()
        if key not in self._curves:
            self._curves[key] = next(filter(None, (curve_of(source, *key) for source in sources)), ())
        return self._curves[key]

    def _read_lately(self) -> Sequence[StepTimes]:
        self._steps_to_reading -= 1
        if self._steps_to_reading <= 0:
            self._steps_to_reading = STEPS_PER_CURVE
            self._recent = self._read()
            self._curves.clear()
        return self._recent
