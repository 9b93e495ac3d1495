"""How far steps that carry prompt tokens differ from what the profile says of them.

Decides the correction: measured over expected extra seconds of recent steps, and twice the mean deviation on top, since
the bound is one of slow steps and not of average ones (the estimator of TCP's retransmission timeout: Jacobson,
"Congestion Avoidance and Control", 1988, with a smaller multiple; sums instead of a mean of ratios, since a chunk of a
few tokens says little). A step that something else held up counts as a slow one and no more. Refuses to know where
expectations come from.
"""

from __future__ import annotations

KEEP = 7 / 8  # of the sums, per step with prompt tokens
DEVIATIONS = 2.0
STEP_GAIN = 1 / 8
SLOWEST_STEP = 2.0  # times what was known: more of it isn't the step's own time
MOST_ADDED = 4.0  # times what was believed: likewise
LEAST_CORRECTION = 0.5  # a profile that was measured on a busy machine isn't trusted to be slower than this
PRIOR_STEPS = 0.05  # decode steps of extra time that went as expected, before any was measured


class ChunkFeedback:
    """Moving sums. Without a measured step nothing is corrected."""

    def __init__(self) -> None:
        self._decode_seconds: dict[int, float] = {}
        self._measured = 0.0
        self._expected = 0.0
        self._deviation = 0.0

    @property
    def correction(self) -> float:
        """What expected extra seconds are to be multiplied by."""
        if self._expected == 0.0:
            return 1.0
        return max(LEAST_CORRECTION, (self._measured + DEVIATIONS * self._deviation) / self._expected)

    def decode_seconds(self, num_decodes: int) -> float | None:
        """A step's of so many decoding sequences and no prompt; None before one was measured."""
        return self._decode_seconds.get(num_decodes)

    def note_decodes(
        self,
        num_decodes: int,
        seconds: float,
        *,
        expected: float,  # before any was measured
    ) -> None:
        known = self._decode_seconds.get(num_decodes, expected)
        self._decode_seconds[num_decodes] = known + STEP_GAIN * (min(seconds, SLOWEST_STEP * known) - known)

    def note_added(
        self,
        seconds: float,  # by which a step with prompt tokens was longer than one without
        *,
        expected: float,
        step: float,  # seconds of one without
    ) -> None:
        if self._expected == 0.0:
            self._measured = self._expected = PRIOR_STEPS * step
        believed = expected * self._measured / self._expected
        seconds = min(max(0.0, seconds), MOST_ADDED * believed)
        off = abs(seconds - believed)
        self._deviation = KEEP * self._deviation + (1 - KEEP) * off
        self._measured = KEEP * self._measured + (1 - KEEP) * seconds
        self._expected = KEEP * self._expected + (1 - KEEP) * expected
