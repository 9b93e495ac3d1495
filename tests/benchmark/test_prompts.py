"""Prompts as people write them down, and what is wrong with a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bowsprit_engine.benchmark.prompts import BUILT_IN, encode, read_prompts
from bowsprit_engine.errors import WorldError
from scripted_engine import byte_tokenizer


def test_a_line_is_a_string_a_prompt_or_messages(tmp_path: Path) -> None:
    """Empty lines are none."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('"a"\n\n{"prompt": "b", "id": 3}\n{"messages": [{"role": "user", "content": "c"}]}\n')

    assert read_prompts(file) == ["a", "b", [{"role": "user", "content": "c"}]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a"\n{"prompt": \n', "line 2 is not JSON"),
        ('{"prompt": 7}\n', 'line 1 is neither a string nor has "prompt" or "messages": {"prompt": 7}'),
        ('{"messages": []}\n', "line 1 is neither"),
        ('{"messages": [{"role": "user"}]}\n', "line 1 is neither"),
        ("\n", "holds no prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, text: str, words: str) -> None:
    """With its number."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)

    with pytest.raises(WorldError, match=words):
        read_prompts(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(WorldError, match=r"none\.jsonl can't be read: .*No such file"):
        read_prompts(tmp_path / "none.jsonl")


def test_messages_go_through_the_models_template() -> None:
    """As a client's would; a string is taken as it is."""
    tokenizer = byte_tokenizer()

    assert (
        tokenizer.decode(encode([{"role": "user", "content": "Hi"}], tokenizer))
        == "<|role|>user:Hi\n<|role|>assistant:"
    )
    assert tokenizer.decode(encode("Hi", tokenizer)) == "Hi"
    assert len(BUILT_IN) == 8
