"""Medians, quartiles, and the interval of a ratio of medians or of sums. Pure; deterministic for the same samples.

A round runs every participant once, one after another: what disturbs the machine for a while disturbs them alike. So
samples are compared round by round: the bootstrap draws rounds, not samples.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

RESAMPLES = 4000
SEED = 20261126
COVERAGE = 0.95

Block = TypeVar("Block")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles of one participant's samples."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio and its 95 % bootstrap interval."""

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
    return bootstrapped(list(zip(numerators, denominators, strict=True)), _ratio_of_medians)


def bootstrapped(blocks: Sequence[Block], ratio_of: Callable[[Sequence[Block]], float]) -> Ratio:
    """Of blocks that are as good as independent of each other. Raises ValueError without one."""
    if not blocks:
        raise ValueError("no blocks")
    draw = random.Random(SEED)
    resampled = sorted(ratio_of(draw.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES))
    outside = round(RESAMPLES * (1 - COVERAGE) / 2)
    return Ratio(value=ratio_of(blocks), low=resampled[outside], high=resampled[-1 - outside])


def _ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(one for one, _ in pairs) / statistics.median(other for _, other in pairs)
