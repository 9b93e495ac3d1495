"""One step of the engine: schedule, draft, verify, commit, stream. Runs in one thread; knows no other.

The order is the whole decision here; each part decides its own matter elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from bowsprit_engine.core import batch, grammar
from bowsprit_engine.core.commit import Committed, Committer, finished_request
from bowsprit_engine.core.contention import timed_forward
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.request import FinishedRequest, FinishReason, Request, StepOutput
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.sampling import Sampler
from bowsprit_engine.core.scheduler import Scheduler, StepPlan
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.costs import CellKey
from bowsprit_engine.speculation.drafting import PoolReport, forced_of
from bowsprit_engine.speculation.policy import Outcome, PolicyExecutor, StepCaps
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal, turns
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_engine.speculation.table import narrowed
from bowsprit_engine.speculation.windows import windows

logger = logging.getLogger(__name__)


class Stepper:
    """The sequences of an engine and the step that advances them. Every method runs in the engine's thread."""

    def __init__(
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        pool: DrafterPool,
        policy: PolicyExecutor,
        sampler: Sampler,
        counters: Counters,
        max_model_len: int,
        on_finished: Callable[[FinishedRequest], None] | None,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._policy = policy
        self._sampler = sampler
        self._counters = counters
        self._max_model_len = max_model_len
        self._committer = Committer(sampler=sampler, max_model_len=max_model_len)
        self._on_finished = on_finished
        self._device = runner.final_norm_weight().device
        self._sequences: dict[str, LiveSequence] = {}
        self._num_steps = 0

    @property
    def num_open(self) -> int:
        """Sequences that run or wait."""
        return len(self._sequences)

    def step(self) -> None:
        """Advance every running sequence by at least one token, and prompts by a chunk."""
        begin = time.perf_counter()
        plan = self._scheduler.schedule()
        self._counters.add(preemptions=len(plan.preempted))
        if plan.is_empty:
            return
        caps = self._policy.caps(batch=len(plan.decodes), context=_mean_context(plan.decodes))
        probed = self._probed(plan, caps)
        allowed = self._allowed(plan, caps, probed)
        drafting = self._draft(plan, caps, allowed, probed)
        rows = batch.build(plan, [proposal.token_ids for proposal in drafting.proposals], self._device)
        forward = timed_forward(self._runner, rows.batch)
        drawn = self._sampler.draw(forward.output.logits, rows.draws)
        for chunk in plan.prefills:
            chunk.sequence.num_computed += chunk.num_tokens
        committed = [
            self._committer.commit(group, rows=rows, output=forward.output, drawn=drawn) for group in rows.draws
        ]
        self._count(plan, caps, allowed, drafting, committed)
        self._learn(committed, plan)
        for entry in committed:
            self._stream(entry)
        seconds = time.perf_counter() - begin
        self._time(plan, rows, committed, seconds=seconds, is_contended=forward.is_contended)
        self._pool.shadows.after_step(self._scheduler.running, seconds=seconds)

    def submit(self, request: Request) -> None:
        """Queue a sequence. One that can't begin ends alone, as a second one of the same id does."""
        if request.request_id in self._sequences:
            self._refuse(request, f"request id {request.request_id!r} is in use")
            return
        try:
            sequence = LiveSequence.begin(request)
        except Exception as error:  # its grammar's, say; nobody else's
            logger.exception("request %s can't begin", request.request_id)
            self._refuse(request, f"the request can't begin: {type(error).__name__}: {error}")
            return
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)
        self._counters.add(prompt_tokens=sequence.num_prompt_tokens)

    def cancel(self, request_id: str) -> None:
        """End a sequence and free its blocks now. Unknown or finished ones are ignored: both sides may be first."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self.end(sequence, FinishReason.ABORT)

    def end(self, sequence: LiveSequence, reason: FinishReason, *, error: str | None = None) -> None:
        """End a sequence outside a step's own commits."""
        output = StepOutput(request_id=sequence.request_id, token_ids=(), finish_reason=reason, error=error)
        self._finish(sequence, output)

    def fail_running(self, error: str) -> None:
        """A step raised: its sequences' KV can't be trusted. Those that wait are not affected."""
        for sequence in self._scheduler.running:
            self.end(sequence, FinishReason.ERROR, error=error)

    def abort_all(self) -> None:
        for sequence in tuple(self._sequences.values()):
            self.end(sequence, FinishReason.ABORT)

    def _probed(self, plan: StepPlan, caps: StepCaps) -> int | None:
        """Which decoding sequence is probed in this step, where one is."""
        self._num_steps += 1
        return self._num_steps % len(plan.decodes) if caps.probe is not None else None

    def _allowed(self, plan: StepPlan, caps: StepCaps, probed: int | None) -> list[Mapping[str, int]]:
        """Most draft tokens by drafter, per decoding sequence."""
        allowed: list[Mapping[str, int]] = []
        for index, sequence in enumerate(plan.decodes):
            by_drafter = caps.probe if caps.probe is not None and index == probed else caps.by_drafter
            room = sequence.room_for_drafts(self._max_model_len)
            allowed.append(narrowed(by_drafter, sequence.request.speculation, room=room))
        return allowed

    def _draft(
        self, plan: StepPlan, caps: StepCaps, allowed: Sequence[Mapping[str, int]], probed: int | None
    ) -> PoolReport:
        watch = [caps.watch * sequence.request.speculation.enabled for sequence in plan.decodes]
        forced = forced_of(plan.decodes, allowed)
        bound = _bound(plan, caps, probed)
        report = self._pool.draft(plan.decodes, allowed, watch=watch, forced=forced, bound=bound)
        proposals = self._windowed(plan, report.proposals, bound)
        granted = [
            self._fitting(sequence, proposal) for sequence, proposal in zip(plan.decodes, proposals, strict=True)
        ]
        return dataclasses.replace(report, proposals=tuple(granted))

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
            context=_mean_context(plan.decodes),
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

    def _count(
        self,
        plan: StepPlan,
        caps: StepCaps,
        allowed: Sequence[Mapping[str, int]],
        drafting: PoolReport,
        committed: Sequence[Committed],
    ) -> None:
        self._counters.add_drafting(asked=drafting.asked, proposed=drafting.proposed, seconds=drafting.seconds)
        self._counters.add(
            sequence_steps=len(plan.decodes),
            probe_steps=int(caps.is_probe),
            prefill_steps=int(bool(plan.prefills)),
            generation_tokens=sum(len(entry.verdict.token_ids) for entry in committed),
        )
        outcomes, all_turns = [], []
        for index, (proposal, entry) in enumerate(zip(drafting.proposals, committed, strict=False)):
            num_drafted, verdict = len(proposal.token_ids), entry.verdict
            entry.sequence.record_step(
                drafter=proposal.drafter, num_drafted=num_drafted, num_accepted=verdict.num_accepted
            )
            of_sequence = turns(
                proposal,
                asked=drafting.asked_by_sequence[index],
                caps=allowed[index],
                num_accepted=verdict.num_accepted,
                num_emitted=len(verdict.token_ids),
            )
            all_turns.extend(of_sequence)
            if num_drafted and of_sequence:
                first = of_sequence[0]
                num_accepted = min(first.end, max(first.begin, verdict.num_accepted)) - first.begin
                outcomes.append(
                    Outcome(drafter=first.drafter, num_drafted=first.end - first.begin, num_accepted=num_accepted)
                )
        self._counters.add_turns(all_turns)
        self._policy.observe(outcomes, batch=len(plan.decodes), context=_mean_context(plan.decodes))

    def _learn(self, committed: Sequence[Committed], plan: StepPlan) -> None:
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
            context=_mean_context(plan.decodes),
        )

    def _stream(self, entry: Committed) -> None:
        if entry.output.finish_reason is not None:
            if entry.output.finish_reason is FinishReason.ERROR:
                logger.error("request %s ended: %s", entry.sequence.request_id, entry.output.error)
            self._finish(entry.sequence, entry.output)
            return
        self._scheduler.trim(entry.sequence)
        if not self._tell(entry.sequence.request, entry.output):
            self.end(entry.sequence, FinishReason.ABORT)

    def _finish(self, sequence: LiveSequence, output: StepOutput) -> None:
        reason = output.finish_reason
        if reason is None:
            raise ValueError(f"request {sequence.request_id} ends without a reason")
        if reason is FinishReason.ERROR and output.error_code != grammar.FAILED:
            self._scheduler.distrust(sequence)
        self._scheduler.remove(sequence)
        self._sequences.pop(sequence.request_id, None)
        self._counters.add_watched(self._pool.forget(sequence))
        self._counters.add_finished(reason.value)
        self._counters.add(errors=int(reason is FinishReason.ERROR))
        self._tell(sequence.request, dataclasses.replace(output, metrics=sequence.metrics()))
        if self._on_finished is not None:
            try:
                self._on_finished(finished_request(sequence, reason))
            except Exception:
                logger.exception("on_finished raised for request %s", sequence.request_id)

    def _refuse(self, request: Request, error: str) -> None:
        self._counters.add(errors=1)
        reason = FinishReason.ERROR
        self._tell(request, StepOutput(request_id=request.request_id, token_ids=(), finish_reason=reason, error=error))

    def _tell(self, request: Request, output: StepOutput) -> bool:
        """Whether the client's callback took it. One that raises loses its request, not the engine."""
        try:
            request.on_output(output)
        except Exception:
            logger.exception("on_output raised for request %s", request.request_id)
            return False
        return True

    def _time(
        self,
        plan: StepPlan,
        rows: batch.StepRows,
        committed: Sequence[Committed],
        *,
        seconds: float,
        is_contended: bool,
    ) -> None:
        if not is_contended:
            self._scheduler.note_step(plan, seconds=seconds)
        if plan.prefills or not plan.decodes:
            return
        key = CellKey.of(batch=len(plan.decodes), rows=rows.num_rows, context=_mean_context(plan.decodes))
        tokens = sum(len(entry.verdict.token_ids) for entry in committed)
        if not is_contended:
            self._pool.note_step(seconds)
        self._counters.add_step(key, seconds=seconds, tokens=tokens, is_contended=is_contended)


def _mean_context(decodes: Sequence[LiveSequence]) -> float:
    return sum(len(sequence.token_ids) for sequence in decodes) / len(decodes) if decodes else 0.0


def _bound(plan: StepPlan, caps: StepCaps, probed: int | None) -> frozenset[int]:
    """Which decoding sequences draft up to their caps whether it pays or not: a probe, and who set its own limit.

    In mode Fixed all do.
    """
    return frozenset(
        index
        for index, sequence in enumerate(plan.decodes)
        if index == probed or not caps.has_windows or sequence.request.speculation.max_draft_tokens is not None
    )
