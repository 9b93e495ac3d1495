"""Verification in one launch, and the draw that the sampler calls, against their references."""

from __future__ import annotations

import itertools

import pytest
import torch

from bowsprit_engine.kernels import reference, verify

CASES = {
    "one row, a tiny vocabulary": {"vocab": 3, "lengths": [1], "temperatures": [0.0]},
    "greedy, a vocabulary just over one block": {"vocab": 2049, "lengths": [3, 1, 5], "temperatures": [0.0, 0.0, 0.0]},
    "sampled, a prime vocabulary over several blocks": {"vocab": 4999, "lengths": [4, 2], "temperatures": [0.8, 1.5]},
    "greedy and sampled together": {"vocab": 257, "lengths": [2, 6, 1, 3], "temperatures": [0.0, 0.7, 1.0, 0.0]},
    "the longest draft": {"vocab": 101, "lengths": [33], "temperatures": [0.9]},
}


@pytest.mark.parametrize(("name", "num_right"), list(itertools.product(CASES, [0, 2, 40])))
def test_it_draws_and_counts_as_the_reference_does(name, num_right):
    """Ties, padded rows; drafts whose first `num_right` are what the target draws, and whose next one is wrong."""
    vocab, lengths = CASES[name]["vocab"], CASES[name]["lengths"]
    logits = 3 * torch.randn(sum(lengths), vocab, generator=torch.Generator().manual_seed(11))
    logits[0, : vocab // 2] = logits[0].max()  # the lowest id wins a greedy tie
    arguments = {
        "row_starts": torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        "temperature": torch.tensor(CASES[name]["temperatures"]),
        "seeds": torch.tensor([(-1) ** i * (2**62 + 977 * i) for i in range(len(lengths))], dtype=torch.int64),
        "positions": torch.tensor([5 + 100 * i for i in range(len(lengths))], dtype=torch.int32),
    }
    drafts, _ = reference.verify(logits, drafts=torch.zeros(sum(lengths), dtype=torch.int64), **arguments)
    for start, length in zip(arguments["row_starts"].tolist(), lengths, strict=False):
        if num_right < length:
            drafts[start + num_right] = (drafts[start + num_right] + 1) % vocab
    padded = torch.zeros(sum(lengths), vocab + 7)
    padded[:, :vocab] = logits

    actual = verify.verify(padded[:, :vocab], drafts=drafts, **arguments)

    expected = reference.verify(logits, drafts=drafts, **arguments)
    assert [part.tolist() for part in actual] == [part.tolist() for part in expected]


def test_the_samplers_draw_filters_first():
    """Every filter, and a greedy row among sampled ones."""
    logits = 2 * torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    arguments = (
        torch.tensor([0.0, 0.9, 0.9, 0.9, 1.2]),
        torch.tensor([0, 3, 0, 0, 20], dtype=torch.int32),
        torch.tensor([1.0, 1.0, 0.3, 1.0, 0.9]),
        torch.tensor([0.0, 0.0, 0.0, 0.2, 0.01]),
        torch.tensor([1, 2, 3, 4, 5]),
        torch.tensor([9, 8, 7, 6, 5]),
    )

    assert verify.draw(logits, *arguments).tolist() == reference.draw(logits, *arguments).tolist()
