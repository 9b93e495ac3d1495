"""What a head learns from on the curve: states kept by answer, as much of the traffic as was asked for."""

import torch

from bench.head_curve import learned, part_path, write
from bench.head_states import ANSWERS_PER_PART
from bench.recorded_answers import Answer

D = 8
LATER = ANSWERS_PER_PART + 3  # of the second part


def answer(index, length):
    return Answer(index=index, prompt=(1, 2), tokens=tuple(range(length)), is_judged=False)


def kept(folder, *answers):
    rows = {each.index: torch.full((len(each.tokens), D), float(each.index)) for each in answers}
    write(part_path(folder, answers[0].index // ANSWERS_PER_PART), rows)


def test_answers_come_with_their_own_states_in_order_of_arrival(tmp_path):
    """Over parts; the rows are bfloat16, one per emitted token."""
    first, second, third = answer(4, 3), answer(7, 2), answer(LATER, 5)
    kept(tmp_path, second, first)
    kept(tmp_path, third)
    found = list(learned(tmp_path, [first, second, third], max_tokens=100))
    assert [request.arrival for request in found] == [4, 7, LATER]
    assert [request.hidden.shape for request in found] == [(3, D), (2, D), (5, D)]
    assert [float(request.hidden[0, 0]) for request in found] == [4.0, 7.0, float(torch.tensor(LATER).bfloat16())]
    assert found[0].hidden.dtype == torch.bfloat16


def test_no_more_tokens_are_learned_from_than_asked(tmp_path):
    """The first answers, each whole."""
    answers = [answer(0, 3), answer(1, 3), answer(2, 3)]
    kept(tmp_path, *answers)
    assert [request.arrival for request in learned(tmp_path, answers, max_tokens=6)] == [0, 1]
    assert [request.arrival for request in learned(tmp_path, answers, max_tokens=5)] == [0]


def test_answers_without_states_are_left_out(tmp_path):
    """One that its part lacks, and all of a part that isn't there."""
    answers = [answer(0, 3), answer(1, 3), answer(LATER, 3)]
    kept(tmp_path, answers[1])
    assert [request.arrival for request in learned(tmp_path, answers, max_tokens=100)] == [1]
