"""Does the whole engine on this device answer the same with and without drafts? Of random weights; knows no speed."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu.records import Check
from bench.gpu.scale import Scale
from bench.gpu.step_rows import blocks_per_sequence
from bowsprit_engine.core.engine import Engine, EngineSettings
from bowsprit_engine.core.request import (
    FinishedRequest,
    FinishReason,
    Request,
    SamplingParams,
    SpeculationParams,
    StepOutput,
)
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.triton_runner import TritonRunner
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.table import SpeculationMode
from bowsprit_policy.wire import DrafterState, DrafterType

Answers = list[tuple[int, ...]]
MOST_LAYERS = 4
DRAFT_TOKENS = 4
PATIENCE_SECONDS = 600.0  # the part has a limit of its own
# What a request may ask of its logits, each an answer of its own.
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.5},
    {"temperature": 0.0, "num_logprobs": 2, "logit_bias": {7: 2.0}},
    {"temperature": 0.0, "frequency_penalty": 0.3, "min_tokens": 5},
)


class Told:
    """A drafter that knows the answers and gets every third token wrong."""

    type = DrafterType.MODEL
    name = "told"
    state = DrafterState.ACTIVE
    reason = ""
    revision: str | None = None

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [Draft(token_ids=self._draft(context)) for context in contexts]

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""

    def _draft(self, context: DraftContext) -> tuple[int, ...]:
        begin = len(context.text) - context.num_prompt_tokens
        known = self._answers[int(context.request_id)][begin : begin + context.max_draft_tokens]
        return tuple(token if index % 3 else abs(token - 1) for index, token in enumerate(known, start=begin))


def run(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Drafts from look-up and from a drafter of which two of three tokens are right."""
    plain, _ = _answers(scale, device, drafters=(), mode="off")
    drafters = (Told(plain), NGramDrafter(name="ngram"), SuffixDrafter(name="suffix", sharing="tenant"))
    drafted, num_accepted = _answers(scale, device, drafters=drafters, mode=DRAFT_TOKENS)
    changed = sum(own != other for own, other in zip(plain, drafted, strict=True))
    yield Check(name="engine: answers that drafts changed", error=changed, limit=0)
    yield Check(name="engine: no draft was ever accepted", error=float(num_accepted == 0), limit=0)


def _answers(
    scale: Scale, device: torch.device, *, drafters: Sequence[Drafter], mode: SpeculationMode
) -> tuple[Answers, int]:
    """Tokens of each request, all at once, and how many drafts were accepted. Raises RuntimeError for an error."""
    config = dataclasses.replace(scale.config, num_layers=min(MOST_LAYERS, scale.config.num_layers))
    runner = TritonRunner(RandomCheckpoint(Path("random"), config, device=device), dtype=scale.dtype, device=device)
    finished: dict[str, FinishedRequest] = {}
    all_ended = threading.Event()

    def end(request: FinishedRequest) -> None:
        finished[request.request_id] = request
        if len(finished) == len(SAMPLING):
            all_ended.set()

    num_tokens = scale.prompt_tokens + scale.answer_tokens
    settings = EngineSettings(
        model_name="random",
        model_digest=f"random: {scale.name}",
        max_batch_size=len(SAMPLING),
        max_model_len=config.max_model_len,
        kv_blocks=blocks_per_sequence(config.max_model_len) + len(SAMPLING) * blocks_per_sequence(num_tokens),
        draft_tokens_max=DRAFT_TOKENS,
        speculation_mode=mode,
    )
    running = Engine(runner=runner, settings=settings, drafters=drafters, on_finished=end)
    running.start()
    try:
        if not running.wait_ready(PATIENCE_SECONDS):
            raise RuntimeError(f"the engine isn't ready after {PATIENCE_SECONDS:.0f} s")
        for index, asked in enumerate(SAMPLING):
            running.submit(
                Request(
                    request_id=str(index),
                    prompt_token_ids=prompt(scale, index),
                    sampling=SamplingParams(seed=index, max_tokens=scale.answer_tokens, **asked),
                    speculation=SpeculationParams(),
                    on_output=_nobody_listens,
                )
            )
        if not all_ended.wait(PATIENCE_SECONDS):
            raise RuntimeError(f"{len(finished)} of {len(SAMPLING)} answers ended within {PATIENCE_SECONDS:.0f} s")
    finally:
        running.stop()
    broken = [request.request_id for request in finished.values() if request.finish_reason is FinishReason.ERROR]
    if broken:
        raise RuntimeError(f"requests {broken} ended in an error")
    answers = [finished[str(index)] for index in range(len(SAMPLING))]
    return [answer.response_token_ids for answer in answers], sum(sum(answer.accepted_counts) for answer in answers)


def prompt(scale: Scale, index: int) -> tuple[int, ...]:
    """A passage said again and again, so that look-up has something to say."""
    chance = random.Random(index)
    passage = [chance.randrange(scale.config.vocab_size) for _ in range(max(2, scale.prompt_tokens // 4))]
    return tuple((passage * 4)[: scale.prompt_tokens])


def _nobody_listens(output: StepOutput) -> None:
    """Answers are read when they have ended."""
