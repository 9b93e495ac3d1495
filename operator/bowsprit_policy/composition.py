"""What a pool of drafters gives and drafts at given caps: each begins a draft where the ones before it began none.

An approximation: the engine's pool chooses by what each is expected to gain, and lets one continue another's draft.
What it chose is in each drafter's figures, how it would choose at other caps is not. Pure arithmetic over figures;
refuses to know where they come from and which caps are best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bowsprit_policy import draft_rows
from bowsprit_policy.acceptance import accepted_per_draft
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.wire import COUNT_BASED, DrafterType

# Who is asked first.
ORDER = (DrafterType.SUFFIX, DrafterType.NGRAM, DrafterType.HEAD, DrafterType.MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A drafter of the pool, figures as in AcceptanceEstimate.

    `unit_seconds`: per opportunity where drafts are looked up (COUNT_BASED), per drafted token else.
    """

    name: str
    type: DrafterType
    share: float
    positions: tuple[float, ...]
    lengths: tuple[float, ...]
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
    """E: 1 + each member's share of steps x its share of drafts begun x its mean accepted tokens."""
    return 1.0 + sum(
        opportunity * member.share * accepted_per_draft(member.positions, cap)
        for member, cap, opportunity in zip(members, caps, asked(members, caps), strict=True)
    )


def draft_lengths(members: Sequence[Member], caps: Caps) -> list[float]:
    """P(a sequence-step drafts n tokens), for n from 0 to the largest cap."""
    shares = [0.0] * (1 + max(caps, default=0))
    for member, cap, opportunity in zip(members, caps, asked(members, caps), strict=True):
        survives = opportunity * member.share
        for n in range(1, cap):
            longer = survives * member.lengths[n]
            shares[n] += survives - longer
            survives = longer
        if cap > 0:
            shares[cap] += survives
    shares[0] = max(0.0, 1.0 - sum(shares))
    return shares


def score(members: Sequence[Member], caps: Caps, *, batch: int, times: StepTimes) -> Score:
    """Price these caps at `batch` sequences per step."""
    mix = [
        (share, times.seconds(batch=batch, rows=batch + n))
        for n, share in draft_rows.spread(draft_lengths(members, caps), batch=batch)
    ]
    seconds = sum(share * estimate.value for share, estimate in mix)
    drafting = batch * sum(
        _units(member, cap, opportunity) * member.unit_seconds
        for member, cap, opportunity in zip(members, caps, asked(members, caps), strict=True)
    )
    return Score(
        caps=caps,
        acceptance_length=acceptance_length(members, caps),
        step_seconds=seconds + drafting,
        step_error=sum(share * estimate.value * estimate.error for share, estimate in mix) / seconds,
    )


def _units(member: Member, cap: int, opportunity: float) -> float:
    """What one sequence-step is charged for: being asked, or each token that is drafted."""
    if member.type in COUNT_BASED:
        return opportunity
    return opportunity * member.share * accepted_per_draft(member.lengths, cap)
