"""Recorded answers through one predictor: order of arrival, caps and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bench.fixed_cap_replay import replay
from bench.recorded_answers import Answer


def answer(index: int, tokens: tuple[int, ...], *, is_judged: bool = True) -> Answer:
    return Answer(index=index, prompt=(0, 1), tokens=tokens, is_judged=is_judged)


@dataclass
class Counting:
    """Drafts the numbers after the last one; writes down what it is told."""

    told: list[tuple[str, int]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def begin(self, request_id: int, prompt: Sequence[int]) -> None:
        self.told.append(("begin", request_id))

    def propose(self, request_id: int, text: Sequence[int], most: int) -> Sequence[int]:
        self.asked.append(most)
        return [text[-1] + 1 + offset for offset in range(most)]

    def emitted(self, request_id: int, text: Sequence[int], num_new: int) -> None:
        self.told.append((str(list(text[-num_new:])), request_id))

    def end(self, request_id: int) -> None:
        self.told.append(("end", request_id))


def test_a_step_emits_what_matched_and_one_token_more() -> None:
    """5, then 6 7 8 of 6 7 9: the draft broke off at its third token, which is the target's."""
    predictor = Counting()
    counted = replay([answer(3, (5, 6, 7, 9, 10))], predictor, cap=3, batch=1)
    assert predictor.told == [("begin", 3), ("[5]", 3), ("[6, 7, 9]", 3), ("[10]", 3), ("end", 3)]
    assert (counted.tokens, counted.steps, counted.drafted) == (4, 2, 3)
    assert counted.acceptance_length == 2.0


def test_nothing_is_drafted_beyond_the_answer_but_for_its_last_token() -> None:
    """Nor asked for where one token is left."""
    predictor = Counting()
    replay([answer(0, (5, 6, 7, 9))], predictor, cap=16, batch=1)
    assert predictor.asked == [2]


def test_requests_run_side_by_side_in_order_of_arrival() -> None:
    """Two at a time: the third begins when the first has ended."""
    predictor = Counting()
    replay([answer(0, (5, 6)), answer(1, (5, 7, 7, 7)), answer(2, (5, 6))], predictor, cap=4, batch=2)
    ends = [(what, index) for what, index in predictor.told if what in ("begin", "end")]
    assert ends == [("begin", 0), ("begin", 1), ("end", 0), ("begin", 2), ("end", 2), ("end", 1)]


def test_requests_that_only_teach_are_not_counted() -> None:
    """The predictor is told of them all the same."""
    predictor = Counting()
    counted = replay([answer(0, (5, 6, 7), is_judged=False), answer(1, (5, 7))], predictor, cap=4, batch=1)
    assert (counted.tokens, counted.steps) == (1, 1)
    assert ("begin", 0) in predictor.told


def test_a_batch_below_one_is_refused() -> None:
    """With the values and the limit."""
    with pytest.raises(ValueError, match="cap is 4 and batch 0, the least is 1"):
        replay([], Counting(), cap=4, batch=0)
