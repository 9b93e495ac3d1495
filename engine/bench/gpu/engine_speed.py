"""Tokens per second of the whole engine on this device, beside the bare step: what its own work on the host costs.

The model is of random weights, so its text repeats nothing: look-up drafters find little to say, which is the hostile
case. A drafter that was told two of three answers' tokens stands for a good one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.gpu.engine_check import Told, prompt
from bench.gpu.records import EngineRun
from bench.gpu.scale import Scale
from bench.gpu.step_rows import blocks_per_sequence
from bowsprit_engine.core.engine import Engine, EngineSettings
from bowsprit_engine.core.request import FinishedRequest, Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.triton_runner import TritonRunner
from bowsprit_engine.native import build as native
from bowsprit_engine.native.variants import LOOKUP, build_dir
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.table import SpeculationMode

DRAFT_TOKENS = 4
PATIENCE_SECONDS = 120.0
Answers = list[tuple[int, ...]]


class _Watch:
    """When every request had begun and when the first ended, and how many tokens came between."""

    def __init__(self, num_requests: int) -> None:
        self._begun: set[str] = set()
        self._num_requests = num_requests
        self._num_tokens = 0
        self._begin = self._end = 0.0
        self.answers: dict[str, tuple[int, ...]] = {}
        self.all_ended = threading.Event()

    @property
    def tokens_per_second(self) -> float:
        return self._num_tokens / (self._end - self._begin)

    def output(self, output: StepOutput) -> None:
        if self._begin and not self._end:
            self._num_tokens += len(output.token_ids)
        self._begun.add(output.request_id)
        if not self._begin and len(self._begun) == self._num_requests:
            self._begin = time.perf_counter()
        if output.finish_reason is not None and not self._end:
            self._end = time.perf_counter()

    def finished(self, request: FinishedRequest) -> None:
        self.answers[request.request_id] = request.response_token_ids
        if len(self.answers) == self._num_requests:
            self.all_ended.set()


class _Running:
    """An engine that serves batches one after another. Raises RuntimeError for what isn't there in time."""

    def __init__(self, runner: Runner, scale: Scale, *, drafters: Sequence[Drafter], mode: SpeculationMode) -> None:
        self._scale = scale
        self._watch = _Watch(0)
        most = max(scale.decode_batches)
        longest = runner.config.max_model_len
        num_tokens = scale.prompt_tokens + scale.answer_tokens
        settings = EngineSettings(
            model_name="random",
            model_digest=f"random: {scale.name}",
            max_batch_size=most,
            max_model_len=longest,
            kv_blocks=blocks_per_sequence(longest) + most * blocks_per_sequence(num_tokens),
            draft_tokens_max=DRAFT_TOKENS,
            speculation_mode=mode,
        )
        self._engine = Engine(runner=runner, settings=settings, drafters=drafters, on_finished=self._finished)

    def __enter__(self) -> _Running:
        self._engine.start()
        if not self._engine.wait_ready(PATIENCE_SECONDS):
            self._engine.stop()
            raise RuntimeError(f"the engine isn't ready after {PATIENCE_SECONDS:.0f} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    def serve(self, batch: int) -> tuple[Answers, float]:
        """Greedy answers of `batch` requests at once, and tokens per second while all of them decode."""
        self._watch = watch = _Watch(batch)
        for index in range(batch):
            self._engine.submit(
                Request(
                    request_id=str(index),
                    prompt_token_ids=prompt(self._scale, index),
                    sampling=SamplingParams(
                        seed=index, temperature=0.0, max_tokens=self._scale.answer_tokens, ignore_eos=True
                    ),
                    speculation=SpeculationParams(),
                    on_output=watch.output,
                )
            )
        if not watch.all_ended.wait(PATIENCE_SECONDS):
            raise RuntimeError(f"{len(watch.answers)} of {batch} answers ended within {PATIENCE_SECONDS:.0f} s")
        return [watch.answers[str(index)] for index in range(batch)], watch.tokens_per_second

    def _finished(self, request: FinishedRequest) -> None:
        self._watch.finished(request)


def run(scale: Scale, device: torch.device) -> Iterator[EngineRun]:
    """Plain, with look-up on text that repeats nothing, and with a told drafter, at each batch.

    Look-up's library is compiled first, as an image's builder does: in Python it costs many times as much. Raises
    WorldError where there is no compiler.
    """
    native.build(build_dir((LOOKUP,)), (LOOKUP,))
    checkpoint = RandomCheckpoint(Path("random"), scale.config, device=device)
    runner = TritonRunner(checkpoint, dtype=scale.dtype, device=device)
    plain: dict[int, tuple[Answers, float]] = {}
    for name in ("plain", "look-up", "told"):
        drafters: Sequence[Drafter] = ()
        mode: SpeculationMode = "off"
        if name == "look-up":
            drafters = (NGramDrafter(name="ngram"), SuffixDrafter(name="suffix", sharing="tenant"))
            mode = "auto"
        elif name == "told":
            drafters = (Told(plain[max(plain)][0]),)
            mode = DRAFT_TOKENS
        with _Running(runner, scale, drafters=drafters, mode=mode) as running:
            for batch in scale.decode_batches:
                answers, speed = running.serve(batch)
                plain.setdefault(batch, (answers, speed))
                yield EngineRun(
                    batch=batch,
                    drafter=name,
                    tokens_per_second=speed,
                    of_plain=speed / plain[batch][1],
                    is_equal=answers == plain[batch][0],
                )
