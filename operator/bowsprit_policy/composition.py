"""What a pool of drafters gives and drafts at given caps: each is asked where the ones before it proposed nothing.

First light's pool: n-gram where it matches, else the head. Pure arithmetic over figures; refuses to know where they
come from and which caps are best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bowsprit_policy.acceptance import accepted_per_draft
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.wire import DrafterType

# Who is asked first.
ORDER = (DrafterType.NGRAM, DrafterType.HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A drafter of the pool. `unit_seconds`: per opportunity for n-gram, per drafted token for a head."""

    name: str
    type: DrafterType
    share: float
    positions: tuple[float, ...]
    unit_seconds: float


Caps = tuple[int, ...]  # one per member, in the pool's order


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`acceptance_length`: tokens per sequence-step. `goodput`: tokens per second of a step with a full batch."""

    caps: Caps
    acceptance_length: float
    step_seconds: float
    step_error: float  # relative

    def goodput(self, batch: int) -> float:
        return batch * self.acceptance_length / self.step_seconds


def asked(members: Sequence[Member], caps: Caps) -> list[float]:
    """Share of sequence-steps in which each member is asked. One with a cap of 0 is not asked (but for probes)."""
    left, shares = 1.0, []
    for member, cap in zip(members, caps, strict=True):
        shares.append(left if cap > 0 else 0.0)
        if cap > 0:
            left *= 1.0 - member.share
    return shares


def acceptance_length(members: Sequence[Member], caps: Caps) -> float:
    """E: 1 + each member's share of steps x its share of proposals x its mean accepted tokens."""
    return 1.0 + sum(
        opportunity * member.share * accepted_per_draft(member.positions, cap)
        for member, cap, opportunity in zip(members, caps, asked(members, caps), strict=True)
    )


def score(members: Sequence[Member], caps: Caps, *, batch: int, times: StepTimes) -> Score:
    """Price these caps at `batch` sequences per step."""
    opportunities = asked(members, caps)
    proposals = [opportunity * member.share for opportunity, member in zip(opportunities, members, strict=True)]
    mean = sum(p * cap for p, cap in zip(proposals, caps, strict=True))
    if batch == 1:
        # One sequence: rows take a few values, each priced exactly.
        mix = [(p, 1.0 + cap) for p, cap in zip(proposals, caps, strict=True) if p > 0]
        mix.append((max(0.0, 1.0 - sum(proposals)), 1.0))
    else:
        # Many: mean plus and minus one standard deviation, half each, which is exact for straight stretches and
        # sees a step of the curve that lies within the spread.
        square = sum(p * cap * cap for p, cap in zip(proposals, caps, strict=True))
        spread = math.sqrt(max(0.0, batch * (square - mean * mean)))
        middle = batch * (1.0 + mean)
        most = batch * (1.0 + max(caps, default=0))
        mix = [(0.5, max(float(batch), middle - spread)), (0.5, min(most, middle + spread))]
    estimates = [(weight, times.seconds(batch=batch, rows=round(rows, 3))) for weight, rows in mix if weight > 0]
    drafting = batch * sum(
        (opportunity if member.type is DrafterType.NGRAM else proposal * cap) * member.unit_seconds
        for member, cap, opportunity, proposal in zip(members, caps, opportunities, proposals, strict=True)
    )
    seconds = sum(weight * estimate.value for weight, estimate in estimates)
    return Score(
        caps=caps,
        acceptance_length=acceptance_length(members, caps),
        step_seconds=seconds + drafting,
        step_error=max(estimate.error for _, estimate in estimates),
    )
