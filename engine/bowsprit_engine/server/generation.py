"""One HTTP request's life in the engine: its choices are submitted, told as pieces of text, and never outlive it.

Decides when a choice ends for its reader (the engine's end, or a stop string), and cancels what nobody reads. Refuses
to know HTTP, JSON and prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bowsprit_engine.core.grammar import FAILED, CompiledGrammar
from bowsprit_engine.core.request import (
    FinishReason,
    Request,
    RequestMetrics,
    SamplingParams,
    SpeculationParams,
    StepOutput,
    TokenLogprob,
)
from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.server.bridge import Bridge
from bowsprit_engine.server.errors import UnavailableError
from bowsprit_engine.server.handle import EngineHandle
from bowsprit_engine.server.latencies import Latencies, RequestClock
from bowsprit_engine.server.text import Decoder, Detokenizer, StopStrings

SEED_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is generated: `n` choices of each prompt, the i-th (from 0) with seed `sampling.seed` + i.

    `goes_on`: the text continues its prompt's, word by word; else it is a message of its own.
    """

    request_id: str
    prompts: Sequence[tuple[int, ...]]
    n: int
    sampling: SamplingParams
    speculation: SpeculationParams
    grammar: CompiledGrammar | None = None
    stops: tuple[str, ...] = ()
    goes_on: bool = False
    tenant: str = ""
    capture_allowed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is new of one choice. `num_tokens` counts those behind text that is still held back too."""

    index: int
    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(slots=True, kw_only=True)
class _Choice:
    index: int
    request_id: str
    detokenizer: Detokenizer
    stops: StopStrings
    clock: RequestClock
    num_tokens: int = 0
    is_finished: bool = False


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over the finished choices."""

    completion_tokens: int = 0
    cached_by_prompt: dict[int, int] = field(default_factory=dict)  # of the choice of each that found the fewest
    metrics: list[RequestMetrics] = field(default_factory=list)


class Generation:
    """Submitted when built; whoever builds it must `close` it."""

    def __init__(
        self, plan: Plan, *, engine: EngineHandle, bridge: Bridge, decoder: Decoder, latencies: Latencies
    ) -> None:
        """Raises CallerError or WorldError as the engine's submit does; nothing runs then."""
        self.plan = plan
        self.totals = Totals()
        self._engine = engine
        self._outputs: asyncio.Queue[StepOutput] = asyncio.Queue()
        self._choices: dict[str, _Choice] = {}
        arrival = time.monotonic()
        deliver = partial(bridge.deliver, self._outputs.put_nowait)
        try:
            for index in range(len(plan.prompts) * plan.n):
                choice = _Choice(
                    index=index,
                    request_id=f"{plan.request_id}-{index}",
                    detokenizer=Detokenizer(decoder, before=plan.prompts[index // plan.n] if plan.goes_on else ()),
                    stops=StopStrings(plan.stops),
                    clock=latencies.clock(arrival),
                )
                engine.submit(self._request(choice, arrival, deliver))
                self._choices[choice.request_id] = choice
        except Exception:
            self.close()
            raise

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.plan.prompts)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all choices as they come. Raises WorldError when a choice ends in an error or by a shutdown,
        CallerError when its own grammar is why."""
        while not all(choice.is_finished for choice in self._choices.values()):
            output = await self._outputs.get()
            piece = self._take(self._choices[output.request_id], output)
            if piece is not None:
                yield piece

    def close(self) -> None:
        """Cancel whatever still runs. Calling it twice is fine."""
        for choice in self._choices.values():
            if not choice.is_finished:
                choice.is_finished = True
                choice.clock.finish(FinishReason.ABORT)
                self._engine.cancel(choice.request_id)

    def _request(self, choice: _Choice, arrival: float, deliver: object) -> Request:
        plan = self.plan
        prompt_number, choice_number = divmod(choice.index, plan.n)
        return Request(
            request_id=choice.request_id,
            prompt_token_ids=plan.prompts[prompt_number],
            sampling=replace(plan.sampling, seed=(plan.sampling.seed + choice_number) % 2**SEED_BITS),
            speculation=plan.speculation,
            on_output=deliver,  # type: ignore[arg-type]
            grammar=plan.grammar,
            tenant=plan.tenant,
            capture_allowed=plan.capture_allowed,
            arrival_seconds=arrival,
        )

    def _take(self, choice: _Choice, output: StepOutput) -> Piece | None:
        if choice.is_finished:
            return None
        was_stopped = choice.stops.is_stopped
        is_over = output.finish_reason is not None
        text, num_tokens = "", 0
        if not was_stopped:
            text, num_tokens = self._read(choice, output)
            choice.clock.tokens(num_tokens)
            self.totals.completion_tokens += num_tokens
        if choice.stops.is_stopped and not is_over and not was_stopped:
            self._engine.cancel(choice.request_id)  # its last output, which has the metrics, says `abort`
        if is_over:
            self._finish(choice, output)
        reason = FinishReason.STOP if choice.stops.is_stopped else output.finish_reason
        return Piece(
            index=choice.index,
            text=text,
            num_tokens=num_tokens,
            logprobs=(output.logprobs or ())[:num_tokens],
            finish_reason=reason if is_over else None,
        )

    def _read(self, choice: _Choice, output: StepOutput) -> tuple[str, int]:
        """(text that may be shown, tokens that count). A stop token has no text; after a stop string nothing counts.

        As in vLLM, a stop string is looked for behind the first min_tokens tokens only.
        """
        pieces = []
        is_stop_token = output.finish_reason is FinishReason.STOP
        for number, token_id in enumerate(output.token_ids, start=1):
            choice.num_tokens += 1
            if not (is_stop_token and number == len(output.token_ids)):
                text = choice.detokenizer.push(token_id)
                is_early = choice.num_tokens <= self.plan.sampling.min_tokens
                pieces.append(text if is_early else choice.stops.push(text))
            if choice.stops.is_stopped:
                return "".join(pieces), number
        if output.finish_reason is not None:
            pieces.append(choice.stops.push(choice.detokenizer.flush()))
            pieces.append(choice.stops.flush())
        return "".join(pieces), len(output.token_ids)

    def _finish(self, choice: _Choice, output: StepOutput) -> None:
        reason = output.finish_reason
        is_stopped = choice.stops.is_stopped
        choice.is_finished = True
        choice.clock.finish(FinishReason.STOP if is_stopped or reason is None else reason)
        if output.metrics is not None:
            self.totals.metrics.append(output.metrics)
            cached, prompt = output.metrics.num_cached_tokens, choice.index // self.plan.n
            self.totals.cached_by_prompt[prompt] = min(cached, self.totals.cached_by_prompt.get(prompt, cached))
        if is_stopped:
            return
        if reason is FinishReason.ERROR and output.error_code == FAILED:
            raise CallerError(f"the answer's form is too complex to go on: {output.error}", code=FAILED)
        if reason is FinishReason.ERROR:
            raise WorldError(output.error or "the engine failed", reason="EngineFailure")
        if reason is FinishReason.ABORT:
            raise UnavailableError("the server ended before the answer did", reason="Draining")
