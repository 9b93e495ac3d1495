"""Does the trained drafter still fit the traffic? Its acceptance length now against what it used to be.

Acceptance length here is that of a proposal at a fixed reference length, from per-position figures: a change of K, of
the pool or of the share of proposals is not drift. A drop is two windows apart (half-lives 2k and 20k drafts); a slide
too slow for both is caught by a one-sided CUSUM against the revision's first figures. Refuses to know what
training costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from bowsprit_policy.acceptance import AcceptanceState, accepted_per_draft, estimate, update
from bowsprit_policy.counters import DrafterDelta

SHORT_HALF_LIFE_DRAFTS = 2_000.0
LONG_HALF_LIFE_DRAFTS = 20_000.0
# Drafts from which the reference of the CUSUM is formed, and before which nothing is called drift.
MIN_DRAFTS = 2_000
REFERENCE_POSITIONS = 4
# A position counts towards the reference length only with so many weighted drafts in the short window.
MIN_REACHED = 100.0
MIN_STANDARD_ERRORS = 3.0
# The CUSUM alarms when as much is missing as a full drop of the trigger's size would cost over so many drafts.
CUSUM_DRAFTS = 2_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """Of one drafter in one revision. `reference`: match per position over its first MIN_DRAFTS drafts.

    `slide`: the CUSUM, accepted tokens that are missing against the reference beyond half the trigger.
    """

    short: AcceptanceState
    long: AcceptanceState
    reference_drafts: int = 0
    reference_reached: tuple[int, ...] = ()
    reference_matched: tuple[int, ...] = ()
    slide: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The figures. `short` and `long`: acceptance lengths (bonus included) at `positions` draft tokens."""

    short: float
    long: float
    error: float
    reference: float
    positions: int
    slide: float
    slide_limit: float
    drafts: int

    def has_dropped(self, acceptance_drop: float) -> bool:
        """short < long - max(trigger, 3 standard errors); the trigger is a share of the long figure."""
        least = max(acceptance_drop * self.long, MIN_STANDARD_ERRORS * self.error)
        return self.drafts >= MIN_DRAFTS and self.short < self.long - least

    def is_sliding(self) -> bool:
        """Has it lost, slowly, what a drop would have lost at once?"""
        return self.slide > self.slide_limit


def update_drift(state: DriftState | None, delta: DrafterDelta, *, acceptance_drop: float) -> DriftState:
    """Take in what the drafter did. Another revision begins again."""
    delta = _as_drafted(delta)
    if state is not None and state.short.revision != delta.revision:
        state = None
    short = update(state.short if state else None, delta, half_life=SHORT_HALF_LIFE_DRAFTS)
    long = update(state.long if state else None, delta, half_life=LONG_HALF_LIFE_DRAFTS)
    if state is None or state.reference_drafts < MIN_DRAFTS:
        return DriftState(
            short=short,
            long=long,
            reference_drafts=(state.reference_drafts if state else 0) + delta.proposed,
            reference_reached=_added(state.reference_reached if state else (), delta.reached),
            reference_matched=_added(state.reference_matched if state else (), delta.matched),
        )
    return DriftState(
        short=short,
        long=long,
        reference_drafts=state.reference_drafts,
        reference_reached=state.reference_reached,
        reference_matched=state.reference_matched,
        slide=_slide(state, delta, acceptance_drop),
    )


def measure(state: DriftState, *, acceptance_drop: float) -> Drift:
    """The figures to judge by."""
    positions = _reference_length(state)
    short, error = _length(state.short, positions)
    long, _ = _length(state.long, positions)
    reference = _plain_length(state.reference_matched, state.reference_reached, positions)
    return Drift(
        short=short,
        long=long,
        error=error,
        reference=reference,
        positions=positions,
        slide=state.slide,
        slide_limit=acceptance_drop * reference * CUSUM_DRAFTS,
        drafts=state.short.drafts,
    )


def _as_drafted(delta: DrafterDelta) -> DrafterDelta:
    """Of the positions reached, those that were drafted, as a share of all drafts: what a window cut is no drift."""
    reached = list(delta.reached)
    for i, (extendable, drafted) in enumerate(zip(delta.extendable, delta.drafted, strict=False)):
        if i < len(reached) and i < len(delta.matched) and extendable > 0:
            reached[i] = max(delta.matched[i], round(reached[i] * drafted / extendable))
    return replace(delta, reached=tuple(reached), extendable=(), drafted=())


def _slide(state: DriftState, delta: DrafterDelta, acceptance_drop: float) -> float:
    positions = 0
    while positions < min(REFERENCE_POSITIONS, len(delta.reached)) and delta.reached[positions] > 0:
        positions += 1
    if positions == 0:
        return state.slide
    now = _plain_length(delta.matched, delta.reached, positions)
    reference = _plain_length(state.reference_matched, state.reference_reached, positions)
    allowance = 0.5 * acceptance_drop * reference
    return max(0.0, state.slide + (reference - now - allowance) * delta.reached[0])


def _reference_length(state: DriftState) -> int:
    drafted = [reached for reached in state.short.reached[:REFERENCE_POSITIONS] if reached >= MIN_REACHED]
    return max(1, len(drafted))


def _length(state: AcceptanceState, positions: int) -> tuple[float, float]:
    """Acceptance length and its standard error, errors of positions taken as independent."""
    figures = estimate(state, max_draft_tokens=positions).positions
    values = [figure.value for figure in figures]
    length = accepted_per_draft(values, positions)
    variance = 0.0
    for i, figure in enumerate(figures):
        moved = [*values[:i], figure.value + figure.error, *values[i + 1 :]]
        variance += (accepted_per_draft(moved, positions) - length) ** 2
    return 1.0 + length, math.sqrt(variance)


def _plain_length(matched: Sequence[int], reached: Sequence[int], positions: int) -> float:
    rates = [min(1.0, hit / tried) if tried else 0.0 for hit, tried in zip(matched, reached, strict=False)]
    return 1.0 + accepted_per_draft(rates, positions)


def _added(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))
