"""Top-k, top-p and min-p by search for a threshold, against the definition that sorts."""

from __future__ import annotations

import itertools

import pytest
import torch

from bowsprit_engine.kernels import filters

PARAMETERS = [
    (0.8, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 50, 0.9, 0.0),
    (1.0, 0, 0.0, 0.0),
    (1.0, 0, 0.37, 0.0),
    (1.1, 0, 0.99, 0.05),
    (0.6, 0, 1.0, 0.31),
    (0.9, 10**6, 1.0, 0.0),
    (0.0, 3, 0.5, 0.5),
]


def logits_of(kind, *, vocab):
    generator = torch.Generator().manual_seed(6)
    normal = 3 * torch.randn(len(PARAMETERS), vocab, generator=generator)
    match kind:
        case "normal":
            return normal
        case "ties":
            return normal.round()  # both zeros among them
        case "masked":
            return normal.masked_fill(torch.rand(normal.shape, generator=generator) < 0.7, -torch.inf)
        case _:
            return torch.zeros_like(normal)


@pytest.mark.parametrize(
    ("kind", "vocab"), [*itertools.product(["normal", "ties", "masked", "equal"], [3, 300]), ("normal", 4099)]
)
def test_the_tokens_kept_are_those_of_the_definition(kind, vocab):
    """Rows with every filter, alone and together; kept logits stay bit for bit, greedy rows whole."""
    wide = torch.zeros(len(PARAMETERS), vocab + 5)
    wide[:, :vocab] = logits_of(kind, vocab=vocab)
    logits = wide[:, :vocab]
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*PARAMETERS, strict=True))
    parameters = (temperature, top_k.to(torch.int32), top_p, min_p)

    assert torch.equal(filters.filter_logits(logits, *parameters), filters.reference(logits, *parameters))


def test_logits_of_another_dtype_are_refused():
    """The search is over float32's bits."""
    with pytest.raises(ValueError, match=r"torch.float64 \(1, 2\)"):
        filters.filter_logits(torch.zeros(1, 2, dtype=torch.float64), *[torch.zeros(1)] * 4)
