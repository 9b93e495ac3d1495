"""The engine that the server talks to: its parts put together, a thread that runs them, and what may be asked of it.

Decides how it starts and stops, and what it tells of itself. Knows neither HTTP nor tokenizers, nor what a step is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import torch

from bowsprit_engine.core import admission
from bowsprit_engine.core.counters import Counters, Snapshot
from bowsprit_engine.core.inbox import Inbox
from bowsprit_engine.core.loop import EngineLoop
from bowsprit_engine.core.prefill_chunk import chunk_limits
from bowsprit_engine.core.request import FinishedRequest, Request
from bowsprit_engine.core.revisions import Revisions
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.sampling import Draw, Sampler, choose_draw
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.core.step import Stepper
from bowsprit_engine.errors import CallerError, StalePolicyError
from bowsprit_engine.speculation import profile as profiling
from bowsprit_engine.speculation.costs import StepTimes, measured_times
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import (
    DrafterLoad,
    DrafterState,
    DrafterStats,
    EngineStats,
    PolicyStatus,
    PolicyTable,
    Profile,
)

logger = logging.getLogger(__name__)

SWAP_TIMEOUT_SECONDS = 60.0

__all__ = ["Engine", "EngineSettings", "StalePolicyError"]


class Engine:
    """One model, its KV cache and its drafters. Public methods may be called from any thread."""

    def __init__(
        self,
        *,
        runner: Runner,
        settings: EngineSettings,
        drafters: Sequence[Drafter],
        on_finished: Callable[[FinishedRequest], None] | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.settings = settings
        self._runner = runner
        self._drafters = {drafter.name: drafter for drafter in drafters}
        if len(self._drafters) != len(drafters):
            raise CallerError(f"two drafters share a name: {[drafter.name for drafter in drafters]}", param="drafter")
        self._counters = Counters(drafters)
        self._profile = Profile(
            accelerator=runner.accelerator, model_digest=settings.model_digest, dtype=runner.dtype, cells=()
        )
        self._policy = PolicyExecutor(
            mode=settings.speculation_mode,
            drafter_types={drafter.name: drafter.type for drafter in drafters},
            draft_tokens_max=settings.draft_tokens_max,
            is_usable=lambda name: self._drafters[name].state is DrafterState.ACTIVE,
            times=self._step_times,
        )
        self._scheduler = Scheduler(
            num_blocks=settings.kv_blocks,
            max_batch_size=settings.max_batch_size,
            prefill_chunk=settings.prefill_chunk,
            model_digest=settings.model_digest,
            has_prefix_cache=settings.has_prefix_cache,
        )
        self._pool = DrafterPool(drafters, vocab_size=runner.config.vocab_size)
        stepper = Stepper(
            runner=runner,
            scheduler=self._scheduler,
            pool=self._pool,
            policy=self._policy,
            sampler=Sampler(
                eos_token_ids=runner.config.eos_token_ids,
                draw=draw if draw is not None else choose_draw(runner.final_norm_weight().device),
            ),
            counters=self._counters,
            max_model_len=settings.max_model_len,
            on_finished=on_finished,
        )
        self._revisions = Revisions(
            drafters=self._drafters,
            shadows=self._pool.shadows,
            model_digest=settings.model_digest,
            draft_tokens_max=settings.draft_tokens_max,
            between_steps=self._between_steps,
            begin_revision=self._begin_revision,
        )
        self._inbox = Inbox(max_inside=settings.max_batch_size + settings.max_waiting)
        self._loop = EngineLoop(inbox=self._inbox, scheduler=self._scheduler, stepper=stepper)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bowsprit-engine", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now: profiled, and its thread runs (until a drain has ended)."""
        return self._ready.is_set() and self._thread.is_alive()

    def start(self) -> None:
        """Begin: the thread allocates the KV cache, profiles, then serves."""
        self._thread.start()

    def prepare(self) -> None:
        """Allocate the KV cache and profile. Its thread does it; so does who calls `advance` instead of `start`."""
        self._runner.allocate_kv(self.settings.kv_blocks)
        self._profile = profiling.load_or_measure(
            self._runner,
            model_digest=self.settings.model_digest,
            max_batch_size=self.settings.max_batch_size,
            draft_tokens_max=self.settings.draft_tokens_max,
            kv_blocks=self.settings.kv_blocks,
        )
        if self.settings.prefill_delay_steps is not None:
            limits = chunk_limits(
                self._profile,
                prefill_chunk=self.settings.prefill_chunk,
                delay_steps=self.settings.prefill_delay_steps,
            )
            if limits is not None:
                self._scheduler.limit_chunks(limits)
                one, full = (limits.tokens(num_decodes=b, context=0) for b in (1, self.settings.max_batch_size))
                logger.info("a step carries %d prompt tokens beside one stream, %d beside a full batch", one, full)

    def advance(self) -> bool:
        """Do what came and run one step, in the caller's thread. Sleeps while there is nothing; False at the end."""
        return self._loop.advance()

    def wait_ready(self, timeout_seconds: float) -> bool:
        return self._ready.wait(timeout_seconds)

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more requests, let those here end within `drain_seconds`, abort the others; returns when done."""
        self._inbox.close(abort=drain_seconds <= 0)
        if self._thread.ident is None:
            return
        self._thread.join(drain_seconds if drain_seconds > 0 else None)
        self._inbox.close(abort=True)
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises CallerError for one that can never be served, WorldError while draining (reason Draining) and for one
        more than the queue holds (reason Overloaded).
        """
        admission.check(
            request,
            max_model_len=self.settings.max_model_len,
            vocab_size=self._runner.config.vocab_size,
            drafter_names=self._drafters.keys(),
        )
        self._inbox.submit(request)

    def cancel(self, request_id: str) -> None:
        """End a request between two steps; its last output says `abort`. Unknown ids are ignored."""
        self._inbox.cancel(request_id)

    def policy(self) -> PolicyStatus:
        return self._policy.status()

    def set_policy(self, table: PolicyTable) -> PolicyStatus:
        """Put a table in force from the next step on. Raises StalePolicyError for an older revision."""
        return self._policy.set_table(table)

    def profile(self) -> Profile:
        """The start-up profile; without cells until the engine is ready."""
        return self._profile

    def drafters(self) -> tuple[DrafterStats, ...]:
        lowered = {drafter.name: drafter.message for drafter in self._policy.lowered}
        return tuple(
            _with_lowering(self._counters.drafter_stats(drafter), lowered.get(drafter.name)).model_copy(
                update={"shadow": self._pool.shadows.stats(drafter.name)}
            )
            for drafter in self._drafters.values()
        )

    def snapshot(self) -> Snapshot:
        """All the counters, those that `stats` leaves out included."""
        return self._counters.snapshot()

    def stats(self) -> EngineStats:
        counts = self._counters.snapshot()
        return EngineStats(
            boot_id=self._counters.boot_id,
            model_name=self.settings.model_name,
            model_digest=self.settings.model_digest,
            uptime_seconds=self._counters.uptime_seconds,
            policy_revision=self._policy.revision,
            lowered=self._policy.lowered,
            draft_tokens_max=self.settings.draft_tokens_max,
            max_batch_size=self.settings.max_batch_size,
            requests_running=self._scheduler.num_running,
            requests_waiting=self._scheduler.num_waiting,
            kv_cache_usage=self._scheduler.blocks.usage,
            prefix_cache_queries=self._scheduler.prefixes.num_queried,
            prefix_cache_hits=self._scheduler.prefixes.num_hit,
            prompt_tokens=counts.prompt_tokens,
            generation_tokens=counts.generation_tokens,
            sequence_steps=counts.sequence_steps,
            probe_steps=counts.probe_steps,
            prefill_steps=counts.prefill_steps,
            preemptions=counts.preemptions,
            corrupted_requests=counts.corrupted_requests,
            drafters=self.drafters(),
            cells=counts.cells,
        )

    def load_drafter(self, name: str, load: DrafterLoad) -> DrafterStats:
        """Load, promote or unload a revision (core/revisions.py). Raises what `Revisions.carry_out` does."""
        self._revisions.carry_out(name, load)
        return next(stats for stats in self.drafters() if stats.name == name)

    def _begin_revision(self, name: str, revision: str | None) -> None:
        self._counters.begin_revision(name, revision)
        self._policy.begin_revision(name)
        self._pool.begin_revision(name)

    def _between_steps(self, function: Callable[[], None]) -> None:
        if self._thread.is_alive():
            self._inbox.call(function).result(SWAP_TIMEOUT_SECONDS)
        else:
            function()

    def _step_times(self) -> tuple[StepTimes, ...]:
        return measured_times(self._counters.cells()), StepTimes(self._profile.cells)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self.prepare()
                self._ready.set()
                while self.advance():
                    pass
        except Exception:
            logger.exception("the engine's thread ends")
            raise
        finally:
            self._ready.clear()
            self._loop.end()


def _with_lowering(stats: DrafterStats, message: str | None) -> DrafterStats:
    if message is None or stats.state is not DrafterState.ACTIVE:
        return stats
    return stats.model_copy(update={"state": DrafterState.LOW_ACCEPTANCE, "reason": message})
