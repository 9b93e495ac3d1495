"""Do the arguments of forced calls keep to their schemas? A vendor check in miniature.

`PYTHONPATH=engine python -m bench.tool_accuracy --url URL` asks a server questions of the Berkeley function-calling
data with their own functions under tool_choice "required", and judges each call by `jsonschema` alone, never by the
engine's grammar. Prints how many calls were valid, which answers max_tokens cut off within their arguments, and what
failed. Exits with 1 when a finished call did.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import openai

from bench.streams import data_folder, read_rows

FILES = ("simple_python", "multiple", "live_simple", "live_multiple")
TYPES: Mapping[str, str] = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


@dataclass(slots=True, kw_only=True)
class Result:
    """`cut`: ids of answers that max_tokens ended; `failures`: (id, what is wrong) of finished ones."""

    valid: int = 0
    cut: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def questions(n: int, seed: int) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """(id, messages, tools) of `n` one-turn questions. Raises ValueError when the data holds fewer."""
    rows = [row for name in FILES for row in read_rows(data_folder() / f"BFCL_v4_{name}.json")]
    chosen = random.Random(seed).sample(rows, n)
    return [(row["id"], row["question"][0], [tool_of(function) for function in row["function"]]) for row in chosen]


def check(client: openai.OpenAI, *, model: str, n: int, seed: int, max_tokens: int) -> Result:
    """Ask `n` questions, greedily."""
    result = Result()
    for name, messages, tools in questions(n, seed):
        answer = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=0.0,
            max_tokens=max_tokens,
        )  # type: ignore[call-overload]
        choice = answer.choices[0]
        if choice.finish_reason == "length":
            result.cut.append(name)
            continue
        problems = list(_problems(choice, tools))
        result.failures += [(name, problem) for problem in problems]
        result.valid += not problems
    return result


def _problems(choice: Any, tools: list[dict[str, Any]]) -> Iterator[str]:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if choice.finish_reason != "tool_calls" or not choice.message.tool_calls:
        yield f"no call: {choice.finish_reason}"
    for call in choice.message.tool_calls or ():
        try:
            jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
        except (ValueError, KeyError, jsonschema.ValidationError) as error:
            yield f"{call.function.name}: {error}"


def tool_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function of the data as OpenAI's: its types are Python's."""
    parameters = _schema(function["parameters"])
    name = function["name"].replace(".", "_")[:64]
    description = function.get("description", "")
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Types renamed; defaults, formats and hints in words left out."""
    kept = {key: schema[key] for key in ("description", "enum", "required") if key in schema}
    if "type" in schema:
        kept["type"] = TYPES.get(schema["type"], schema["type"])
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {name: _schema(part) for name, part in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        kept["items"] = _schema(schema["items"])
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=256)
    given = parser.parse_args()
    client = openai.OpenAI(base_url=f"{given.url}/v1", api_key="none", max_retries=0)
    result = check(client, model=given.model, n=given.questions, seed=given.seed, max_tokens=given.max_tokens)
    finished = given.questions - len(result.cut)
    print(f"{result.valid} of {finished} finished calls are valid; {len(result.cut)} were cut off: {result.cut}")
    for name, problem in result.failures:
        print(f"{name}: {problem.splitlines()[0]}")
    sys.exit(1 if result.failures else 0)


if __name__ == "__main__":
    main()
