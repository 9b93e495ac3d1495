"""What a step that ran says: to the counters, to the policy that judges drafters, to the drafters themselves.

Decides which steps' times are believed: pure decode steps that had their cores to themselves. Refuses to know what
clients are told.
"""

from __future__ import annotations

from collections.abc import Sequence

from bowsprit_engine.core.commit import Committed
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.scheduler import Scheduler, StepPlan
from bowsprit_engine.core.step_drafts import StepDrafts
from bowsprit_engine.speculation.costs import CellKey
from bowsprit_engine.speculation.lowering import Outcome
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Turn, turns
from bowsprit_engine.speculation.scoring import Watched


class StepAccount:
    """Takes each step in, part by part, in the order of its methods."""

    def __init__(self, *, scheduler: Scheduler, pool: DrafterPool, policy: PolicyExecutor, counters: Counters) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._policy = policy
        self._counters = counters

    def plan(self, plan: StepPlan) -> None:
        """A step was planned, an empty one too."""
        self._counters.add(preemptions=len(plan.preempted))

    def count(self, plan: StepPlan, drafts: StepDrafts, committed: Sequence[Committed]) -> None:
        """What was drafted, and what became of it. `committed`: the decoding sequences first, in the plan's order."""
        report = drafts.report
        self._counters.add_drafting(asked=report.asked, proposed=report.proposed, seconds=report.seconds)
        self._counters.add(
            sequence_steps=len(plan.decodes),
            probe_steps=int(drafts.caps.is_probe),
            prefill_steps=int(bool(plan.prefills)),
            generation_tokens=sum(len(entry.verdict.token_ids) for entry in committed),
        )
        outcomes, all_turns = [], []
        for index, (proposal, entry) in enumerate(zip(report.proposals, committed, strict=False)):
            num_drafted, verdict = len(proposal.token_ids), entry.verdict
            entry.sequence.record_step(
                drafter=proposal.drafter, num_drafted=num_drafted, num_accepted=verdict.num_accepted
            )
            of_sequence = turns(
                proposal,
                asked=report.asked_by_sequence[index],
                caps=drafts.allowed[index],
                num_accepted=verdict.num_accepted,
                num_emitted=len(verdict.token_ids),
            )
            all_turns.extend(of_sequence)
            if num_drafted and of_sequence:
                outcomes.append(_outcome(of_sequence[0]))
        self._counters.add_turns(all_turns)
        if not drafts.caps.is_probe:
            self._policy.observe_asking(drafts.allowed, report.asked, batch=len(plan.decodes))
        self._policy.observe(outcomes, batch=len(plan.decodes), context=plan.mean_context)

    def learn(self, plan: StepPlan, committed: Sequence[Committed]) -> None:
        """Drafters and their scores see what was emitted; what was held at 0 and would pay is restored by it."""
        watched: list[Watched] = []
        for entry in committed:
            watched.extend(self._pool.learn(entry.sequence))
        if not watched:
            return
        self._counters.add_watched(watched)
        self._policy.observe_watched(
            [
                Outcome(drafter=entry.drafter, num_drafted=entry.num_drafted, num_accepted=entry.num_matched)
                for entry in watched
                if entry.num_drafted
            ],
            batch=len(plan.decodes),
            context=plan.mean_context,
        )

    def time(
        self, plan: StepPlan, committed: Sequence[Committed], *, num_rows: int, seconds: float, is_contended: bool
    ) -> None:
        """What the whole step took: `seconds` from its plan to the last client that was told."""
        if not is_contended:
            self._scheduler.note_step(plan, seconds=seconds)
        if plan.decodes and not plan.prefills:
            self._pool.note_step(seconds, is_contended=is_contended)
            key = CellKey.of(batch=len(plan.decodes), rows=num_rows, context=plan.mean_context)
            tokens = sum(len(entry.verdict.token_ids) for entry in committed)
            self._counters.add_step(key, seconds=seconds, tokens=tokens, is_contended=is_contended)
        self._pool.shadows.after_step(self._scheduler.running, seconds=seconds)


def _outcome(turn: Turn) -> Outcome:
    return Outcome(drafter=turn.drafter, num_drafted=turn.num_drafted, num_accepted=turn.num_drafted_accepted)
