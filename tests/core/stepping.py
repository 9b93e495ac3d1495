"""A stepper without a thread: tests decide what happens between two steps, and look at everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bowsprit_engine.core.counters import Counters
from bowsprit_engine.core.request import FinishedRequest, Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.core.sampling import Sampler
from bowsprit_engine.core.scheduler import Scheduler
from bowsprit_engine.core.step import Stepper
from bowsprit_engine.kernels import reference
from bowsprit_engine.speculation.costs import StepTimes
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.table import SpeculationMode
from bowsprit_policy.wire import StepCell
from fakes import FakeRunner


class Stepping:
    """The fake model, a scheduler, a stepper and what each request was told."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        max_batch_size: int = 4,
        prefill_chunk: int = 64,
        has_prefix_cache: bool = True,
        drafters: Sequence[Drafter] = (),
        draft_tokens: SpeculationMode = 0,
        max_model_len: int = 256,
        cells: Sequence[StepCell] = (),  # by whose times a policy in mode auto judges
        on_finished: Callable[[FinishedRequest], None] | None = None,
    ) -> None:
        self.runner = FakeRunner(max_model_len=max_model_len)
        self.runner.allocate_kv(num_blocks)
        self.scheduler = Scheduler(
            num_blocks=num_blocks,
            max_batch_size=max_batch_size,
            prefill_chunk=prefill_chunk,
            model_digest="digest",
            has_prefix_cache=has_prefix_cache,
        )
        self.outputs: dict[str, list[StepOutput]] = {}
        self.counters = Counters(drafters)
        self.pool = DrafterPool(drafters, vocab_size=self.runner.config.vocab_size)
        self.policy = PolicyExecutor(
            mode=draft_tokens,
            drafter_types={drafter.name: drafter.type for drafter in drafters},
            draft_tokens_max=8,
            is_usable=lambda _: True,
            times=lambda: (StepTimes(cells),),
        )
        self.stepper = Stepper(
            runner=self.runner,
            scheduler=self.scheduler,
            pool=self.pool,
            policy=self.policy,
            sampler=Sampler(eos_token_ids=self.runner.config.eos_token_ids, draw=reference.draw),
            counters=self.counters,
            max_model_len=max_model_len,
            on_finished=on_finished,
        )

    def submit(
        self,
        name: str,
        prompt: Sequence[int],
        *,
        tenant: str = "",
        speculation: SpeculationParams | None = None,
        **sampling: object,
    ) -> None:
        """Greedy with seed 0 unless told otherwise."""
        told = self.outputs.setdefault(name, [])
        self.stepper.sequences.submit(
            Request(
                request_id=name,
                prompt_token_ids=tuple(prompt),
                sampling=SamplingParams(**{"seed": 0, "temperature": 0.0, **sampling}),
                speculation=speculation or SpeculationParams(),
                on_output=told.append,
                tenant=tenant,
            )
        )

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.scheduler.has_work:
            self.stepper.step()

    def answer(self, name: str, prompt: Sequence[int], **how: object) -> list[int]:
        """Submit one request and step until all have ended; its tokens."""
        self.submit(name, prompt, **how)
        self.run()
        return self.tokens(name)

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.outputs[name] for token in output.token_ids]

    def cached(self, name: str) -> int:
        """Prompt tokens that the prefix cache had, as the last output says."""
        metrics = self.outputs[name][-1].metrics
        assert metrics is not None
        return metrics.num_cached_tokens
