"""Our own engine as `bowsprit-engine serve` assembles it, without its server: requests go straight to the step loop.

Words: the model's folder, `plain`, `auto` or a number of draft tokens, the longest sequence.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Sequence

from bench.protocol import Answer, Emission, Hello, Task, serve
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.server.assembly import assemble
from bowsprit_engine.server.assembly import load as load_model

MAX_BATCH_SIZE = 16
READY_SECONDS = 120.0
# A service holds prompts back for running streams; then a batch that begins at once never decodes as a whole.
PREFILL_DELAY_STEPS = 1e6


def load(words: Sequence[str]) -> tuple[Hello, Callable[[Task], Answer]]:
    folder, mode, max_model_len = words
    settings = ServeSettings(
        model=folder,
        max_batch_size=MAX_BATCH_SIZE,
        max_model_len=int(max_model_len),
        prefill_delay_steps=PREFILL_DELAY_STEPS,
        prefix_cache="off",  # vLLM's is off too: a prompt is computed whenever it comes
        speculation={"plain": "off"}.get(mode, mode),
    )
    model = load_model(settings)
    engine = assemble(settings, model, lambda finished: None)
    engine.start()
    if not engine.wait_ready(READY_SECONDS):
        raise RuntimeError(f"the engine isn't ready after {READY_SECONDS:.0f} s")
    hello = Hello(
        version=f"bowsprit {importlib.metadata.version('bowsprit')}",
        settings={
            "runner": model.runner.accelerator,
            "dtype": model.runner.dtype,
            "speculation": str(settings.speculation),
            "drafters": " ".join(drafter.name for drafter in settings.drafter),
            "prefix cache": settings.prefix_cache,
        },
    )
    return hello, Submitted(engine).generate


class Submitted:
    """An engine, and a number for each request that it ever got."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._num_requests = 0

    def generate(self, task: Task) -> Answer:
        """Raises RuntimeError with the engine's own error when a request fails."""
        sequences = [_Sequence() for _ in task.prompts]
        begin = time.perf_counter()
        for prompt, sequence in zip(task.prompts, sequences, strict=True):
            self._engine.submit(self._request(prompt, task, sequence, begin))
        for sequence in sequences:
            sequence.done.wait()
        seconds = time.perf_counter() - begin
        errors = [sequence.error for sequence in sequences if sequence.error is not None]
        if errors:
            raise RuntimeError(errors[0])
        return Answer(
            token_ids=tuple(tuple(sequence.token_ids) for sequence in sequences),
            emissions=tuple(tuple(sequence.emissions) for sequence in sequences),
            seconds=seconds,
        )

    def _request(self, prompt: tuple[int, ...], task: Task, sequence: _Sequence, begin: float) -> Request:
        def on_output(output: StepOutput) -> None:
            if output.token_ids:
                sequence.token_ids.extend(output.token_ids)
                num_tokens = len(sequence.token_ids)
                sequence.emissions.append(Emission(seconds=time.perf_counter() - begin, num_tokens=num_tokens))
            if output.finish_reason is not None:
                sequence.error = output.error
                sequence.done.set()

        self._num_requests += 1
        return Request(
            request_id=f"bench-{self._num_requests}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(
                seed=self._num_requests,
                temperature=task.temperature,
                max_tokens=task.max_tokens,
                ignore_eos=task.ignore_eos,
            ),
            speculation=SpeculationParams(),
            on_output=on_output,
            arrival_seconds=time.monotonic(),
        )


class _Sequence:
    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.emissions: list[Emission] = []
        self.error: str | None = None
        self.done = threading.Event()


if __name__ == "__main__":
    serve(load)
