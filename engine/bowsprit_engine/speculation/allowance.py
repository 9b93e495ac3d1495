"""How much time work beside the steps may take: a share of theirs, earned before it is spent.

Decides when the next piece of such work may begin, by what steps took and what pieces cost. Refuses to know what the
work is and to read a clock.
"""

from __future__ import annotations

COST_KEEP = 0.5  # of the dearest piece, per piece: one that was held up by other work is soon forgotten


class Allowance:
    """Seconds that may be spent. What pieces take beyond them is a debt, which steps pay before the next piece.

    When a piece begins, all that was spent before and what it is expected to take are within `share` of what steps
    took. Nothing is saved up: however long nothing was spent, two pieces are apart by the steps that pay for one.
    """

    def __init__(self, *, share: float) -> None:
        self._share = share
        self._seconds = 0.0
        self._num_steps = 0
        self._step_seconds = 0.0
        self._cost: float | None = None

    @property
    def is_enough(self) -> bool:
        """Whether the next piece is paid for."""
        return self._num_steps > 0 and self._seconds >= self._expected_cost

    def earn(self, step_seconds: float) -> None:
        """A step ran."""
        self._num_steps += 1
        self._step_seconds += step_seconds
        self._seconds = min(self._seconds + self._share * step_seconds, self._expected_cost)

    def spend(self, seconds: float) -> None:
        """Time was taken by anything but a piece."""
        self._seconds -= seconds

    def spend_on_piece(self, seconds: float) -> None:
        """A piece of work took this long: so may the next one. What it left of the allowance is forgone."""
        self._seconds = min(0.0, self._seconds - seconds)
        self._cost = seconds if self._cost is None else max(seconds, self._cost * COST_KEEP)

    @property
    def _expected_cost(self) -> float:
        """Of the next piece; the first is taken to cost as much as a step, since it would never pay otherwise."""
        return self._step_seconds / self._num_steps if self._cost is None else self._cost
