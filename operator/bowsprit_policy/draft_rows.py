"""How many tokens a whole step drafts, from what one sequence drafts: sequences taken as independent.

The step-time curve has steps, so a mean won't do: the sum is spread over whole numbers of rows. Refuses to know what a
row costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Up to here the sum is exact; beyond it is nearly normal, and exactness would cost more than it tells.
MAX_EXACT_TOKENS = 40
_DEVIATIONS = tuple(z / 2 for z in range(-6, 7))
_DENSITIES = tuple(math.exp(-z * z / 2) for z in _DEVIATIONS)
_NORMAL = tuple((z, density / sum(_DENSITIES)) for z, density in zip(_DEVIATIONS, _DENSITIES, strict=True))
_NEGLIGIBLE = 1e-6


def spread(lengths: Sequence[float], *, batch: int) -> list[tuple[int, float]]:
    """(draft tokens of the step, probability), from `lengths[n]`: P(one sequence drafts n tokens)."""
    most = batch * (len(lengths) - 1)
    if batch == 1 or most <= MAX_EXACT_TOKENS:
        total = _sum_of(lengths, batch)
        return [(n, share) for n, share in enumerate(total) if share > _NEGLIGIBLE]
    mean = sum(n * share for n, share in enumerate(lengths))
    variance = sum(n * n * share for n, share in enumerate(lengths)) - mean * mean
    deviation = math.sqrt(max(0.0, batch * variance))
    shares: dict[int, float] = {}
    for z, share in _NORMAL:
        n = min(most, max(0, round(batch * mean + z * deviation)))
        shares[n] = shares.get(n, 0.0) + share
    return list(shares.items())


def _sum_of(lengths: Sequence[float], batch: int) -> list[float]:
    """Of `batch` independent sequences, by repeated squaring."""
    total, power = [1.0], list(lengths)
    while batch:
        if batch & 1:
            total = _convolved(total, power)
        batch >>= 1
        if batch:
            power = _convolved(power, power)
    return total


def _convolved(a: Sequence[float], b: Sequence[float]) -> list[float]:
    out = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        if x > 0.0:
            for j, y in enumerate(b):
                out[i + j] += x * y
    return out
