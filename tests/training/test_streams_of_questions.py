"""The streams of real questions that experiments, the demo and e2e send."""

from __future__ import annotations

import pytest

from bench.streams import NARROW_SYSTEM_PROMPT, mixed_stream, narrow_stream


def test_a_narrow_stream_is_many_distinct_questions_under_one_prompt() -> None:
    """Enough for 200 held-out requests and twice as many to train on."""
    stream = narrow_stream(600, seed=1)
    assert {messages[0]["content"] for messages in stream} == {NARROW_SYSTEM_PROMPT}
    assert len({messages[1]["content"] for messages in stream}) == 600


def test_a_stream_is_a_function_of_its_seed() -> None:
    """The same seed sends the same questions, another one others."""
    assert narrow_stream(50, seed=1) == narrow_stream(50, seed=1) != narrow_stream(50, seed=2)


def test_a_mixed_stream_changes_its_functions_from_question_to_question() -> None:
    """Hundreds of different system prompts."""
    stream = mixed_stream(400, seed=1)
    assert len({messages[0]["content"] for messages in stream}) > 200
    assert len({messages[1]["content"] for messages in stream}) == 400


def test_more_questions_than_there_are_is_refused_with_both_numbers() -> None:
    """A question asked twice would let a look-up pass for learning."""
    with pytest.raises(ValueError, match="100000 questions asked for, the data holds 690 distinct ones"):
        narrow_stream(100_000, seed=1)
