"""transformers' `generate` in bfloat16 as people run it on a CPU: eager, default attention, greedy or prompt look-up.

Words: the Hugging Face folder, `plain` or `prompt_lookup`, the number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from bench.protocol import Answer, Emission, Hello, Task, serve

LOOKUP_TOKENS = 10  # the value of transformers' own documentation


def load(words: Sequence[str]) -> tuple[Hello, Callable[[Task], Answer]]:
    folder, mode, threads = words
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    model.eval()
    hello = Hello(
        version=f"transformers {transformers.__version__}, torch {torch.__version__}",
        settings={
            "attention": model.config._attn_implementation,
            "threads": threads,
            "mode": f"prompt_lookup_num_tokens={LOOKUP_TOKENS}" if mode == "prompt_lookup" else "eager generate",
        },
    )
    return hello, lambda task: generate(model, task, lookup=mode == "prompt_lookup")


class Clock(transformers.StoppingCriteria):  # type: ignore[misc]  # the package is not typed for mypy
    """Is asked after every step of `generate`; never stops anything."""

    def __init__(self, *, begin: float, num_prompt_tokens: int) -> None:
        self._begin = begin
        self._num_prompt_tokens = num_prompt_tokens
        self.emissions: list[Emission] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        num_tokens = input_ids.shape[1] - self._num_prompt_tokens
        self.emissions.append(Emission(seconds=time.perf_counter() - self._begin, num_tokens=num_tokens))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(model: Any, task: Task, *, lookup: bool) -> Answer:
    """Prompts of one length only: no padding, so no mask."""
    ids = torch.tensor(task.prompts, dtype=torch.int64)
    options: dict[str, Any] = {"prompt_lookup_num_tokens": LOOKUP_TOKENS} if lookup else {}
    if task.temperature > 0:
        options |= {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
    else:
        options |= {"do_sample": False}
    model.generation_config.eos_token_id = None if task.ignore_eos else model.config.eos_token_id
    begin = time.perf_counter()
    clock = Clock(begin=begin, num_prompt_tokens=ids.shape[1])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=task.max_tokens,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([clock]),
            **options,
        )
    seconds = time.perf_counter() - begin
    return Answer(
        token_ids=tuple(tuple(row[ids.shape[1] :]) for row in output.tolist()),
        emissions=(tuple(clock.emissions),) * len(task.prompts),
        seconds=seconds,
    )


if __name__ == "__main__":
    serve(load)
