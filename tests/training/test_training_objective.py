"""What a draft position is taught, and that the one-pass loss is the cross-entropy that it says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bowsprit_engine.training.head import TargetRows, target_logits
from bowsprit_engine.training.loss import NOT_DRAFTED
from bowsprit_engine.training.objective import FrozenOutput

ROWS, HIDDEN, VOCABULARY, EPS = 5, 16, 12, 1e-5


@pytest.fixture
def target() -> TargetRows:
    torch.manual_seed(1)
    return TargetRows(
        draft_token_ids=torch.arange(VOCABULARY),
        lm_head=torch.randn(VOCABULARY, HIDDEN),
        final_norm=torch.rand(HIDDEN) + 0.5,
    )


@pytest.fixture
def hidden() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(ROWS, HIDDEN)


def test_the_emitted_token_is_given_its_share_of_the_targets_distribution(
    target: TargetRows, hidden: torch.Tensor
) -> None:
    """A quarter, and what is left is the target's; a row without an emitted index has only that."""
    emitted = torch.tensor([3, NOT_DRAFTED, 0, 11, 3])
    wanted = target_logits(hidden, target, EPS).softmax(-1) * 0.75
    for row, index in enumerate(emitted.tolist()):
        if index != NOT_DRAFTED:
            wanted[row, index] += 0.25
    directions = FrozenOutput(target, eps=EPS).directions(hidden, emitted, emitted_weight=0.25)
    torch.testing.assert_close(directions, wanted @ target.lm_head)


@pytest.mark.parametrize("amplified", [1.0, 100.0], ids=["as is", "logits of hundreds"])
def test_value_and_gradient_are_those_of_autograd(target: TargetRows, hidden: torch.Tensor, amplified: float) -> None:
    """Also weighted by what comes after it, with a row left out, and where an exponential alone would overflow."""
    wanted = torch.rand(ROWS, VOCABULARY).softmax(-1)
    shares = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.125])
    fused, plain = ((hidden * amplified).requires_grad_() for _ in range(2))
    loss = FrozenOutput(target, eps=EPS).loss(fused, wanted @ target.lm_head, shares)
    reference = functional.cross_entropy(plain @ target.lm_head.T, wanted, reduction="none") @ shares
    (3 * loss).backward()  # type: ignore[no-untyped-call]
    (3 * reference).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(fused.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_products_in_bfloat16_are_as_near_as_their_rounding(target: TargetRows, hidden: torch.Tensor) -> None:
    """Sums, exponentials and the gradient's own numbers stay float32."""
    directions = torch.rand(ROWS, VOCABULARY).softmax(-1) @ target.lm_head
    values, gradients = FrozenOutput(target, eps=EPS).cross_entropy(hidden, directions)
    rounded, rounded_gradients = FrozenOutput(target, eps=EPS, dtype=torch.bfloat16).cross_entropy(hidden, directions)
    assert (rounded.dtype, rounded_gradients.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(rounded, values, rtol=2e-2, atol=2e-2)
    assert (rounded_gradients - gradients).norm() < 2e-2 * gradients.norm()
    assert not torch.equal(rounded, values)
