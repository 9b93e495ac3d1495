"""What speculation measurably gave lately: tokens per second against measured K=0 steps, and acceptance over the fleet.

Nothing here is modelled: without a measured baseline there is no speed-up. The baseline of a batch bucket is its steps
with no more rows than sequences; goodput counts all decode steps, also those in which nobody proposed, since counting
only steps with a draft would flatter. Refuses to decide anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bowsprit_policy.cost import CostState
from bowsprit_policy.counters import CounterDelta

HALF_LIFE_STEPS = 2000.0
MIN_BASELINE_STEPS = 8.0
# A position with less evidence is not shown.
MIN_REACHED = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketGoodput:
    """Weighted sums over all decode steps of one batch and context."""

    batch: int
    context: int
    steps: float
    seconds: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterShare:
    """Weighted accepted tokens of one drafter."""

    name: str
    accepted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputState:
    """The fleet's recent past, weighted by sequence-steps (`buckets`: by steps)."""

    buckets: tuple[BucketGoodput, ...] = ()
    sequence_steps: float = 0.0
    drafted: float = 0.0
    accepted: float = 0.0
    reached: tuple[float, ...] = ()
    matched: tuple[float, ...] = ()
    drafters: tuple[DrafterShare, ...] = ()
    tokens_per_second: float = 0.0
    batch_in_use: int = 1


def update(state: GoodputState, delta: CounterDelta) -> GoodputState:
    """Take in an interval."""
    keep = math.exp2(-delta.sequence_steps / HALF_LIFE_STEPS)
    accepted = {share.name: share.accepted * keep for share in state.drafters}
    reached, matched = [n * keep for n in state.reached], [n * keep for n in state.matched]
    for drafter in delta.drafters:
        accepted[drafter.name] = accepted.get(drafter.name, 0.0) + drafter.accepted_tokens
        reached = [a + b for a, b in zip_longest(reached, drafter.reached, fillvalue=0.0)]
        matched = [a + b for a, b in zip_longest(matched, drafter.matched, fillvalue=0.0)]
    return GoodputState(
        buckets=_buckets(state.buckets, delta),
        sequence_steps=state.sequence_steps * keep + delta.sequence_steps,
        drafted=state.drafted * keep + sum(drafter.drafted_tokens for drafter in delta.drafters),
        accepted=state.accepted * keep + sum(drafter.accepted_tokens for drafter in delta.drafters),
        reached=tuple(reached),
        matched=tuple(matched),
        drafters=tuple(DrafterShare(name=name, accepted=n) for name, n in accepted.items()),
        tokens_per_second=delta.tokens_per_second,
        batch_in_use=_batch_in_use(delta) or state.batch_in_use,
    )


def speedup(state: GoodputState, cost: CostState) -> float | None:
    """Measured goodput over measured K=0 goodput at the same batches and contexts; None without a baseline."""
    plain: dict[tuple[int, int], tuple[float, float, float]] = {}
    for cell in cost.measured:
        if cell.rows <= cell.batch:
            at = (cell.batch, cell.context)
            steps, seconds, tokens = plain.get(at, (0.0, 0.0, 0.0))
            plain[at] = (steps + cell.steps, seconds + cell.seconds, tokens + cell.tokens)
    plain_seconds = seconds_taken = 0.0
    for bucket in state.buckets:
        steps, seconds, tokens = plain.get((bucket.batch, bucket.context), (0.0, 0.0, 0.0))
        if steps >= MIN_BASELINE_STEPS and tokens > 0 and bucket.seconds > 0:
            plain_seconds += bucket.tokens * seconds / tokens
            seconds_taken += bucket.seconds
    return plain_seconds / seconds_taken if seconds_taken > 0 else None


def acceptance_length(state: GoodputState) -> float | None:
    """Tokens per sequence-step, steps without a proposal included."""
    return 1.0 + state.accepted / state.sequence_steps if state.sequence_steps >= 1 else None


def acceptance_rate(state: GoodputState) -> float | None:
    """Accepted share of drafted tokens."""
    return state.accepted / state.drafted if state.drafted >= 1 else None


def per_position(state: GoodputState) -> tuple[float, ...]:
    """Matched over reached, over all drafters, up to the last position with evidence."""
    rates = []
    for reached, matched in zip(state.reached, state.matched, strict=False):
        if reached < MIN_REACHED:
            break
        rates.append(min(1.0, matched / reached))
    return tuple(rates)


def leading_drafter(state: GoodputState) -> str | None:
    """The one that gave most accepted tokens."""
    giving = [share for share in state.drafters if share.accepted > 0]
    return max(giving, key=lambda share: share.accepted).name if giving else None


def _buckets(buckets: Sequence[BucketGoodput], delta: CounterDelta) -> tuple[BucketGoodput, ...]:
    keep = math.exp2(-sum(cell.steps for cell in delta.cells) / HALF_LIFE_STEPS)
    sums = {(b.batch, b.context): (b.steps * keep, b.seconds * keep, b.tokens * keep) for b in buckets}
    for cell in delta.cells:
        steps, seconds, tokens = sums.get((cell.batch, cell.context), (0.0, 0.0, 0.0))
        sums[cell.batch, cell.context] = (steps + cell.steps, seconds + cell.seconds, tokens + cell.tokens)
    return tuple(
        BucketGoodput(batch=batch, context=context, steps=steps, seconds=seconds, tokens=tokens)
        for (batch, context), (steps, seconds, tokens) in sorted(sums.items())
        if steps >= 0.01
    )


def _batch_in_use(delta: CounterDelta) -> int | None:
    steps: dict[int, int] = {}
    for cell in delta.cells:
        steps[cell.batch] = steps.get(cell.batch, 0) + cell.steps + cell.contended
    busiest = max(steps, key=lambda batch: steps[batch], default=None)
    return busiest if busiest is not None and steps[busiest] > 0 else None
