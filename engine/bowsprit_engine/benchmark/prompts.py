"""What a benchmark asks: prompts from a JSONL file, or a few of its own.

Decides what a line may be. The built-in prompts are for a first look only: what speculation gains depends on the text,
so measure with your own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bowsprit_engine.errors import WorldError

Messages = list[dict[str, str]]

_RECORD = '{"id": 4711, "name": "Ada Lovelace", "city": "London", "tags": ["mathematics", "engines"]}'
_CODE = (
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)"
)

# Two that copy, two that edit, four that talk: look-up helps the first, hardly the last.
BUILT_IN: tuple[Messages, ...] = tuple(
    [{"role": "user", "content": text}]
    for text in (
        f"Repeat this record three times, unchanged:\n{_RECORD}",
        f"Copy this function, then copy it again:\n{_CODE}",
        f"Rename `values` to `numbers` in this function and print all of it:\n{_CODE}",
        f"Change the city to Paris and print the whole record:\n{_RECORD}",
        "Explain in a few sentences why the sky is blue.",
        "Write a short story about a lighthouse keeper.",
        "List ten animals and where each of them lives.",
        "What should I see in Rome in two days?",
    )
)


def read_prompts(path: Path) -> list[str | Messages]:
    """A line is a JSON string, {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}]}.

    Raises WorldError naming the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WorldError(f"{path} can't be read: {error}", reason="PromptsUnreadable") from error
    prompts = [_prompt(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise WorldError(f"{path} holds no prompt", reason="PromptsUnreadable")
    return prompts


def encode(prompt: str | Messages, tokenizer: Any) -> tuple[int, ...]:
    """Token ids; messages through the model's own chat template, as the server does."""
    if isinstance(prompt, str):
        return tuple(tokenizer.encode(prompt))
    if tokenizer.chat_template is None:
        return tuple(tokenizer.encode("\n".join(message["content"] for message in prompt)))
    return tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))


def _prompt(path: Path, number: int, line: str) -> str | Messages:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise WorldError(f"{path}, line {number} is not JSON: {error}", reason="PromptsUnreadable") from error
    if isinstance(value, dict):
        value = value.get("prompt", value.get("messages"))
    if isinstance(value, str) or _are_messages(value):
        prompt: str | Messages = value
        return prompt
    raise WorldError(
        f'{path}, line {number} is neither a string nor has "prompt" or "messages": {line[:120]}',
        reason="PromptsUnreadable",
    )


def _are_messages(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(message, dict) and isinstance(message.get("content"), str) for message in value)
