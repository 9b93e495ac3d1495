"""From emissions to figures: the same cut for every engine."""

from __future__ import annotations

import pytest

from bench.protocol import Answer, Emission
from bench.window import Decoding, decoding, prefill_seconds, tokens_per_step


def answer(*sequences: list[tuple[float, int]]) -> Answer:
    """One list of (seconds, tokens so far) per sequence."""
    return Answer(
        token_ids=tuple(tuple(range(row[-1][1])) for row in sequences),
        emissions=tuple(
            tuple(Emission(seconds=seconds, num_tokens=num_tokens) for seconds, num_tokens in row) for row in sequences
        ),
        seconds=max(row[-1][0] for row in sequences),
    )


def test_the_first_token_belongs_to_prefill() -> None:
    """It comes from the prompt's last row."""
    one = answer([(0.5, 1), (0.6, 2), (0.7, 3)])
    assert prefill_seconds(one) == 0.5
    assert decoding(one) == Decoding(num_tokens=2, seconds=pytest.approx(0.2))
    assert decoding(one).tokens_per_second == pytest.approx(10)


def test_a_batch_decodes_while_all_its_sequences_do() -> None:
    """What one emits before the last begins, or after the first ends, is another batch's size."""
    two = answer([(1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)], [(2.0, 1), (3.0, 2), (4.0, 3), (5.0, 4)])
    assert prefill_seconds(two) == 2.0
    assert decoding(two) == Decoding(num_tokens=4, seconds=2.0)


def test_a_step_that_is_handed_out_one_by_one_is_counted_whole() -> None:
    """The first sequence's last token comes a moment before the second one's, of the same step."""
    one_by_one = answer([(1.0, 1), (2.0, 2), (3.0, 3)], [(1.001, 1), (2.001, 2), (3.001, 3)])
    assert decoding(one_by_one) == Decoding(num_tokens=4, seconds=pytest.approx(2.0))


def test_a_step_of_several_tokens_counts_them_all() -> None:
    """Accepted drafts come in one emission."""
    speculated = answer([(1.0, 1), (1.5, 5), (2.0, 7)])
    assert decoding(speculated) == Decoding(num_tokens=6, seconds=1.0)
    assert tokens_per_step(speculated) == 3.0


def test_an_answer_of_one_token_has_no_steps() -> None:
    """And no decode window."""
    one = answer([(1.0, 1)])
    assert tokens_per_step(one) is None
    with pytest.raises(ValueError, match=r"begins at 1\.0000 s, the first one ends at 1\.0000 s"):
        decoding(one)


def test_sequences_that_never_decode_together_have_no_window() -> None:
    """Nothing can be said of that batch."""
    with pytest.raises(ValueError, match="no window"):
        decoding(answer([(1.0, 1), (2.0, 2)], [(3.0, 1), (4.0, 2)]))
