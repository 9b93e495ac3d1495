"""Which draft tokens a step verifies: as many as the table lets each sequence have, as pay, and as fit.

Decides per sequence what the drafters may propose at most, and how much of what they propose is kept: its window on the
step-time curve, then what its grammar and the free KV blocks allow. Refuses to know how drafters predict
(speculation/pool.py) and how the table comes about (speculation/policy.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bowsprit_engine.core.scheduler import Scheduler, StepPlan
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.contexts import forced_of
from bowsprit_engine.speculation.policy import PolicyExecutor, StepCaps
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import PoolReport, Proposal
from bowsprit_engine.speculation.table import narrowed
from bowsprit_engine.speculation.windows import ROWS_PRICED, row_share, windows


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDrafts:
    """`allowed`: most draft tokens by drafter, per decoding sequence. `report`: its proposals are what is verified."""

    caps: StepCaps
    allowed: Sequence[Mapping[str, int]]
    report: PoolReport

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """Per decoding sequence."""
        return [proposal.token_ids for proposal in self.report.proposals]


class StepDrafter:
    """Drafts for the decoding sequences of one step after another. `max_model_len` bounds drafts as it does answers."""

    def __init__(self, *, scheduler: Scheduler, pool: DrafterPool, policy: PolicyExecutor, max_model_len: int) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._policy = policy
        self._max_model_len = max_model_len
        self._num_steps = 0

    def draft(self, plan: StepPlan) -> StepDrafts:
        """Ask the pool for this step. Reserves the KV slots of what is kept."""
        caps = self._policy.caps(batch=len(plan.decodes), context=plan.mean_context, asking=self._pool.asking)
        probed = self._probed(plan, caps)
        allowed = self._allowed(plan, caps, probed)
        bound = _bound(plan, caps, probed)
        watch = [caps.watch * sequence.request.speculation.enabled for sequence in plan.decodes]
        forced = forced_of(plan.decodes, allowed)
        report = self._pool.draft(
            plan.decodes,
            allowed,
            watch=watch,
            forced=forced,
            bound=bound,
            row_share=self._row_share(plan) if caps.has_windows else 0.0,
        )
        proposals = self._windowed(plan, report.proposals, bound)
        kept = [self._fitting(sequence, proposal) for sequence, proposal in zip(plan.decodes, proposals, strict=True)]
        self._pool.grant(plan.decodes, kept)
        return StepDrafts(caps=caps, allowed=allowed, report=dataclasses.replace(report, proposals=tuple(kept)))

    def _probed(self, plan: StepPlan, caps: StepCaps) -> int | None:
        """Which decoding sequence is probed in this step, where one is."""
        self._num_steps += 1
        return self._num_steps % len(plan.decodes) if caps.probe is not None else None

    def _allowed(self, plan: StepPlan, caps: StepCaps, probed: int | None) -> list[Mapping[str, int]]:
        allowed: list[Mapping[str, int]] = []
        for index, sequence in enumerate(plan.decodes):
            by_drafter = caps.probe if caps.probe is not None and index == probed else caps.by_drafter
            room = sequence.room_for_drafts(self._max_model_len)
            allowed.append(narrowed(by_drafter, sequence.request.speculation, room=room))
        return allowed

    def _row_share(self, plan: StepPlan) -> float:
        batch = len(plan.decodes)
        curve = self._policy.curve(batch=batch, rows=batch, most=ROWS_PRICED * batch, context=plan.mean_context)
        return row_share(curve, batch=batch)

    def _windowed(self, plan: StepPlan, proposals: Sequence[Proposal], bound: frozenset[int]) -> Sequence[Proposal]:
        """As much of each proposal as pays in this step; those that are bound get all of theirs."""
        batch = len(plan.decodes)
        survivals = [() if index in bound else proposal.survivals for index, proposal in enumerate(proposals)]
        granted = [proposals[index] for index in sorted(bound)]
        most = sum(map(len, survivals))
        if most == 0:
            return proposals
        curve = self._policy.curve(
            batch=batch,
            rows=batch + sum(len(proposal.token_ids) for proposal in granted),
            most=most,
            context=plan.mean_context,
        )
        if not curve:
            return proposals
        lengths = windows(survivals, curve, sure_tokens=batch + sum(sum(proposal.survivals) for proposal in granted))
        return [
            proposal if index in bound else proposal.cut(length)
            for index, (proposal, length) in enumerate(zip(proposals, lengths, strict=True))
        ]

    def _fitting(self, sequence: LiveSequence, proposal: Proposal) -> Proposal:
        """As much of a proposal as the sequence's grammar and free KV blocks allow."""
        if not proposal.token_ids:
            return proposal
        num_granted = self._scheduler.reserve_drafts(sequence, sequence.num_possible(proposal.token_ids))
        return proposal.cut(num_granted)


def _bound(plan: StepPlan, caps: StepCaps, probed: int | None) -> frozenset[int]:
    """Which decoding sequences draft up to their caps whether it pays or not: a probe, and who set its own limit.

    In mode Fixed all do.
    """
    return frozenset(
        index
        for index, sequence in enumerate(plan.decodes)
        if index == probed or not caps.has_windows or sequence.request.speculation.max_draft_tokens is not None
    )
