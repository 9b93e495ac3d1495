"""Is another choice of caps better enough? Its gain in goodput over the one in force, with its standard error.

Both choices rest on the same estimates, so errors that they share cancel: each figure is moved by its own standard
error and both are scored again. Refuses to know what happens with the answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bowsprit_policy.acceptance import AcceptanceEstimate, Estimate
from bowsprit_policy.composition import Caps, Member, Score, score
from bowsprit_policy.step_times import StepTimes

MIN_GAIN = 0.02
MIN_STANDARD_ERRORS = 2.0
# From so many drafts on, what a leader has seen counts for what it is.
MIN_DRAFTS = 500
# Up to here every combination of caps is priced; a larger pool is swept one drafter at a time, each over all its caps.
MAX_COMBINATIONS = 512
NUM_STARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The drafters to choose caps for, with the errors of their figures. `members` and `estimates` are parallel."""

    members: tuple[Member, ...]
    estimates: tuple[AcceptanceEstimate, ...]


def enumerated(pool: Pool, choices: Sequence[Sequence[int]], *, batch: int, times: StepTimes) -> list[Score]:
    """Every choice, best goodput first; of equals, the one that drafts least first."""
    if math.prod(len(options) for options in choices) <= MAX_COMBINATIONS:
        combinations = set(itertools.product(*choices))
    else:
        combinations = _swept(pool, choices, batch=batch, times=times)
    scores = [score(pool.members, caps, batch=batch, times=times) for caps in combinations]
    return sorted(scores, key=lambda s: (-round(s.goodput(batch), 9), sum(s.caps), s.caps))


def gain(pool: Pool, *, current: Score, other: Score, batch: int, times: StepTimes) -> Estimate:
    """other / current - 1 in goodput, with its standard error."""
    ratio = other.goodput(batch) / current.goodput(batch)
    variance = 0.0
    for moved in _each_moved(pool):
        moved_ratio = score(moved, other.caps, batch=batch, times=times).goodput(batch) / score(
            moved, current.caps, batch=batch, times=times
        ).goodput(batch)
        variance += (moved_ratio - ratio) ** 2
    if other.caps != current.caps:
        variance += ratio**2 * (other.step_error**2 + current.step_error**2)
    return Estimate(value=ratio - 1.0, error=math.sqrt(variance))


def is_real(of: Estimate) -> bool:
    """Is a gain large enough to act on, and larger than what noise makes?"""
    return of.value > MIN_GAIN and of.value > MIN_STANDARD_ERRORS * of.error


def standard_errors_needed(drafts: int) -> float:
    """What a gain must exceed after so many drafts since the leader began: more while it has seen few.

    Its predecessor chose the stored table on more evidence; a table that is plainly wrong need not wait for 500 drafts
    on a service that gets one request a minute.
    """
    return MIN_STANDARD_ERRORS * math.sqrt(max(1.0, MIN_DRAFTS / max(1, drafts)))


def _each_moved(pool: Pool) -> list[tuple[Member, ...]]:
    """The pool once per figure, with that figure one standard error away (inwards at the border)."""
    pools = []
    for i, (member, estimate) in enumerate(zip(pool.members, pool.estimates, strict=True)):
        variants = [replace(member, share=_moved(estimate.share))]
        for position, match in enumerate(estimate.positions):
            positions = (*member.positions[:position], _moved(match), *member.positions[position + 1 :])
            variants.append(replace(member, positions=positions))
        pools += [(*pool.members[:i], variant, *pool.members[i + 1 :]) for variant in variants]
    return pools


def _moved(estimate: Estimate) -> float:
    up = estimate.value + estimate.error
    return up if up <= 1.0 else max(0.0, estimate.value - estimate.error)


def _swept(pool: Pool, choices: Sequence[Sequence[int]], *, batch: int, times: StepTimes) -> set[Caps]:
    """All that was priced in sweeps over one drafter at a time, from several equal caps, until nothing moves."""
    priced: set[Caps] = set()
    longest = max(len(options) for options in choices)
    for step in range(NUM_STARTS):
        at = step * (longest - 1) // (NUM_STARTS - 1)
        best = tuple(options[min(at, len(options) - 1)] for options in choices)
        for _ in range(4):
            before = best
            for i, options in enumerate(choices):
                row = [(*best[:i], k, *best[i + 1 :]) for k in options]
                priced.update(row)
                best = max(row, key=lambda caps: score(pool.members, caps, batch=batch, times=times).goodput(batch))
            if best == before:
                break
    return priced
