"""What a draft position is taught: cross-entropy to a mixture of the target's distribution and the emitted token.

Decides how that is computed. The LM head W is the target's and frozen, so all that a row needs to know of its wanted
distribution q is the mean of W's rows under it; value and gradient then come from one pass over the row's logits, and
neither logits nor q are kept. Refuses to know positions, batches and optimizers.

    direction    = sum_v q_v W_v
    loss(x)      = log sum_v exp(x W_v) - x direction
    d loss / d x = sum_v softmax(x W)_v W_v - direction
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bowsprit_engine.training.head import TargetRows, norm


class FrozenOutput:
    """The target's LM head over the draft vocabulary. `dtype`: what its products round their inputs to."""

    def __init__(self, target: TargetRows, *, eps: float, dtype: torch.dtype = torch.float32) -> None:
        self._weight = target.lm_head.to(dtype)  # [V, D]
        self._final_norm = target.final_norm
        self._eps = eps

    @torch.no_grad()
    def directions(
        self,
        hidden: Tensor,  # [n, D], inputs of the target's final norm
        emitted: Tensor,  # [n] draft indices, negative where the token has none
        *,
        emitted_weight: float,
    ) -> Tensor:  # [n, D] float32
        """The wanted distribution of each row, as its mean of the LM head's rows.

        It is the target's own, but for the share `emitted_weight` of the emitted token. A row whose token has no index
        lacks that share; it teaches no distribution.
        """
        wanted = self._logits(norm(hidden, self._eps) * self._final_norm).softmax(dim=-1).mul_(1 - emitted_weight)
        known = (emitted >= 0).nonzero()[:, 0]
        wanted[known, emitted[known]] += emitted_weight
        return self._mean_rows(wanted)

    def loss(
        self,
        outputs: Tensor,  # [n, D]
        directions: Tensor,  # [n, D] float32
        shares: Tensor,  # [n] float32, of each row in the sum; 0 leaves a row out
    ) -> Tensor:  # scalar
        """Cross-entropy summed over rows. Only its gradient by `outputs` is known."""
        value: Tensor = _CrossEntropy.apply(outputs, directions, shares, self)
        return value

    def cross_entropy(self, outputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:  # [n], [n, D]
        """Each row's loss and its gradient by the row's output."""
        logits = self._logits(outputs)
        peak = logits.amax(dim=-1, keepdim=True)
        powers = logits.sub_(peak).exp_()
        total = powers.sum(dim=-1, keepdim=True)
        values = (total.log() + peak)[:, 0] - (outputs * directions).sum(dim=-1)
        return values, self._mean_rows(powers) / total - directions

    def _logits(self, outputs: Tensor) -> Tensor:  # [n, V] float32
        return (outputs.to(self._weight.dtype) @ self._weight.T).float()

    def _mean_rows(self, shares: Tensor) -> Tensor:  # [n, D] float32
        return (shares.to(self._weight.dtype) @ self._weight).float()


class _CrossEntropy(torch.autograd.Function):
    """`FrozenOutput.cross_entropy` for autograd."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, directions: Tensor, shares: Tensor, layer: FrozenOutput) -> Tensor:
        values, gradients = layer.cross_entropy(outputs, directions)
        ctx.save_for_backward(gradients * shares[:, None])
        return values @ shares

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (of_outputs,) = ctx.saved_tensors
        return of_outputs * gradients[0], None, None, None
