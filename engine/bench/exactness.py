"""`make exactness`: 500 real prompts, greedy and sampled, with speculation against plain, token by token.

Decides which prompts are asked and what counts as equal: all tokens, the log-probability of each to the last bit, and
the end. Plain is one request at a time without drafts and without a prefix cache; the other side is a batch of eight,
rounds with other drafters and K in turn (exactness_draftings.py), and a KV cache that holds three of the eight at full
length.

What was compared is kept line by line; the next run goes on after it, and begins anew for another model, processor or
set of draftings.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.exactness_draftings import DRAFTINGS, Drafting
from bench.exported_weights import packaged_model
from bench.prompts import human_eval_programs
from bench.streams import mixed_stream
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import FinishReason, Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.models import LoadedModel, load_model
from bowsprit_engine.speculation.drafters.base import Drafter

MAX_MODEL_LEN = 640
MAX_PROMPT = 512
BATCH = 8
KV_BLOCKS = 3 * MAX_MODEL_LEN // 16
PROMPTS_PER_ROUND = 13
NUM_QUESTIONS = 336  # beside HumanEval's 164 programs: 500
GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One comparison: a prompt and how it is answered."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams


@dataclass(slots=True, kw_only=True)
class Answer:
    """All that is compared, and how much of it was drafted."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_drafted: int = field(default=0, compare=False)
    num_accepted: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One compared answer. `first_difference`: index of the first token that differs; None where all is equal.

    `num_drafted`: tokens that were verified; where none were, equality says nothing.
    """

    name: str
    drafting: str
    num_tokens: int
    num_drafted: int
    num_accepted: int
    first_difference: int | None


def main(
    prompts: Annotated[int, typer.Option(min=1, max=500)] = 500,
    max_tokens: Annotated[int, typer.Option(min=1, max=MAX_MODEL_LEN - MAX_PROMPT)] = 48,
    model: Annotated[Path | None, typer.Option(help="A .gguf file or folder.", show_default="SmolLM2-135M")] = None,
    out: Annotated[Path, typer.Option(help="What was compared already, and what is now.")] = Path("out/exactness"),
) -> None:
    """Ask real prompts with and without speculation; exit code 1 if a single answer differs."""
    loaded = load_model(model or packaged_model(), max_model_len=MAX_MODEL_LEN, backend="native")
    torch.set_num_threads(1)
    key = kept_under(loaded.digest, loaded.runner.accelerator, max_tokens)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "compared.jsonl"
    known = _known(file, key)
    every = list(questions(loaded.tokenizer, prompts, max_tokens))
    per_round = 2 * PROMPTS_PER_ROUND
    rounds = [every[first : first + per_round] for first in range(0, len(every), per_round)]
    outcomes = [known[question.name] for question in every if question.name in known]
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, file.open("a") as kept:
        task = progress.add_task("answers compared", total=len(every), completed=len(outcomes))
        for number, asked in enumerate(rounds):
            fresh = [question for question in asked if question.name not in known]
            drafting = DRAFTINGS[number % len(DRAFTINGS)]
            for outcome in compared(loaded, fresh, drafting, on_answer=lambda: progress.advance(task, 0.5)):
                outcomes.append(outcome)
                print(json.dumps([getattr(outcome, name) for name in outcome.__slots__]), file=kept, flush=True)
    report(outcomes)
    sys.exit(int(any(outcome.first_difference is not None for outcome in outcomes)))


def kept_under(model_digest: str, accelerator: str, max_tokens: int) -> str:
    """What has to be the same for an earlier run's comparisons to count, as the first line of their file."""
    names = [drafting.name for drafting in DRAFTINGS]
    return json.dumps(
        {
            "model": model_digest,
            "computed by": accelerator,
            "max_tokens": max_tokens,
            "drafted by": names,
            "kept": list(Outcome.__slots__),
        }
    )


def questions(tokenizer: Any, num_prompts: int, max_tokens: int) -> Iterator[Question]:
    """Questions of the function-calling data and HumanEval's programs in turn, each greedy and sampled."""
    chats = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in mixed_stream(NUM_QUESTIONS, seed=4)
    ]
    texts = [text for pair in zip_longest(chats, human_eval_programs()) for text in pair if text is not None]
    for index, text in enumerate(texts[:num_prompts]):
        prompt = tuple(tokenizer.encode(text, add_special_tokens=False)[:MAX_PROMPT])
        for way, params in (("greedy", GREEDY), ("sampled", SAMPLED)):
            sampling = SamplingParams(seed=index, max_tokens=max_tokens, num_logprobs=0, **params)
            yield Question(name=f"{index} {way}", prompt=prompt, sampling=sampling)


def compared(
    loaded: LoadedModel, asked: Sequence[Question], drafting: Drafting, *, on_answer: Callable[[], None]
) -> list[Outcome]:
    """Answer questions plainly and drafted."""
    if not asked:
        return []
    plain = answers(_engine(loaded, batch=1, has_prefix_cache=False), asked, on_answer)
    drafters = drafting.drafters(loaded.config.vocab_size)
    engine = _engine(loaded, batch=BATCH, drafters=drafters, mode=drafting.draft_tokens)
    drafted = answers(engine, asked, on_answer)
    return [
        Outcome(
            name=question.name,
            drafting=drafting.name,
            num_tokens=len(one.token_ids),
            num_drafted=other.num_drafted,
            num_accepted=other.num_accepted,
            first_difference=first_difference(one, other),
        )
        for question, one, other in zip(asked, plain, drafted, strict=True)
    ]


def first_difference(one: Answer, other: Answer) -> int | None:
    """Index of the first token, log-probability or end that differs."""
    if one == other:
        return None
    pairs = zip(one.token_ids, one.logprobs, other.token_ids, other.logprobs, strict=False)
    return next((i for i, (a, p, b, q) in enumerate(pairs) if (a, p) != (b, q)), len(one.token_ids))


def answers(engine: Engine, asked: Sequence[Question], on_answer: Callable[[], None]) -> list[Answer]:
    """In the order of the questions; the engine is started for them and stopped."""
    told = [Answer() for _ in asked]
    left = threading.Semaphore(0)

    def listener(answer: Answer) -> Callable[[StepOutput], None]:
        def on_output(output: StepOutput) -> None:
            answer.token_ids.extend(output.token_ids)
            answer.logprobs.extend(entry.logprob for entry in output.logprobs or ())
            answer.finish_reason = output.finish_reason
            if output.metrics is not None:
                answer.num_drafted = output.metrics.num_draft_tokens
                answer.num_accepted = output.metrics.num_accepted_draft_tokens
            if output.finish_reason is not None:
                on_answer()
                left.release()

        return on_output

    for question, answer in zip(asked, told, strict=True):
        engine.submit(
            Request(
                request_id=question.name,
                prompt_token_ids=question.prompt,
                sampling=question.sampling,
                speculation=SpeculationParams(),
                on_output=listener(answer),
            )
        )
    engine.start()
    try:
        for _ in asked:
            left.acquire()
    finally:
        engine.stop()
    return told


def report(outcomes: Sequence[Outcome]) -> None:
    """One line per drafting and way, then every answer that differs."""
    columns = ("drafted by", "answered", "answers", "tokens", "drafted", "accepted", "equal")
    table = Table(*columns, title="with speculation against plain")
    for drafting in dict.fromkeys(outcome.drafting for outcome in outcomes):
        for way in ("greedy", "sampled"):
            rows = [o for o in outcomes if o.drafting == drafting and o.name.endswith(way)]
            equal = sum(outcome.first_difference is None for outcome in rows)
            counts = (
                len(rows),
                sum(outcome.num_tokens for outcome in rows),
                sum(outcome.num_drafted for outcome in rows),
                sum(outcome.num_accepted for outcome in rows),
                equal,
            )
            table.add_row(drafting, way, *map(str, counts))
    console.print(table)
    unlike = [outcome for outcome in outcomes if outcome.first_difference is not None]
    for outcome in unlike:
        console.print(f"{outcome.name} ({outcome.drafting}) differs at token {outcome.first_difference}")
    console.print(f"{len(outcomes) - len(unlike)} of {len(outcomes)} answers are equal, bit for bit")


def _engine(
    loaded: LoadedModel,
    *,
    batch: int,
    drafters: Sequence[Drafter] = (),
    mode: Any = "off",
    has_prefix_cache: bool = True,
) -> Engine:
    settings = EngineSettings(
        model_name="exactness",
        model_digest=loaded.digest,
        max_batch_size=batch,
        max_model_len=MAX_MODEL_LEN,
        kv_blocks=KV_BLOCKS,
        draft_tokens_max=max(drafting.draft_tokens for drafting in DRAFTINGS),
        has_prefix_cache=has_prefix_cache,
        speculation_mode=mode,
    )
    return Engine(runner=loaded.runner, settings=settings, drafters=drafters)


def _known(file: Path, key: str) -> dict[str, Outcome]:
    """What earlier runs compared under the same key; a file of another key is begun anew."""
    lines = file.read_text().splitlines() if file.exists() else []
    if lines[:1] != [key]:
        file.write_text(key + "\n")
        return {}
    rows = [Outcome(**dict(zip(Outcome.__slots__, json.loads(line), strict=True))) for line in lines[1:]]
    return {outcome.name: outcome for outcome in rows}


if __name__ == "__main__":
    typer.run(main)
