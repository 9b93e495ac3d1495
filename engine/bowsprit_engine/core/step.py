"""One step of the engine: schedule, draft, build rows, forward, draw, commit, count, stream.

The order is the whole decision here; each part decides its own matter elsewhere. Runs in one thread; knows no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bowsprit_engine.core import batch
from bowsprit_engine.core.commit import Committer
from bowsprit_engine.core.contention import timed_forward
from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.open_sequences import OpenSequences
from bowsprit_engine.core.request import FinishedRequest
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.sampling import Sampler
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.step_account import StepAccount
from bowsprit_engine.core.step_drafts import StepDrafter
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool


class Stepper:
    """The step that advances the sequences that are open. Every method runs in the engine's thread."""

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
        self.sequences = OpenSequences(scheduler=scheduler, pool=pool, counters=counters, on_finished=on_finished)
        self._runner = runner
        self._scheduler = scheduler
        self._drafter = StepDrafter(scheduler=scheduler, pool=pool, policy=policy, max_model_len=max_model_len)
        self._sampler = sampler
        self._committer = Committer(sampler=sampler, max_model_len=max_model_len)
        self._account = StepAccount(scheduler=scheduler, pool=pool, policy=policy, counters=counters)
        self._device = runner.final_norm_weight().device

    def step(self) -> None:
        """Advance every running sequence by at least one token, and prompts by a chunk."""
        begin = time.perf_counter()
        plan = self._scheduler.schedule()
        self._account.plan(plan)
        if plan.is_empty:
            return
        drafts = self._drafter.draft(plan)
        rows = batch.build(plan, drafts.token_ids, self._device)
        forward = timed_forward(self._runner, rows.batch)
        drawn = self._sampler.draw(forward.output.logits, rows.draws)
        committed = self._committer.commit_all(plan, rows=rows, output=forward.output, drawn=drawn)
        self._account.count(plan, drafts, committed)
        self._account.learn(plan, committed)
        for entry in committed:
            self.sequences.stream(entry)
        seconds = time.perf_counter() - begin
        self._account.time(plan, committed, num_rows=rows.num_rows, seconds=seconds, is_contended=forward.is_contended)
