"""Medians, quartiles, and the interval of a ratio of medians. Pure; deterministic for the same samples.

A round runs every participant once, one after another: what disturbs the machine for a while disturbs them alike. So
samples are compared round by round: the bootstrap draws rounds, not samples.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 4000
SEED = 20261126
COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles of one participant's samples."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of medians and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    if len(samples) == 1:
        return Spread(median=samples[0], low=samples[0], high=samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Of samples paired by round. Raises ValueError when their numbers differ or there are none."""
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"{len(numerators)} numerators and {len(denominators)} denominators are no pairs")
    pairs = list(zip(numerators, denominators, strict=True))
    draw = random.Random(SEED)
    resampled = sorted(_ratio_of_medians(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    outside = round(RESAMPLES * (1 - COVERAGE) / 2)
    return Ratio(value=_ratio_of_medians(pairs), low=resampled[outside], high=resampled[-1 - outside])


def _ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(one for one, _ in pairs) / statistics.median(other for _, other in pairs)
