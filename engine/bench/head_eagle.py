"""An EAGLE-3-like head: one decoder layer over the target's fused features, unrolled on its own (Li et al., 2025).

    g_i = fuse [norm(f_low), norm(f_mid), norm(f_last)]     of the target's row i
    a   = g + attention([norm(embed(token)), norm(g)]);  a' = a + mlp(norm(a));  logits = lm_head(norm(a') * c)

Further positions take a' in place of g (training-time test): they attend to the target's rows up to the anchor, and to
their own rows after it. A serving form keeps keys and values of every verified row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.head_attention import HEAD_DIM, FusedHead, Mlp, attended, by_head, rotated, small
from bench.head_batch import HeadBatch, rows_at
from bowsprit_engine.training.head import TargetRows, norm


class EagleHead(FusedHead):
    """One layer, asked again for every drafted token."""

    def __init__(
        self,
        target: TargetRows,
        embedding: Tensor,  # [vocabulary, D]
        *,
        intermediate_size: int,
        eps: float,
        kv_heads: int = 3,
        window: int | None = None,
    ) -> None:
        super().__init__(target, embedding, eps=eps, window=window)
        d = target.final_norm.numel()
        self.heads, self.kv_heads = d // HEAD_DIM, kv_heads
        self.state_scale = nn.Parameter(torch.ones(d))
        self.token_scale = nn.Parameter(torch.ones(d))
        self.qkv = small((self.heads + 2 * kv_heads) * HEAD_DIM, 2 * d)
        self.out = small(d, self.heads * HEAD_DIM, gain=0.1)
        self.mlp_scale = nn.Parameter(torch.ones(d))
        self.mlp = Mlp(d, intermediate_size)

    def projected(
        self,
        states: Tensor,  # [..., D]
        token_ids: Tensor,  # [...]
        places: Tensor,  # [...]
    ) -> tuple[Tensor, Tensor, Tensor]:  # queries, keys and values, [..., heads or kv_heads, HEAD_DIM]
        """Of rows whose next token is known."""
        token = norm(self.embedding[token_ids], self.eps) * self.token_scale
        pair = torch.cat([token, norm(states, self.eps) * self.state_scale], dim=-1)
        heads = by_head(functional.linear(pair, self.qkv))
        queries, keys, values = heads.tensor_split((self.heads, self.heads + self.kv_heads), dim=-2)
        return rotated(queries, places), rotated(keys, places), values

    def states(self, batch: HeadBatch, num_positions: int) -> list[Tensor]:  # of [B, R, D]
        """What each draft position's logits are made of."""
        fused = self.fused(batch.features)
        b, t = fused.shape[:2]
        everywhere = torch.arange(t).expand(b, t)
        queries, keys, values = self.projected(fused, batch.tokens[:, 1:], everywhere)
        is_seen = self.seen_from(batch, everywhere)
        state, queries = rows_at(fused, batch.anchors), rows_at(queries, batch.anchors)
        own_keys = keys.new_zeros(b, batch.anchors.shape[1], 0, self.kv_heads, HEAD_DIM)
        own_values = own_keys
        found: list[Tensor] = []
        for position in range(num_positions):
            if position:
                queries, key, value = self.projected(state, batch.fed_tokens(position), batch.anchors + position)
                own_keys = torch.cat([own_keys, key[:, :, None]], dim=2)
                own_values = torch.cat([own_values, value[:, :, None]], dim=2)
            mixed = attended(queries[:, :, None], (keys, values), is_seen, (own_keys, own_values))
            state = self.layer(state, mixed[:, :, 0])
            found.append(state)
        return found

    def layer(self, state: Tensor, mixed: Tensor) -> Tensor:
        """The decoder layer from its attention's result on."""
        state = state + functional.linear(mixed, self.out)
        added: Tensor = self.mlp(norm(state, self.eps) * self.mlp_scale)
        return state + added
