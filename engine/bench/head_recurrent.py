"""Today's recurrent head in the comparison's terms, and the same with the features of three layers at its beginning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.head_batch import HeadBatch, rows_at
from bench.head_states import NUM_LAYERS_KEPT
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows, norm


class RecurrentDesign(nn.Module):
    """`is_fused`: s_0 is the last layer's normed state plus what a matrix makes of the two lower ones."""

    def __init__(
        self,
        target: TargetRows,
        embedding: Tensor,  # [vocabulary, D]
        *,
        intermediate_size: int,
        eps: float,
        is_fused: bool = False,
    ) -> None:
        super().__init__()
        d = target.final_norm.numel()
        self.head = RecurrentHead(
            HeadShape(hidden_size=d, intermediate_size=intermediate_size, rms_norm_eps=eps), target
        )
        self.lower = nn.Parameter(torch.zeros(d, (NUM_LAYERS_KEPT - 1) * d)) if is_fused else None
        self.register_buffer("embedding", embedding, persistent=False)
        self.embedding: Tensor

    def states(self, batch: HeadBatch, num_positions: int) -> list[Tensor]:  # of [B, R, D]
        """What each draft position's logits are made of."""
        features = rows_at(batch.features, batch.anchors)
        state = self.head.start(features[..., -1, :])
        if self.lower is not None:
            lower = norm(features[..., :-1, :], self.head.shape.rms_norm_eps).flatten(-2)
            state = state + functional.linear(lower, self.lower)
        parts = self.head.token_part(self.embedding[batch.tokens])
        found: list[Tensor] = []
        for position in range(num_positions):
            fed = (batch.anchors + 1 + position).clamp(max=batch.tokens.shape[1] - 1)
            state = self.head.advance(state, rows_at(parts, fed))
            found.append(state)
        return found

    def logits(self, state: Tensor) -> Tensor:
        """Over the draft vocabulary."""
        return self.head.logits(state)
