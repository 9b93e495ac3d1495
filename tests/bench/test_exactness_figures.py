"""What `make exactness` calls a difference, and the price of shared noise by formula and by draws."""

from __future__ import annotations

import pytest
import torch

from bench import exactness
from bench.coupling_price import agreement, price
from bench.exactness import Answer, first_difference
from bowsprit_engine.core.request import FinishReason
from bowsprit_policy.wire import DrafterType

ANSWER = Answer(token_ids=[5, 6, 7], logprobs=[-0.5, -1.0, -2.0], finish_reason=FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Answer(token_ids=[5, 6, 7], logprobs=[-0.5, -1.0, -2.0], finish_reason=FinishReason.LENGTH), None),
        (Answer(token_ids=[5, 9, 7], logprobs=[-0.5, -1.0, -2.0], finish_reason=FinishReason.LENGTH), 1),
        (Answer(token_ids=[5, 6, 7], logprobs=[-0.5, -1.0, -2.0000002], finish_reason=FinishReason.LENGTH), 2),
        (Answer(token_ids=[5, 6, 7], logprobs=[-0.5, -1.0, -2.0], finish_reason=FinishReason.STOP), 3),
    ],
)
def test_the_first_difference_is_a_token_a_bit_of_a_logprob_or_the_end(other, expected):
    """None where all is equal."""
    assert expected == first_difference(ANSWER, other)


def test_the_default_drafter_is_among_the_compared():
    """Look-up in earlier answers is what a pod drafts by if nobody says otherwise."""
    types = {drafter.type for drafting in exactness.DRAFTINGS for drafter in drafting.drafters(100)}

    assert {DrafterType.SUFFIX, DrafterType.NGRAM} <= types


def test_another_set_of_draftings_begins_anew(monkeypatch):
    """An answer that was compared under other drafters says nothing of a new one."""
    before = exactness.kept_under("digest", "cpu", 48)
    monkeypatch.setattr(exactness, "DRAFTINGS", exactness.DRAFTINGS[1:])

    assert before != exactness.kept_under("digest", "cpu", 48)


def test_a_table_shows_how_much_was_verified_of_what_is_equal(capsys):
    """Answers that nobody drafted would be equal too."""
    counts = {"num_tokens": 48, "num_drafted": 31, "num_accepted": 17, "first_difference": None}
    outcomes = [exactness.Outcome(name=f"{index} greedy", drafting="suffix", **counts) for index in range(2)]

    exactness.report(outcomes)

    row = next(line for line in capsys.readouterr().out.splitlines() if "greedy" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["suffix", "greedy", "2", "96", "62", "34", "2"]


def test_agreement_is_the_sum_of_its_definition():
    """Tokens that one or both can't draw included."""
    p = torch.tensor([0.5, 0.3, 0.0, 0.2, 0.0], dtype=torch.float64)
    q = torch.tensor([0.2, 0.0, 0.3, 0.5, 0.0], dtype=torch.float64)
    by_definition = sum(
        1 / sum(max(float(p[j] / p[i]), float(q[j] / q[i])) for j in range(5)) for i in range(5) if p[i] * q[i] > 0
    )

    assert by_definition == pytest.approx(agreement(p, q), abs=1e-12)


def test_draws_with_the_same_noise_agree_as_the_formula_says():
    """Within five standard errors of 100 pairs, and between the two bounds."""
    generator = torch.Generator().manual_seed(2)
    target, drafter = ([2 * torch.randn(20, generator=generator) for _ in range(100)] for _ in range(2))

    found = price(target, drafter)

    assert found.lower_bound < found.coupled < found.maximal
    assert abs(found.drawn - found.coupled) < 5 * found.standard_error
