"""llama.cpp's own C interface through llama-cpp-python: one `llama_decode` per step for the whole batch, then argmax.

No server and no per-token work in Python but the argmax, so that the figure is llama.cpp's and not ours.
Words: the GGUF file, the number of threads.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api

from bench.protocol import Answer, Emission, Hello, Task, serve

BATCH_TOKENS = 2048  # llama.cpp's default n_batch


def load(words: Sequence[str]) -> tuple[Hello, Callable[[Task], Answer]]:
    path, threads = words
    api.llama_backend_init()
    parameters = api.llama_model_default_params()
    parameters.use_mmap = False  # weights may be repacked for the processor
    model = api.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        raise RuntimeError(f"{path}: llama.cpp can't load it")
    engine = LlamaCpp(model, num_threads=int(threads))
    system = " ".join(api.llama_print_system_info().decode().split())
    hello = Hello(
        version=f"llama-cpp-python {llama_cpp.__version__} (its own llama.cpp, built here for this processor)",
        settings={"system": system, "threads": threads, "KV cache": "F16", "flash attention": "auto"},
    )
    return hello, engine.generate


class LlamaCpp:
    """A model, and one context for the size of the batch at hand: a cache made for 16 would slow one sequence."""

    def __init__(self, model: Any, *, num_threads: int) -> None:
        self._model = model
        self._num_threads = num_threads
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._eos = api.llama_vocab_eos(api.llama_model_get_vocab(model))
        self._shape = (0, 0)
        self._context: Any = None

    def generate(self, task: Task) -> Answer:
        """Greedy only: nothing else is compared with llama.cpp."""
        if task.temperature > 0:
            raise ValueError(f"temperature {task.temperature}: this worker is greedy")
        context = self._context_for(len(task.prompts), max(len(prompt) for prompt in task.prompts) + task.max_tokens)
        api.llama_memory_clear(api.llama_get_memory(context), True)
        tokens: list[list[int]] = [[] for _ in task.prompts]
        emissions: list[list[Emission]] = [[] for _ in task.prompts]
        begin = time.perf_counter()

        def emit(index: int, token: int) -> None:
            tokens[index].append(token)
            emissions[index].append(Emission(seconds=time.perf_counter() - begin, num_tokens=len(tokens[index])))

        for index, prompt in enumerate(task.prompts):
            emit(index, self._prefill(context, index, prompt))
        self._decode(context, task, tokens, emit)
        return Answer(
            token_ids=tuple(tuple(ids) for ids in tokens),
            emissions=tuple(tuple(sequence) for sequence in emissions),
            seconds=time.perf_counter() - begin,
        )

    def _context_for(self, batch: int, length: int) -> Any:
        """Rounded up, so that tasks of similar lengths share a context."""
        shape = (batch, -(-length // 256) * 256)
        if shape != self._shape:
            if self._context is not None:
                api.llama_free(self._context)
            parameters = api.llama_context_default_params()
            parameters.n_ctx = shape[0] * shape[1]
            parameters.n_seq_max = batch
            parameters.n_batch = BATCH_TOKENS
            parameters.n_threads = self._num_threads
            parameters.n_threads_batch = self._num_threads
            self._context = api.llama_init_from_model(self._model, parameters)
            if not self._context:
                raise RuntimeError(f"llama.cpp can't make a context of {shape[0]} x {shape[1]} tokens")
            self._shape = shape
        return self._context

    def _prefill(self, context: Any, sequence: int, prompt: tuple[int, ...]) -> int:
        for first in range(0, len(prompt), BATCH_TOKENS):
            part = prompt[first : first + BATCH_TOKENS]
            is_last = first + len(part) == len(prompt)
            rows = [(token, first + i, sequence) for i, token in enumerate(part)]
            batch = _batch(rows, logits_of=[len(part) - 1] if is_last else [])
            _decoded(context, batch)
            api.llama_batch_free(batch)
        return self._argmax(context, -1)

    def _decode(self, context: Any, task: Task, tokens: list[list[int]], emit: Callable[[int, int], None]) -> None:
        batch = _batch([(0, 0, index) for index in range(len(tokens))], logits_of=range(len(tokens)))
        ids = np.ctypeslib.as_array(batch.token, (len(tokens),))
        positions = np.ctypeslib.as_array(batch.pos, (len(tokens),))
        positions[:] = [len(prompt) for prompt in task.prompts]
        for _ in range(task.max_tokens - 1):
            if not task.ignore_eos and any(row[-1] == self._eos for row in tokens):
                break
            ids[:] = [row[-1] for row in tokens]
            _decoded(context, batch)
            for index in range(len(tokens)):
                emit(index, self._argmax(context, index))
            positions += 1
        api.llama_batch_free(batch)

    def _argmax(self, context: Any, row: int) -> int:
        pointer = api.llama_get_logits_ith(context, row)
        return int(np.ctypeslib.as_array(pointer, (self._vocab_size,)).argmax())


def _batch(rows: Sequence[tuple[int, int, int]], *, logits_of: Sequence[int]) -> Any:
    """A llama_batch of (token, position, sequence) rows; the caller frees it."""
    batch = api.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    count = (len(rows),)
    np.ctypeslib.as_array(batch.token, count)[:] = [token for token, _, _ in rows]
    np.ctypeslib.as_array(batch.pos, count)[:] = [position for _, position, _ in rows]
    np.ctypeslib.as_array(batch.n_seq_id, count)[:] = 1
    wanted = np.ctypeslib.as_array(ctypes.cast(batch.logits, ctypes.POINTER(ctypes.c_int8)), count)
    wanted[:] = 0
    wanted[list(logits_of)] = 1
    for index, (_, _, sequence) in enumerate(rows):
        batch.seq_id[index][0] = sequence
    return batch


def _decoded(context: Any, batch: Any) -> None:
    status = api.llama_decode(context, batch)
    if status != 0:
        raise RuntimeError(f"llama_decode returned {status}")


if __name__ == "__main__":
    serve(load)
