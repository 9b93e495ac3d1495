"""What a drafter of which little was seen may have: a cap of its own to be measured at, and nothing of anyone else's.

A new revision is believed by its evaluation, or by its type, until live drafts speak. Against figures that were
measured such a belief would take caps away from drafters that are known to work. So caps are chosen first among those
of which something is known, the newcomer's beside them; and a move that lowers anybody has to be as much clearer as
the drafts are few that it rests on. Refuses to know when a table is decided and why it has to change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bowsprit_policy.acceptance import PRIOR_DRAFTS, AcceptanceEstimate, Estimate
from bowsprit_policy.composition import Caps, Score, score
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.switching import MIN_GAIN, Pool, enumerated

# From so many drafts on, what was expected moves a figure by less than its standard error: it weighs PRIOR_DRAFTS.
MEASURED_DRAFTS = 100.0


def is_new(estimate: AcceptanceEstimate) -> bool:
    """Whether its figures rest more on what is expected of it than on what was seen."""
    return estimate.drafts < PRIOR_DRAFTS


def is_measured(drafts: float) -> bool:
    """Whether figures that rest on so many drafts speak for themselves."""
    return drafts >= MEASURED_DRAFTS


def best_beside(pool: Pool, options: Sequence[Sequence[int]], *, batch: int, times: StepTimes) -> Score:
    """The best caps among `options` (per member) when newcomers take from nobody.

    Those of which something is known are chosen as though there were no newcomers, then the newcomers beside them. One
    that is expected to pay alone gets the cap that it would have alone, where that is expected to lose no more beside
    the others than what is too little to move for: at less it is measured at its first positions only, at 0 by probes
    alone, which takes hours. (Caps are bounds: the engine drafts fewer tokens where fewer pay.)
    """
    new = [is_new(estimate) for estimate in pool.estimates]
    known = [(0,) if is_newcomer else of_one for is_newcomer, of_one in zip(new, options, strict=True)]
    seen = enumerated(pool, known, batch=batch, times=times)[0].caps
    beside = [of_one if is_newcomer else (cap,) for is_newcomer, of_one, cap in zip(new, options, seen, strict=True)]
    best = enumerated(pool, beside, batch=batch, times=times)[0]
    for index in (index for index, is_newcomer in enumerate(new) if is_newcomer):
        alone = _cap_alone(pool, index, options[index], batch=batch, times=times)
        if alone > best.caps[index]:
            measurable = _priced(pool, _with(best.caps, index, alone), batch=batch, times=times)
            if measurable.goodput(batch) >= (1.0 - MIN_GAIN) * best.goodput(batch):
                best = measurable
    return best


def doubted(pool: Pool, *, before: Caps, after: Caps) -> Pool:
    """The pool by which a move is judged: whoever has few drafts is doubted where the move lowers anybody."""
    lowers_nobody = all(new >= old for old, new in zip(before, after, strict=True))
    if lowers_nobody or all(is_measured(estimate.drafts) for estimate in pool.estimates):
        return pool
    return replace(pool, estimates=tuple(map(_doubted, pool.estimates)))


def _doubted(estimate: AcceptanceEstimate) -> AcceptanceEstimate:
    factor = math.sqrt(max(1.0, MEASURED_DRAFTS / max(1.0, estimate.drafts)))
    return replace(
        estimate,
        share=Estimate(value=estimate.share.value, error=factor * estimate.share.error),
        positions=tuple(
            Estimate(value=position.value, error=factor * position.error) for position in estimate.positions
        ),
    )


def _cap_alone(pool: Pool, index: int, options: Sequence[int], *, batch: int, times: StepTimes) -> int:
    """0 where plain decoding is as good, or so nearly that it isn't worth a move."""
    nobody = (0,) * len(pool.members)
    plain = _priced(pool, nobody, batch=batch, times=times).goodput(batch)
    alone = [
        (_priced(pool, _with(nobody, index, cap), batch=batch, times=times).goodput(batch), cap) for cap in options
    ]
    goodput, cap = max(alone, key=lambda priced: priced[0])
    return cap if goodput > (1.0 + MIN_GAIN) * plain else 0


def _priced(pool: Pool, caps: Caps, *, batch: int, times: StepTimes) -> Score:
    return score(pool.members, caps, batch=batch, times=times)


def _with(caps: Caps, index: int, cap: int) -> Caps:
    return (*caps[:index], cap, *caps[index + 1 :])
