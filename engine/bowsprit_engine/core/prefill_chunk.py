"""How many prompt tokens a step may carry beside running streams: as many as delay them by a given number of steps.

Decides by step times alone (the start-up profile). Knows neither sequences nor the queue.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from bowsprit_policy.wire import StepCell


def chunk_limits(
    cells: Iterable[StepCell], *, max_batch_size: int, prefill_chunk: int, delay_steps: float
) -> dict[int, int]:
    """For each number b of running streams: the most prompt tokens n, at least 1, with T(b + n) <= (1 + delay) x T(b).

    T: seconds of a step by its rows, whatever sequences they belong to (a prompt's rows cost what draft rows do, but
    for attention at contexts longer than the profile's), read linearly between cells and along the whole curve's
    slope beyond them. Empty when there are fewer than two cells: then nothing is known.
    """
    curve = _curve(cells)
    if len(curve) < 2:
        return {}
    factor = 1.0 + delay_steps
    return {b: _largest(curve, b, most=prefill_chunk, factor=factor) for b in range(1, max_batch_size + 1)}


def _curve(cells: Iterable[StepCell]) -> list[tuple[int, float]]:
    """(rows, seconds) in ascending order of both. A cell with contended samples only stands with its fastest one."""
    fastest: dict[int, float] = {}
    for cell in cells:
        seconds = cell.seconds / cell.steps if cell.steps else cell.seconds
        fastest[cell.rows] = min(seconds, fastest.get(cell.rows, seconds))
    rows = sorted(fastest)
    return list(zip(rows, accumulate((fastest[count] for count in rows), max), strict=True))


def _largest(curve: list[tuple[int, float]], batch: int, *, most: int, factor: float) -> int:
    bound = factor * _seconds(curve, batch)
    return max(1, bisect_left(range(1, most + 1), True, key=lambda n: _seconds(curve, batch + n) > bound))


def _seconds(curve: list[tuple[int, float]], rows: int) -> float:
    (first, first_seconds), (last, last_seconds) = curve[0], curve[-1]
    if rows >= last:
        return last_seconds + (rows - last) * (last_seconds - first_seconds) / (last - first)
    index = max(1, bisect_left(curve, rows, key=lambda point: point[0]))
    (low, low_seconds), (high, high_seconds) = curve[index - 1], curve[index]
    return low_seconds + max(0, rows - low) * (high_seconds - low_seconds) / (high - low)


def limit_beside(limits: Mapping[int, int], *, num_decodes: int, prefill_chunk: int) -> int:
    """Prompt tokens of a step with so many decoding sequences; without any, or where nothing is known, all."""
    if num_decodes == 0:
        return prefill_chunk
    return min(prefill_chunk, limits.get(num_decodes, prefill_chunk))
