"""Answers of the target to the drafters' streams, recorded once and replayed by every comparison.

    PYTHONPATH=engine python -m bench.recorded_answers --model MODEL --folder FOLDER

Verification keeps a draft iff it equals what the target draws by itself, so one recording serves every drafter. Answers
are those of this project's own engine without speculation, greedy (noise: temperature 1.2 with a seed per request).
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import llguidance.hf
import typer

from bench.drafter_streams import Question, StreamOf, streams
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.grammar import GrammarCompiler
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.server import assembly
from bowsprit_engine.server.structured import json_source

BATCH = 8
STREAM_SEED = 1
STREAMS = ("recurring", "tools", "chat", "editing", "noise")  # in the order of tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`index`: of its question in the stream. `prompt` holds what the answer was made to begin with."""

    index: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    is_judged: bool


def read(folder: Path, stream: str) -> list[Answer]:
    """In order of arrival. Raises FileNotFoundError for a stream that was not recorded."""
    with (folder / f"{stream}.jsonl").open(encoding="utf-8") as lines:
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["index"])
    return [
        Answer(index=row["index"], prompt=tuple(row["prompt"]), tokens=tuple(row["tokens"]), is_judged=row["judged"])
        for row in rows
    ]


def record(engine: Engine, model: LoadedModel, stream: StreamOf, path: Path, *, batch: int = BATCH) -> None:
    """Ask what `path` doesn't hold yet, `batch` requests at a time; a line per answer as it ends."""
    done = {json.loads(line)["index"] for line in path.read_text().splitlines()} if path.exists() else set()
    num_learned = len(stream.questions) - stream.judged
    # Judged ones first and last in turn, so that a recording that is cut off still has both kinds.
    order = sorted(range(len(stream.questions)), key=lambda i: (i - num_learned) * 4 if i >= num_learned else i)
    waiting = _requests(model, stream, [index for index in order if index not in done])
    ended: queue.SimpleQueue[tuple[int, tuple[int, ...], list[int]]] = queue.SimpleQueue()
    num_open = 0
    with path.open("a", encoding="utf-8") as lines:
        while True:
            while num_open < batch and (entry := next(waiting, None)) is not None:
                _submit(engine, *entry, ended)
                num_open += 1
            if num_open == 0:
                return
            index, prompt, tokens = ended.get()
            num_open -= 1
            row = {"index": index, "prompt": prompt, "tokens": tokens, "judged": index >= num_learned}
            lines.write(json.dumps(row) + "\n")
            lines.flush()


def grammar_compiler(model: LoadedModel) -> GrammarCompiler:
    """For the model's tokens."""
    size, eos = model.config.vocab_size, model.config.eos_token_ids
    readable = llguidance.hf.from_tokenizer(model.tokenizer, max(size, len(model.tokenizer)), list(eos))
    return GrammarCompiler(readable, vocab_size=size, eos_token_ids=eos)


def _requests(
    model: LoadedModel, stream: StreamOf, indices: list[int]
) -> Iterator[tuple[int, Question, tuple[int, ...], Any, int]]:
    compiler = grammar_compiler(model)
    for index in indices:
        question = stream.questions[index]
        text = model.tokenizer.apply_chat_template(question.messages, tokenize=False, add_generation_prompt=True)
        prompt = tuple(model.tokenizer.encode(text + question.begins, add_special_tokens=False))
        try:
            grammar = compiler.compile(json_source(question.schema)) if question.schema else None
        except CallerError:
            continue  # a schema of the data that the library refuses
        if len(prompt) + stream.max_tokens < model.config.max_model_len:
            yield index, question, prompt, grammar, stream.max_tokens


def _submit(
    engine: Engine,
    index: int,
    question: Question,
    prompt: tuple[int, ...],
    grammar: Any,
    max_tokens: int,
    ended: queue.SimpleQueue[tuple[int, tuple[int, ...], list[int]]],
) -> None:
    tokens: list[int] = []

    def take(output: StepOutput) -> None:
        tokens.extend(output.token_ids)
        if output.finish_reason is not None:
            ended.put((index, prompt, tokens))

    engine.submit(
        Request(
            request_id=f"{id(ended)}-{index}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(
                seed=index,
                temperature=question.temperature,
                max_tokens=max_tokens,
            ),
            speculation=SpeculationParams(enabled=False),
            on_output=take,
            grammar=grammar,
        )
    )


def main(
    model: Annotated[str, typer.Option(help="A .gguf file or a Hugging Face folder.")],
    folder: Annotated[Path, typer.Option(help="Where recordings are kept; one that was cut off goes on.")],
    learned: Annotated[int, typer.Option(help="Requests before the judged ones.")] = 300,
    judged: Annotated[int, typer.Option(help="Requests to judge.")] = 40,
) -> None:
    """Record what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(model=model, max_model_len=1024, max_batch_size=BATCH, draft_tokens_max=0)
    loaded = assembly.load(settings)
    engine = assembly.engine_of(
        settings, loaded, model_name="recorded", speculation="off", max_waiting=BATCH, on_finished=lambda _: None
    )
    engine.start()
    for stream in streams(learned=learned, judged=judged, seed=STREAM_SEED):
        print(f"{stream.name}: {len(stream.questions)} requests", flush=True)
        record(engine, loaded, stream, folder / f"{stream.name}.jsonl")
    engine.stop()


if __name__ == "__main__":
    typer.run(main)
