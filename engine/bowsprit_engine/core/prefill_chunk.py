"""How many prompt tokens a step may carry beside running streams: as many as delay them by a given number of steps.

Decides by step times alone (the start-up profile). Knows neither sequences nor the queue.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from bowsprit_policy.wire import Profile, StepCell


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """The most prompt tokens n of a step, at least 1, with T(b + n, c) <= (1 + delay) x T(b) for b running streams.

    T: seconds of a step by its rows, whatever sequences they belong to, read linearly between the profile's cells and
    along the whole curve's slope beyond them; and what n rows of a prompt pay for attention to a context c that is
    longer than the profile's. Fewer than two cells: nothing is known, and nothing limited.
    """

    curve: tuple[tuple[int, float], ...]  # (rows, seconds) in ascending order of both
    curve_context: int = 0  # tokens
    attention_seconds: float = 0.0  # of one row, per token of context beyond the curve's
    prefill_chunk: int
    delay_steps: float

    def tokens(self, *, num_decodes: int, context: int) -> int:
        """Beside so many decoding sequences, of prompts of which `context` tokens are computed. Without any, all."""
        if num_decodes == 0 or len(self.curve) < 2:
            return self.prefill_chunk
        bound = (1.0 + self.delay_steps) * _seconds(self.curve, num_decodes)
        beyond = max(0, context - self.curve_context) * self.attention_seconds

        def is_beyond_bound(n: int) -> bool:
            return _seconds(self.curve, num_decodes + n) + n * beyond > bound

        return max(1, bisect_left(range(1, self.prefill_chunk + 1), True, key=is_beyond_bound))


def chunk_limits(profile: Profile, *, prefill_chunk: int, delay_steps: float) -> ChunkLimits:
    """From the start-up profile."""
    curve = tuple(_curve(profile.cells))
    limits = ChunkLimits(curve=curve, prefill_chunk=prefill_chunk, delay_steps=delay_steps)
    if len(curve) < 2 or not profile.long_context:
        return limits
    context = profile.cells[0].context
    costs = [
        (_mean_seconds(cell) - _seconds(curve, cell.rows)) / (cell.rows * (cell.context - context))
        for cell in profile.long_context
        if cell.context > context
    ]
    return replace(limits, curve_context=context, attention_seconds=max(0.0, *costs)) if costs else limits


def _curve(cells: Iterable[StepCell]) -> list[tuple[int, float]]:
    """(rows, seconds) in ascending order of both. A cell with contended samples only stands with its fastest one."""
    fastest: dict[int, float] = {}
    for cell in cells:
        seconds = _mean_seconds(cell)
        fastest[cell.rows] = min(seconds, fastest.get(cell.rows, seconds))
    rows = sorted(fastest)
    return list(zip(rows, accumulate((fastest[count] for count in rows), max), strict=True))


def _mean_seconds(cell: StepCell) -> float:
    return cell.seconds / cell.steps if cell.steps else cell.seconds


def _seconds(curve: Sequence[tuple[int, float]], rows: int) -> float:
    (first, first_seconds), (last, last_seconds) = curve[0], curve[-1]
    if rows >= last:
        return last_seconds + (rows - last) * (last_seconds - first_seconds) / (last - first)
    index = max(1, bisect_left(curve, rows, key=lambda point: point[0]))
    (low, low_seconds), (high, high_seconds) = curve[index - 1], curve[index]
    return low_seconds + max(0, rows - low) * (high_seconds - low_seconds) / (high - low)
