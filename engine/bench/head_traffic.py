"""The traffic on which designs of the trained head are compared: chat and tool calls, answered by our own engine.

    PYTHONPATH=engine python -m bench.head_traffic --model MODEL --folder FOLDER

Decides what is asked how often, at which temperature, and what is held out: by the hash of the question, so that no
question that judges is asked in training, under whichever system prompt. Every held-out question is answered greedily
and at temperature 1. Refuses to know heads. A recording that is cut off goes on, and can be read at any time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bench.drafter_streams import Question, StreamOf, chat_questions, tool_questions
from bench.recorded_answers import Answer, read, record
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.server import assembly

NAME = "head_traffic"
CHAT_QUESTIONS, TOOL_QUESTIONS = 2200, 730
TEMPERATURES = (0.0, 0.7, 1.0, 0.7, 1.0)  # of the rounds in which every chat question is asked once
JUDGED_TEMPERATURES = (0.0, 1.0)
HELD_OUT_ONE_IN = 30
MAX_TOKENS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was answered so far: in order of arrival to learn from, and by stream and temperature to judge by."""

    learned: tuple[Answer, ...]
    judged: dict[tuple[str, float], tuple[Answer, ...]]


def stream(*, seed: int = 1) -> StreamOf:
    """All questions in order of arrival; those that judge are last. A question may be asked in several rounds."""
    chat, tools = chat_questions(CHAT_QUESTIONS, seed), tool_questions(TOOL_QUESTIONS, seed)
    learned: list[Question] = []
    for number, temperature in enumerate(TEMPERATURES):
        asked = [replace(question, temperature=temperature) for question in chat if not is_held_out(question)]
        if number == 0:
            asked += [question for question in tools if not is_held_out(question)]
        random.Random(seed + number).shuffle(asked)
        learned += asked
    judged = [
        replace(question, temperature=temperature)
        for temperature in JUDGED_TEMPERATURES
        for question in (*chat, *tools)
        if is_held_out(question)
    ]
    return StreamOf(name=NAME, questions=(*learned, *judged), judged=len(judged), max_tokens=MAX_TOKENS)


def is_held_out(question: Question) -> bool:
    """By the user's words alone: another system prompt, schema or temperature doesn't change it."""
    digest = hashlib.sha256(question.messages[-1]["content"].strip().encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def kind(question: Question) -> str:
    """`chat` or `tools`."""
    return "chat" if question.schema is None else "tools"


def recorded(folder: Path) -> Traffic:
    """Raises FileNotFoundError where nothing was recorded."""
    return sorted_out(read(folder, NAME), stream().questions)


def sorted_out(answers: Iterable[Answer], questions: tuple[Question, ...]) -> Traffic:
    """Answers of one token or none are left out: nothing in them is drafted."""
    learned: list[Answer] = []
    judged: dict[tuple[str, float], list[Answer]] = {}
    for answer in answers:
        if len(answer.tokens) < 2:
            continue
        if not answer.is_judged:
            learned.append(answer)
            continue
        question = questions[answer.index]
        judged.setdefault((kind(question), question.temperature), []).append(answer)
    return Traffic(learned=tuple(learned), judged={key: tuple(group) for key, group in judged.items()})


def main(
    model: Annotated[str, typer.Option(help="A .gguf file or a Hugging Face folder.")],
    folder: Annotated[Path, typer.Option(help="Where the recording is kept.")],
    threads: Annotated[int, typer.Option(min=1, help="One wastes least where others use the processors too.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time: many read the weights once for all.")] = 128,
) -> None:
    """Ask what isn't answered yet."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(model=model, max_model_len=1024, max_batch_size=batch, draft_tokens_max=0, threads=threads)
    loaded = assembly.load(settings)
    engine = assembly.engine_of(
        settings, loaded, model_name="recorded", speculation="off", max_waiting=batch, on_finished=lambda _: None
    )
    engine.start()
    asked = stream()
    print(f"{len(asked.questions)} requests, {asked.judged} of them judged", flush=True)
    record(engine, loaded, asked, folder / f"{NAME}.jsonl", batch=batch)
    engine.stop()


if __name__ == "__main__":
    typer.run(main)
