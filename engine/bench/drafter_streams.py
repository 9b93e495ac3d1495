"""The five streams on which drafters are compared: what is asked, and how its answers are drawn.

Decides prompts and sampling only. Refuses to know who answers and who drafts. Questions are real and distinct (Berkeley
function-calling data, HumanEval's programs); the order is that of the service: the last requests of a stream are
judged, those before them are what a drafter may have learned from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bench.prompts import human_eval_programs
from bench.streams import NARROW_FILES, Messages, data_folder, is_narrow, mixed_stream, read_rows
from bench.tool_accuracy import FILES as SCHEMA_FILES
from bench.tool_accuracy import tool_of

NUM_AGENT_TOOLS = 6
PROGRAM = "\n\n```python\n{program}```"
ANSWER_BEGINNING = "```python\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`begins`: text that the answer is made to begin with; `schema`: what it must keep to, None for free text."""

    messages: Messages
    begins: str = ""
    schema: dict[str, Any] | None = None
    temperature: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOf:
    """`questions` in order of arrival; the last `judged` are held out. `max_tokens`: of an answer."""

    name: str
    questions: tuple[Question, ...]
    judged: int
    max_tokens: int


def streams(*, learned: int, judged: int, seed: int) -> list[StreamOf]:
    """All five; `learned` requests before the judged ones where traffic teaches. Raises ValueError for too few."""
    few = min(judged, 16)
    return [
        StreamOf(name="editing", questions=tuple(islice(_edits(seed), judged)), judged=judged, max_tokens=128),
        StreamOf(name="recurring", questions=_agent(learned + judged, seed), judged=judged, max_tokens=64),
        StreamOf(name="tools", questions=tool_questions(learned + judged, seed), judged=judged, max_tokens=64),
        StreamOf(name="chat", questions=chat_questions(judged * 2, seed), judged=judged, max_tokens=64),
        StreamOf(name="noise", questions=_noise(few, seed), judged=few, max_tokens=64),
    ]


def _agent(n: int, seed: int) -> tuple[Question, ...]:
    """One agent: the same few search and booking functions in every prompt, answers are calls of them."""
    tools: dict[str, dict[str, Any]] = {}
    asked: list[tuple[str, str]] = []
    for name in NARROW_FILES:
        for row in read_rows(data_folder() / f"BFCL_v4_{name}.json"):
            offered = {function["name"]: function for function in row["function"] if is_narrow(function["name"])}
            if not offered or len(row["question"]) != 1:
                continue
            tools.update({key: value for key, value in offered.items() if len(tools) < NUM_AGENT_TOOLS})
            asked += [(message["content"], next(iter(offered))) for message in row["question"][0][-1:]]
    calls = [tool_of(function) for function in tools.values()]
    questions = list(dict.fromkeys(text for text, first in asked if 0 < len(text) <= 280))
    if len(questions) < n:
        raise ValueError(f"{n} questions of the agent asked for, the data holds {len(questions)}")
    system = f"You are an agent. Answer with one call of these functions: {', '.join(tools)}."
    return tuple(
        Question(messages=_asked(system, text), schema=_any_call(calls))
        for text in random.Random(seed).sample(questions, n)
    )


def tool_questions(n: int, seed: int) -> tuple[Question, ...]:
    """Every question under its own functions' schemas, answers are calls of them."""
    rows = [row for name in SCHEMA_FILES for row in read_rows(data_folder() / f"BFCL_v4_{name}.json")]
    fitting = [row for row in rows if len(str(row["function"])) < 1200 and len(str(row["question"])) < 400]
    chosen = random.Random(seed).sample(fitting, n)
    return tuple(
        Question(
            messages=_asked(
                "Answer with one call of these functions: " + "; ".join(map(_signature, row["function"])) + ".",
                row["question"][0][-1]["content"],
            ),
            schema=_any_call([tool_of(function) for function in row["function"]]),
        )
        for row in chosen
    )


def chat_questions(n: int, seed: int) -> tuple[Question, ...]:
    """Questions of every kind without any function: the model just talks."""
    questions = [messages[-1]["content"] for messages in mixed_stream(n, seed)]
    return tuple(Question(messages=_asked("You are a helpful assistant.", text)) for text in questions)


def _edits(seed: int) -> Iterator[Question]:
    """Programs to be copied, renamed or continued after an inserted line: each as the prompt gave it but for that."""
    programs = human_eval_programs()
    random.Random(seed).shuffle(programs)
    for number, program in enumerate(programs):
        name = re.search(r"def (\w+)\(", program)
        if name is None or len(program) > 900:
            continue
        if number % 2:
            ask, begins = "Repeat this Python program exactly as it is.", ""
        else:
            ask = f"Rename the function {name[1]} to solution in this Python program, and keep the rest."
            begins = program[: name.start(1)] + "solution("
        messages = [{"role": "user", "content": ask + PROGRAM.format(program=program)}]
        yield Question(messages=messages, begins=ANSWER_BEGINNING + begins)


def _noise(n: int, seed: int) -> tuple[Question, ...]:
    texts = [messages[-1]["content"] for messages in mixed_stream(n, seed + 1)]
    return tuple(Question(messages=_asked("Write random words.", text), temperature=1.2) for text in texts)


def _any_call(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """A JSON schema of one call of any of these functions."""
    options = [
        {
            "type": "object",
            "properties": {"name": {"const": call["function"]["name"]}, "arguments": call["function"]["parameters"]},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for call in calls
    ]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _signature(function: dict[str, Any]) -> str:
    return f"{function['name']}({', '.join(function['parameters'].get('properties', {}))})"


def _asked(system: str, text: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
