"""Step times by bucket: what one step of b sequences and r rows at context c takes, as measured.

Decides the buckets and how to read between them (linearly in rows, nearest context). Measured steps and the start-up
profile are never mixed in one ratio. Knows nothing of drafters and of who asks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bowsprit_policy.wire import StepCell

SMALLEST_CONTEXT = 128
LEAST_STEPS = 8  # a measured cell with fewer judges nothing


def batch_bucket(batch: int) -> int:
    """The power of two at or above `batch`."""
    return 1 << max(0, batch - 1).bit_length()


def rows_bucket(rows: int) -> int:
    """Exact to 16, then multiples of 2, 4, 8 and 16 as rows double: at most 6 % wide."""
    for limit, width in ((16, 1), (32, 2), (64, 4), (128, 8)):
        if rows <= limit:
            return -(-rows // width) * width
    return -(-rows // 16) * 16


def context_bucket(context: float) -> int:
    """The power of two at or above `context`, at least 128."""
    return max(SMALLEST_CONTEXT, 1 << max(0, math.ceil(context) - 1).bit_length())


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKey:
    """One bucket, each a bucket's upper bound."""

    batch: int
    rows: int
    context: int

    @classmethod
    def of(cls, *, batch: int, rows: int, context: float) -> CellKey:
        return cls(batch=batch_bucket(batch), rows=rows_bucket(rows), context=context_bucket(context))


class StepTimes:
    """Seconds per step of one source (the profile, or the steps measured so far)."""

    def __init__(self, cells: Iterable[StepCell]) -> None:
        curves: dict[tuple[int, int], dict[int, float]] = {}
        for cell in cells:
            if cell.steps:
                curves.setdefault((cell.batch, cell.context), {})[cell.rows] = cell.seconds / cell.steps
        self._curves: Mapping[tuple[int, int], dict[int, float]] = curves
        self._read: dict[tuple[int, int], list[float | None]] = {}  # of a curve: seconds by whole rows, as far as asked

    def seconds(self, *, batch: int, rows: float, context: float) -> float | None:
        """Seconds of one step, or None where this batch bucket was never measured around `rows`."""
        nearest = self._nearest(batch, context)
        return None if nearest is None else _interpolate(self._curves[nearest], rows, bucket=nearest[0])

    def by_rows(self, *, batch: int, rows: int, most: int, context: float) -> Sequence[float | None]:
        """`seconds` with `rows`, `rows` + 1, … `rows` + `most` rows; each is read once, since every step asks."""
        nearest = self._nearest(batch, context)
        if nearest is None:
            return [None] * (most + 1)
        read = self._read.setdefault(nearest, [])
        for n in range(len(read), rows + most + 1):
            read.append(_interpolate(self._curves[nearest], n, bucket=nearest[0]))
        return read[rows : rows + most + 1]

    def _nearest(self, batch: int, context: float) -> tuple[int, int] | None:
        bucket, wanted = batch_bucket(batch), context_bucket(context)
        known = [key for key in self._curves if key[0] == bucket]
        return min(known, key=lambda key: abs(key[1] - wanted), default=None)

    def slowdown(self, *, batch: int, rows: float, context: float) -> float | None:
        """How much longer a step of `rows` rows takes than the same batch without drafts (rows = batch)."""
        plain = self.seconds(batch=batch, rows=batch, context=context)
        drafted = self.seconds(batch=batch, rows=rows, context=context)
        if plain is None or drafted is None:
            return None
        return drafted / plain


def measured_times(cells: Iterable[StepCell]) -> StepTimes:
    """The times of live cells, those with too few steps left out."""
    return StepTimes(cell for cell in cells if cell.steps >= LEAST_STEPS)


def curve_of(times: StepTimes, batch: int, rows: int, most: int, context: float) -> tuple[float, ...]:
    """Seconds with `rows`, `rows` + 1, … `rows` + `most` rows; () where one end was never measured."""
    curve = times.by_rows(batch=batch, rows=rows, most=most, context=context)
    return tuple(seconds for seconds in curve if seconds is not None) if None not in curve else ()


def _interpolate(curve: Mapping[int, float], rows: float, *, bucket: int) -> float | None:
    """`bucket`: of the batch. Its step without drafts stands for those of its smaller batches too."""
    known = sorted(curve)
    index = bisect_left(known, rows)
    if index == len(known):
        return None  # else rows that nobody has tried yet would look free
    if index == 0:
        return curve[known[0]] if known[0] <= bucket or rows >= known[0] * 0.75 else None
    low, high = known[index - 1], known[index]
    share = (rows - low) / (high - low)
    return curve[low] * (1 - share) + curve[high] * share
