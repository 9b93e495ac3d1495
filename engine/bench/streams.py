"""Streams of real chat requests for experiments, the demo and e2e: a narrow one that a head can learn, and a mixed one.

Decides which questions of the Berkeley function-calling data (`bfcl_eval`'s data files) make a stream and under which
system prompt they are asked. Refuses to know who answers them: a stream is a list of chat messages.

Questions are real and distinct (asking one twice would let a look-up of the recorded answer pass for learning).
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]

MAX_QUESTION_CHARACTERS = 280
SEARCH_AND_BOOKING = re.compile(
    r"[A-Z]\w+_\d_\w+"
)  # the schema-guided-dialogue family: Movies_3_FindMovies and its like

# Chosen by looking at answers: SmolLM2-135M can't keep to a JSON format without an example in the prompt (which look-up
# would copy), but under this prompt it answers every question in its own house style, 60 tokens of it.
NARROW_SYSTEM_PROMPT = (
    "You are the booking desk. Confirm the request, then ask for the customer's name, email and phone number."
)

NARROW_FILES = ("live_multiple", "live_simple", "live_parallel", "live_parallel_multiple")
MIXED_FILES = (*NARROW_FILES, "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")


def narrow_stream(n: int, seed: int) -> list[Messages]:
    """`n` distinct questions of one family of function schemas (search and booking services), one system prompt.

    Raises ValueError when the data holds fewer.
    """
    questions = list(dict.fromkeys(question for function, question, _ in _asked(NARROW_FILES) if is_narrow(function)))
    return [_messages(NARROW_SYSTEM_PROMPT, question) for question in _drawn(questions, n, seed)]


def mixed_stream(n: int, seed: int) -> list[Messages]:
    """`n` distinct questions of every kind, each under a system prompt that names its own functions.

    Raises ValueError when the data holds fewer.
    """
    asked = {question: tools for _, question, tools in _asked(MIXED_FILES)}
    return [
        _messages(f"You are an assistant with these functions: {asked[question]}.", question)
        for question in _drawn(list(asked), n, seed)
    ]


def is_narrow(function: str) -> bool:
    """Whether a function's name is of the narrow stream's family."""
    return SEARCH_AND_BOOKING.fullmatch(function) is not None


def _messages(system: str, question: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def _drawn(questions: list[str], n: int, seed: int) -> list[str]:
    if n > len(questions):
        raise ValueError(f"{n} questions asked for, the data holds {len(questions)} distinct ones")
    return random.Random(seed).sample(questions, n)


def _asked(names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(first function of the expected answer or "", question, names of the functions offered) of one-turn tasks."""
    data = data_folder()
    for name in names:
        answers_file = data / "possible_answer" / f"BFCL_v4_{name}.json"
        answers = {row["id"]: row["ground_truth"] for row in read_rows(answers_file)} if answers_file.exists() else {}
        for row in read_rows(data / f"BFCL_v4_{name}.json"):
            users = [message["content"].strip() for message in row["question"][0] if message["role"] == "user"]
            if len(row["question"]) != 1 or len(users) != 1 or not 0 < len(users[0]) <= MAX_QUESTION_CHARACTERS:
                continue
            expected = answers.get(row["id"])
            offered = ", ".join(function["name"] for function in row["function"][:6])
            yield (next(iter(expected[0])) if expected else ""), users[0], offered


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def data_folder() -> Path:
    """Where the data files are, without importing the package (its dependencies are not installed)."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("bfcl-eval is not installed: `make setup` installs it (without its dependencies)")
    return Path(spec.submodule_search_locations[0]) / "data"
