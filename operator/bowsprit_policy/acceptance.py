"""How likely a drafter's tokens are to match, per position, with standard errors.

Nothing is assumed about tokens being alike: each position has its own figure. Windows are counted in drafts, never in
seconds, so that an idle hour forgets nothing. Refuses to know what a step costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bowsprit_policy.counters import DrafterDelta
from bowsprit_policy.wire import DrafterType

HALF_LIFE_DRAFTS = 500.0
# Positions beyond the usual draft are drafted by probes only. They fade by their own evidence, and by this share of all
# drafts: with 1 they would never gather more than a handful of drafts and K could never be raised, with 0 a figure that
# nobody drafts any more would never be doubted.
FADE_BEYOND_DRAFTS = 0.125
# How many drafts' worth of belief a prior has. It is what a position that was never drafted rests on.
PRIOR_DRAFTS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of a drafter before any traffic: share of opportunities with a proposal, match per position."""

    share: float
    match: float


# Stated, not measured here: n-gram look-up and a freshly trained head on a small chat model's own answers.
PRIORS = {
    DrafterType.NGRAM: Prior(share=0.3, match=0.6),
    DrafterType.HEAD: Prior(share=1.0, match=0.35),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceState:
    """Exponentially weighted sums of one drafter in one revision. `drafts` is the plain count since it began."""

    name: str
    type: DrafterType
    revision: str | None
    drafts: int = 0
    opportunities: float = 0.0
    proposed: float = 0.0
    reached: tuple[float, ...] = ()
    matched: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceEstimate:
    """`share`: of opportunities with a proposal. `positions[i]`: P(i matches | drafted, and all before i matched)."""

    name: str
    share: Estimate
    positions: tuple[Estimate, ...]


def update(
    state: AcceptanceState | None, delta: DrafterDelta, *, half_life: float = HALF_LIFE_DRAFTS
) -> AcceptanceState:
    """Take in what a drafter did. Another revision begins again."""
    if state is None or state.revision != delta.revision:
        state = AcceptanceState(name=delta.name, type=delta.type, revision=delta.revision)
    # Within one delta all drafts weigh the same: they happened at once as far as anyone knows.
    asked_keep = math.exp2(-delta.opportunities / half_life)
    return AcceptanceState(
        name=state.name,
        type=state.type,
        revision=state.revision,
        drafts=state.drafts + delta.proposed,
        opportunities=state.opportunities * asked_keep + delta.opportunities,
        proposed=state.proposed * asked_keep + min(delta.proposed, delta.opportunities),
        reached=_faded_sum(state.reached, delta.reached, delta, half_life),
        matched=_faded_sum(state.matched, delta.matched, delta, half_life),
    )


def update_all(states: Sequence[AcceptanceState], deltas: Sequence[DrafterDelta]) -> tuple[AcceptanceState, ...]:
    """Take in the fleet's drafters. While some pods run another revision, the known one is followed to its end."""
    known = {state.name: state for state in states}
    for name in dict.fromkeys(delta.name for delta in deltas):
        of_name = [delta for delta in deltas if delta.name == name]
        followed = known[name].revision if name in known else None
        chosen = next((delta for delta in of_name if delta.revision == followed), of_name[-1])
        known[name] = update(known.get(name), chosen)
    return tuple(known.values())


def estimate(state: AcceptanceState, *, max_draft_tokens: int) -> AcceptanceEstimate:
    """Figures for positions 0..max-1, whether they were ever drafted or not.

    A position's figure leans on the geometric mean of its nearest drafted neighbours with the weight of
    PRIOR_DRAFTS; as its own evidence fades it becomes that mean. Without any neighbour it leans on the type's prior.
    """
    prior = PRIORS[state.type]
    evidence = [
        (min(matched, reached), reached)
        for reached, matched in zip_longest(state.reached, state.matched, fillvalue=0.0)
    ]
    alone = {
        i: _lean(matched, reached, prior.match)
        for i, (matched, reached) in enumerate(evidence)
        if reached >= PRIOR_DRAFTS
    }
    positions = []
    for i in range(max_draft_tokens):
        matched, reached = evidence[i] if i < len(evidence) else (0.0, 0.0)
        value = _lean(matched, reached, _neighbours_mean(alone, i, prior.match))
        positions.append(Estimate(value=value, error=_error(value, reached)))
    share = _lean(state.proposed, state.opportunities, prior.share)
    return AcceptanceEstimate(
        name=state.name,
        share=Estimate(value=share, error=_error(share, state.opportunities)),
        positions=tuple(positions),
    )


def accepted_per_draft(positions: Sequence[float], k: int) -> float:
    """Mean accepted tokens of a proposal of k tokens: the sum of prefix products. Grows with k."""
    accepted, prefix = 0.0, 1.0
    for match in positions[:k]:
        prefix *= match
        accepted += prefix
    return accepted


def _faded_sum(old: Sequence[float], new: Sequence[int], delta: DrafterDelta, half_life: float) -> tuple[float, ...]:
    usual_length = delta.drafted_tokens / delta.proposed if delta.proposed else 0.0
    sums = []
    for position, (weighted, count, reached) in enumerate(zip_longest(old, new, delta.reached, fillvalue=0)):
        is_usual = position + 0.5 < usual_length
        drafts = delta.proposed if is_usual else max(reached, FADE_BEYOND_DRAFTS * delta.proposed)
        sums.append(weighted * math.exp2(-drafts / half_life) + count)
    return tuple(sums)


def _lean(hits: float, trials: float, prior: float) -> float:
    return min(1.0, (hits + PRIOR_DRAFTS * prior) / (trials + PRIOR_DRAFTS))


def _error(value: float, trials: float) -> float:
    n = trials + PRIOR_DRAFTS
    return math.sqrt(max(value * (1.0 - value), 0.25 / n) / n)


def _neighbours_mean(known: dict[int, float], position: int, prior: float) -> float:
    before = [i for i in known if i < position]
    after = [i for i in known if i > position]
    nearest = [known[i] for i in ([max(before)] if before else []) + ([min(after)] if after else [])]
    if not nearest:
        return prior
    return math.exp(sum(math.log(max(value, 1e-6)) for value in nearest) / len(nearest))
