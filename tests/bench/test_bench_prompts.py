"""Prompts of the comparison: real text, one length where engines would pad, others in every round."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bench import plan
from bench.plan import Case
from bench.prompts import human_eval_programs, prompts_of


class ByteTokenizer:
    """A token per byte of text; the template is a line per message."""

    def __len__(self) -> int:
        return 256

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(text.encode())

    def decode(self, ids: tuple[int, ...]) -> str:
        return bytes(ids).decode(errors="replace")

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


TOKENIZER = ByteTokenizer()
CASES = {case.name: case for case in plan.cases(plan.FULL)}


def of(name: str, **changes: Any) -> tuple[Case, list[list[tuple[int, ...]]]]:
    case = dataclasses.replace(CASES[name], **changes)
    return case, prompts_of(case, TOKENIZER)


@pytest.mark.parametrize("name", ["decode-16", "prefill-1024", "hostile-8"])
def test_prompts_have_one_length_and_no_two_are_equal(name: str) -> None:
    """A warm-up and every round, a full batch each."""
    case, batches = of(name)
    assert [len(batch) for batch in batches] == [case.batch] * (case.rounds + 1)
    prompts = [prompt for batch in batches for prompt in batch]
    assert {len(prompt) for prompt in prompts} == {case.prompt_tokens}
    assert len(set(prompts)) == len(prompts)


def test_chat_prompts_are_the_questions_of_the_mixed_stream() -> None:
    """Under the system prompts that name their functions."""
    _, batches = of("decode-1")
    assert TOKENIZER.decode(batches[0][0]).startswith("system: You are an assistant with these functions: ")


def test_a_program_is_given_whole_and_its_copy_begun() -> None:
    """The answer starts inside a code block, so that it is the program and not talk about it."""
    case, batches = of("copy-1")
    text = TOKENIZER.decode(batches[0][0])
    program = next(program for program in human_eval_programs() if program in text)
    assert len(program) >= case.prompt_tokens
    assert text.endswith("```python\n")


def test_the_same_seed_gives_the_same_prompts() -> None:
    """Two runs can be compared."""
    assert of("copy-1")[1] == of("copy-1")[1]
    assert of("hostile-1")[1] == of("hostile-1")[1]


def test_too_few_programs_are_an_error_with_both_numbers() -> None:
    """Rather than a run that repeats itself."""
    with pytest.raises(ValueError, match="copy-8 needs 8000 prompts, its stream holds"):
        of("copy-8", rounds=999)
