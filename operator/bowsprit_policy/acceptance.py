"""How likely a drafter's tokens are to be drafted and to match, per position, with standard errors.

Nothing is assumed about tokens being alike: each position has its own figure. Memory is counted in drafts, never in
seconds, so that an idle hour forgets nothing. Refuses to know what a step costs, and how an engine cuts a draft: that
it does is in the figures, so that what was cut counts as not matched and never as a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
# What pods did before a leader began counts as so many drafts: better than a stated prior, and soon outweighed.
HISTORY_DRAFTS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of a drafter before any traffic: share of opportunities with a proposal, match per position."""

    share: float
    match: float


# Stated, not measured here: n-gram look-up and a freshly trained head on a small chat model's own answers;
# a draft model of the target's family.
PRIORS = {
    DrafterType.SUFFIX: Prior(share=0.5, match=0.6),
    DrafterType.NGRAM: Prior(share=0.3, match=0.6),
    DrafterType.HEAD: Prior(share=1.0, match=0.35),
    DrafterType.MODEL: Prior(share=1.0, match=0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceState:
    """Exponentially weighted sums of one drafter in one revision. `drafts` is the plain count since it began.

    `turns`: of `opportunities`, those in which it was its turn to begin the draft. `extendable` and `drafted` are ()
    where engines of the previous version count (counters.DrafterDelta).
    """

    name: str
    type: DrafterType
    revision: str | None
    drafts: int = 0
    opportunities: float = 0.0
    proposed: float = 0.0
    reached: tuple[float, ...] = ()
    matched: tuple[float, ...] = ()
    turns: float = 0.0
    extendable: tuple[float, ...] = ()
    drafted: tuple[float, ...] = ()

    @property
    def has_lengths(self) -> bool:
        return bool(self.extendable)

    @property
    def num_scored(self) -> float:
        """Drafts that say something, weighted: those that were made, and turns that were judged by the text."""
        return max(self.proposed, self.reached[0] if self.reached else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceEstimate:
    """`share`: of opportunities in which it begins the draft.

    `positions[i]`: P(i is drafted and matches | all before i did); for i = 0, given that it begins the draft.
    `lengths[i]`: P(i is drafted | all before i are); for i = 0, given the same, so 1. `drafts`: how many of this
    revision the figures rest on, weighted as they are; 0 where they are expectation alone.
    """

    name: str
    share: Estimate
    positions: tuple[Estimate, ...]
    lengths: tuple[float, ...]
    drafts: float


def update(
    state: AcceptanceState | None, delta: DrafterDelta, *, half_life: float = HALF_LIFE_DRAFTS
) -> AcceptanceState:
    """Take in what a drafter did. Another revision begins again, and so do engines that count in another way."""
    if state is None or state.revision != delta.revision or (state.has_lengths != delta.has_lengths and _says(delta)):
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
        reached=_faded_sum(state.reached, delta.reached, delta, delta.reached, half_life),
        matched=_faded_sum(state.matched, delta.matched, delta, delta.reached, half_life),
        turns=state.turns * asked_keep + min(delta.reached[0] if delta.reached else 0, delta.opportunities),
        extendable=_faded_sum(state.extendable, delta.extendable, delta, delta.extendable, half_life),
        drafted=_faded_sum(state.drafted, delta.drafted, delta, delta.extendable, half_life),
    )


def update_all(states: Sequence[AcceptanceState], deltas: Sequence[DrafterDelta]) -> tuple[AcceptanceState, ...]:
    """Take in the fleet's drafters. While some pods run another revision, the known one is followed to its end.

    While some pods are of the previous version, those that say how long drafts are speak for all.
    """
    known = {state.name: state for state in states}
    for name in dict.fromkeys(delta.name for delta in deltas):
        of_name = [delta for delta in deltas if delta.name == name]
        followed = known[name].revision if name in known else None
        found = [delta for delta in of_name if delta.revision == followed] or of_name[-1:]
        chosen = max(found, key=lambda delta: delta.has_lengths)
        known[name] = update(known.get(name), chosen)
    return tuple(known.values())


def recalled(history: Sequence[DrafterDelta]) -> tuple[AcceptanceState, ...]:
    """Where a new leader begins: the long-run figures of drafters, weighing HISTORY_DRAFTS at most."""
    states = []
    for state in update_all((), history):
        keep = min(1.0, HISTORY_DRAFTS / max(1.0, state.opportunities, state.num_scored))
        states.append(
            replace(
                state,
                drafts=0,
                opportunities=state.opportunities * keep,
                proposed=state.proposed * keep,
                turns=state.turns * keep,
                reached=tuple(n * keep for n in state.reached),
                matched=tuple(n * keep for n in state.matched),
                extendable=tuple(n * keep for n in state.extendable),
                drafted=tuple(n * keep for n in state.drafted),
            )
        )
    return tuple(states)


def estimate(state: AcceptanceState, *, max_draft_tokens: int, evaluated: Sequence[float] = ()) -> AcceptanceEstimate:
    """Figures for positions 0..max-1, whether they were ever drafted or not.

    A position's figure leans on the geometric mean of its nearest drafted neighbours with the weight of
    PRIOR_DRAFTS; as its own evidence fades it becomes that mean. Without any neighbour it leans on what was `evaluated`
    of the revision before it served, else on the type's prior.
    """
    prior = PRIORS[state.type]
    believed = [*evaluated[:max_draft_tokens]] or [prior.match]
    believed += [believed[-1]] * (max_draft_tokens - len(believed))
    share, begins = _share(state, prior)
    evidence = [
        (min(matched, reached), reached)
        for reached, matched in zip_longest(state.reached, state.matched, fillvalue=0.0)
    ]
    if evidence:
        matched, reached = evidence[0]
        evidence[0] = (matched, max(matched, reached * begins))  # of the turns, those in which it began the draft
    alone = {
        i: _lean(matched, reached, prior.match)
        for i, (matched, reached) in enumerate(evidence)
        if reached >= PRIOR_DRAFTS
    }
    positions = []
    for i in range(max_draft_tokens):
        matched, reached = evidence[i] if i < len(evidence) else (0.0, 0.0)
        value = _lean(matched, reached, _neighbours_mean(alone, i, believed[i]))
        positions.append(Estimate(value=value, error=_error(value, reached)))
    return AcceptanceEstimate(
        name=state.name,
        share=Estimate(value=share, error=_error(share, state.opportunities)),
        positions=tuple(positions),
        lengths=_lengths(state, [position.value for position in positions]),
        drafts=state.num_scored,
    )


def accepted_per_draft(positions: Sequence[float], k: int) -> float:
    """Mean accepted tokens of a proposal of k tokens: the sum of prefix products. Grows with k."""
    accepted, prefix = 0.0, 1.0
    for match in positions[:k]:
        prefix *= match
        accepted += prefix
    return accepted


def _says(delta: DrafterDelta) -> bool:
    return any(delta.reached) or any(delta.extendable)


def _share(state: AcceptanceState, prior: Prior) -> tuple[float, float]:
    """Of opportunities, those in which it begins the draft; and of its turns to begin one."""
    proposes = _lean(state.proposed, state.opportunities, prior.share)
    if not state.has_lengths:
        return proposes, 1.0  # positions were counted as reached only where something was drafted
    begins = _lean(state.drafted[0], state.extendable[0], proposes)
    if state.reached and state.reached[0] > 0:
        begins = max(begins, min(1.0, state.matched[0] / state.reached[0]))  # scored at K=0: nothing was drafted
    return _lean(state.turns, state.opportunities, 1.0) * begins, begins


def _lengths(state: AcceptanceState, positions: Sequence[float]) -> tuple[float, ...]:
    """From drafted over extendable, leaning on the position before; never less than what is accepted.

    So beyond what was ever in reach drafts end as often at each position as at the last that was, and full ones are
    assumed where nothing was ever cut, as of engines of the previous version.
    """
    lengths = []
    last, survives, accepted = 1.0, 1.0, 1.0
    for i, match in enumerate(positions):
        extendable, drafted = (of[i] if i < len(of) else 0.0 for of in (state.extendable, state.drafted))
        accepted *= match
        if i > 0:
            last = _lean(drafted, extendable, last)
        longer = max(survives * last if i > 0 else 1.0, accepted)
        lengths.append(longer / survives if survives > 0 else 1.0)
        survives = longer
    return tuple(lengths)


def _faded_sum(
    old: Sequence[float], new: Sequence[int], delta: DrafterDelta, evidence: Sequence[int], half_life: float
) -> tuple[float, ...]:
    usual_length = delta.drafted_tokens / delta.proposed if delta.proposed else 0.0
    sums = []
    for position, (weighted, count, own) in enumerate(zip_longest(old, new, evidence, fillvalue=0)):
        is_usual = position + 0.5 < usual_length
        drafts = delta.proposed if is_usual else max(own, FADE_BEYOND_DRAFTS * delta.proposed)
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
