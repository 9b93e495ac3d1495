"""Load on one engine: so many requests at a time, the next one when one ends, until all have been answered.

Decides nothing about what is compared. Knows neither models nor tokenizers.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import (
    FinishReason,
    Request,
    RequestMetrics,
    SamplingParams,
    SpeculationParams,
    StepOutput,
)
from bowsprit_engine.errors import WorldError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request's answer; seconds are since it was submitted."""

    token_ids: tuple[int, ...]
    first_token_seconds: float
    seconds: float
    metrics: RequestMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All answers, in the order of the requests, and the wall seconds of them all."""

    answers: tuple[Answered, ...]
    seconds: float

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def num_steps(self) -> int:
        """Sequence-steps of decoding: a prompt's last row, which gives the first token, is none."""
        return sum(answer.metrics.num_steps for answer in self.answers)

    @property
    def num_draft_tokens(self) -> int:
        return sum(answer.metrics.num_draft_tokens for answer in self.answers)

    @property
    def decode_seconds(self) -> float:
        """From first token to last, summed over the requests."""
        return sum(answer.seconds - answer.first_token_seconds for answer in self.answers)


class _Open:
    """A request that is being answered."""

    def __init__(self, index: int, ended: queue.SimpleQueue[_Open]) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.begin = time.perf_counter()
        self.first: float | None = None
        self.end = 0.0
        self.last: StepOutput | None = None
        self._ended = ended

    def take(self, output: StepOutput) -> None:
        """Called by the engine's thread."""
        now = time.perf_counter()
        if output.token_ids and self.first is None:
            self.first = now
        self.token_ids.extend(output.token_ids)
        if output.finish_reason is not None:
            self.end, self.last = now, output
            self._ended.put(self)

    def answered(self) -> Answered:
        """Raises WorldError for one that failed."""
        last = self.last
        if last is None or last.metrics is None or self.first is None or last.finish_reason is FinishReason.ABORT:
            raise WorldError(f"request {self.index} ended without an answer: {last}", reason="EngineFailure")
        if last.error is not None:
            raise WorldError(f"request {self.index}: {last.error}", reason="EngineFailure")
        return Answered(
            token_ids=tuple(self.token_ids),
            first_token_seconds=self.first - self.begin,
            seconds=self.end - self.begin,
            metrics=last.metrics,
        )


def run(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    *,
    batch_size: int,
    sampling: SamplingParams,
    name: str,
) -> Run:
    """Answer all prompts, `batch_size` at a time; request i has seed `sampling.seed` + i.

    `name` makes ids unique and is the tenant, so that nobody looks up what an earlier run was answered. Raises
    WorldError when a request fails, CallerError for one that can't be served.
    """
    ended: queue.SimpleQueue[_Open] = queue.SimpleQueue()
    answers: dict[int, Answered] = {}
    begin = time.perf_counter()
    for index, prompt in enumerate(prompts):
        if index >= batch_size:
            _settle(ended.get(), answers)
        request = _Open(index, ended)
        engine.submit(_request(request, prompt, sampling, name))
    while len(answers) < len(prompts):
        _settle(ended.get(), answers)
    seconds = time.perf_counter() - begin
    return Run(answers=tuple(answers[index] for index in range(len(prompts))), seconds=seconds)


def _settle(request: _Open, answers: dict[int, Answered]) -> None:
    answers[request.index] = request.answered()


def _request(request: _Open, prompt: tuple[int, ...], sampling: SamplingParams, name: str) -> Request:
    return Request(
        request_id=f"{name}-{request.index}",
        prompt_token_ids=prompt,
        sampling=dataclasses.replace(sampling, seed=sampling.seed + request.index),
        speculation=SpeculationParams(),
        on_output=request.take,
        tenant=name,
    )
