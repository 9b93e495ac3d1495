"""One case, served: its requests, the neighbours that come and go beside them, and what each of them was told.

Everything is submitted before the engine starts or from its own callbacks, so a case runs the same way every time.
Decides nothing about what is right: it returns what was answered, the plain answers included.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import (
    FinishReason,
    Request,
    SamplingParams,
    SpeculationParams,
    StepOutput,
    TokenLogprob,
)
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.sampling import Draw
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_policy.wire import DrafterCap, EngineStats, PolicyTable, TableRow
from exactness.design import LARGEST_K

PATIENCE_SECONDS = 120
OUTPUTS_PER_VISITOR = 2  # a neighbour comes at every second output of the requests that stay
MAX_MODEL_LEN = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a case. `leaves`: its client hangs up after its second output."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    speculation: SpeculationParams = field(default_factory=SpeculationParams)
    grammar: CompiledGrammar | None = None
    leaves: bool = False


@dataclass(slots=True, kw_only=True)
class Answer:
    """What one request was told so far."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_outputs: int = 0

    def add(self, output: StepOutput) -> None:
        self.num_outputs += 1
        self.token_ids.extend(output.token_ids)
        self.logprobs.extend(output.logprobs or ())
        self.finish_reason, self.error = output.finish_reason, output.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The answers by name, and the engine's counters after the last one."""

    answers: dict[str, Answer]
    stats: EngineStats


class Run:
    """An engine that lives for one list of requests."""

    def __init__(
        self,
        engine: Engine,
        *,
        visitors: Sequence[Asked] = (),
        on_any_output: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._visitors = iter(visitors)
        self._on_any_output = on_any_output
        self._answers: dict[str, Answer] = {}
        self._num_open = 0
        self._num_outputs = 0
        self._is_done = threading.Event()

    def serve(self, requests: Sequence[Asked]) -> Served:
        """Submit all, then start; returns when all of them, and the visitors that came, have ended."""
        for asked in requests:
            self._submit(asked, brings_visitors=True)
        self._engine.start()
        try:
            assert self._is_done.wait(PATIENCE_SECONDS), f"not all of {sorted(self._answers)} ended"
            return Served(answers=self._answers, stats=self._engine.stats())
        finally:
            self._engine.stop()

    def _submit(self, asked: Asked, *, brings_visitors: bool) -> None:
        answer = self._answers[asked.name] = Answer()
        self._num_open += 1

        def on_output(output: StepOutput) -> None:
            answer.add(output)
            self._on_any_output()
            if asked.leaves and answer.num_outputs == 2:
                self._engine.cancel(asked.name)
            if brings_visitors:
                self._bring_visitor()
            if output.finish_reason is not None:
                self._num_open -= 1
                if self._num_open == 0:
                    self._is_done.set()

        self._engine.submit(
            Request(
                request_id=asked.name,
                prompt_token_ids=asked.prompt,
                sampling=asked.sampling,
                speculation=asked.speculation,
                grammar=asked.grammar,
                on_output=on_output,
            )
        )

    def _bring_visitor(self) -> None:
        self._num_outputs += 1
        if self._num_outputs % OUTPUTS_PER_VISITOR == 0:
            visitor = next(self._visitors, None)
            if visitor is not None:
                self._submit(visitor, brings_visitors=False)


def engine_of(
    runner: Runner,
    *,
    drafters: Sequence[Drafter] = (),
    mode: int | str = "off",
    batch: int = 1,
    kv_blocks: int = 64,
    prefill_chunk: int = 256,
    has_prefix_cache: bool = False,
    max_waiting: int = 256,
    draw: Draw | None = None,
) -> Engine:
    """An engine that is not started; without changes, the plain one that serves one request at a time."""
    settings = EngineSettings(
        model_name="m",
        model_digest="d",
        max_batch_size=batch,
        max_model_len=MAX_MODEL_LEN,
        kv_blocks=kv_blocks,
        draft_tokens_max=LARGEST_K,
        prefill_chunk=prefill_chunk,
        has_prefix_cache=has_prefix_cache,
        max_waiting=max_waiting,
        speculation_mode=mode,
    )
    return Engine(runner=runner, settings=settings, drafters=drafters, draw=draw)


def plain_answer(runner: Runner, asked: Asked, *, num_logprobs: int) -> Answer:
    """What a request answers alone: no neighbours, no speculation, room for everything."""
    sampling = replace(asked.sampling, num_logprobs=num_logprobs)
    return Run(engine_of(runner)).serve([replace(asked, sampling=sampling, leaves=False)]).answers[asked.name]


class MovingTable:
    """Another policy table at every output: caps of 0 to 16 per drafter, in no particular order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names = [drafter.name for drafter in engine.drafters()]
        self._revisions = itertools.count(1)

    def push(self) -> None:
        revision = next(self._revisions)
        caps = tuple(
            DrafterCap(name=name, draft_tokens=(7 * revision + 5 * index) % (LARGEST_K + 1))
            for index, name in enumerate(self._names)
        )
        self._engine.set_policy(PolicyTable(revision=revision, table=(TableRow(drafters=caps),)))
