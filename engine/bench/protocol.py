"""What the bench and an engine under test say to each other: one JSON object per line, over the worker's pipes.

The worker says hello when its model is loaded, then answers each task in order. It times emissions itself, on its own
clock from the moment the task is submitted: how the figure is cut out of them is decided in one place, for every engine
alike (`window.py`). Imports the standard library only, since each worker runs in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who answers: version of the engine, and the settings that decide its speed."""

    version: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Generate `max_tokens` for each prompt, all in one batch. temperature 0 is greedy."""

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    temperature: float = 0.0
    ignore_eos: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """At `seconds` since the task was submitted, a sequence had `num_tokens` tokens of its own."""

    seconds: float
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Per prompt: its tokens, and when they came. `seconds` is the whole task's."""

    token_ids: tuple[tuple[int, ...], ...]
    emissions: tuple[tuple[Emission, ...], ...]
    seconds: float


class WorkerError(Exception):
    """An engine under test failed; the message is its last line, its log has the rest."""


def encode_task(task: Task) -> str:
    return json.dumps(asdict(task))


def decode_task(line: str) -> Task:
    fields = json.loads(line)
    return Task(**(fields | {"prompts": tuple(tuple(prompt) for prompt in fields["prompts"])}))


def decode_hello(line: str) -> Hello:
    """Raises WorkerError when the worker says why it can't serve."""
    return Hello(**_fields(line))


def decode_answer(line: str) -> Answer:
    """Raises WorkerError when the worker says that the task failed."""
    fields = _fields(line)
    return Answer(
        token_ids=tuple(tuple(ids) for ids in fields["token_ids"]),
        emissions=tuple(tuple(Emission(**emission) for emission in sequence) for sequence in fields["emissions"]),
        seconds=fields["seconds"],
    )


def _fields(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    if "error" in fields:
        raise WorkerError(fields["error"])
    return fields


def serve(load: Callable[[Sequence[str]], tuple[Hello, Callable[[Task], Answer]]]) -> None:
    """A worker's main: `load` gets the command line's words. Ends when its input does."""
    answers = _private_stdout()
    try:
        hello, generate = load(sys.argv[1:])
        _say(answers, asdict(hello))
        for line in sys.stdin:
            _say(answers, asdict(generate(decode_task(line))))
    except Exception as error:
        traceback.print_exc()
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error


def _private_stdout() -> IO[str]:
    """What libraries print goes to standard error: it must not mix with answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _say(stream: IO[str], fields: dict[str, Any]) -> None:
    stream.write(json.dumps(fields) + "\n")
    stream.flush()
