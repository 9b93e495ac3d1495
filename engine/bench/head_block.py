"""A block-parallel head, as DFlash and P-EAGLE: all positions of a draft in one pass of a few layers.

    g_i = fuse [norm(f_low), norm(f_mid), norm(f_last)];  x_j = g_i + token(norm(embed(t_{i+1}))) + slot_j
    layer: x = x + attention(x; keys and values of g_0..g_i and of the whole block);  x = x + mlp(norm(x))

The target's features are keys and values in every layer; the block's rows see each other in both directions. No
position knows which token the one before it became: at temperature > 0 each is drawn by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.head_attention import HEAD_DIM, FusedHead, Mlp, attended, by_head, rotated, small
from bench.head_batch import HeadBatch, rows_at
from bowsprit_engine.training.head import TargetRows, norm


class BlockLayer(nn.Module):
    """Attention of a block to itself and to the target's features, and an MLP."""

    def __init__(self, hidden_size: int, intermediate_size: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = hidden_size // HEAD_DIM, kv_heads
        self.scale = nn.Parameter(torch.ones(hidden_size))
        self.mlp_scale = nn.Parameter(torch.ones(hidden_size))
        self.query = small(hidden_size, hidden_size)
        self.key_value = small(2 * kv_heads * HEAD_DIM, hidden_size)
        self.out = small(hidden_size, hidden_size, gain=0.1)
        self.mlp = Mlp(hidden_size, intermediate_size)

    def keys_values(self, normed: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] to two of [..., kv_heads, HEAD_DIM]."""
        keys, values = by_head(functional.linear(normed, self.key_value)).chunk(2, dim=-2)
        return rotated(keys, places), values

    def forward(
        self,
        block: Tensor,  # [B, R, K, D]
        context: tuple[Tensor, Tensor],  # [B, T, kv_heads, HEAD_DIM]
        is_seen: Tensor,  # [B, R, T]
        places: Tensor,  # [B, R, K]
        eps: float,
    ) -> Tensor:  # [B, R, K, D]
        """One layer."""
        normed = norm(block, eps) * self.scale
        queries = rotated(by_head(functional.linear(normed, self.query)), places)
        mixed = attended(queries, context, is_seen, self.keys_values(normed, places))
        block = block + functional.linear(mixed, self.out)
        added: Tensor = self.mlp(norm(block, eps) * self.mlp_scale)
        return block + added


class BlockHead(FusedHead):
    """`block`: positions of a draft, fixed when trained."""

    def __init__(
        self,
        target: TargetRows,
        embedding: Tensor,  # [vocabulary, D]
        *,
        intermediate_size: int,
        eps: float,
        block: int,
        num_layers: int = 2,
        kv_heads: int = 3,
        window: int | None = None,
    ) -> None:
        super().__init__(target, embedding, eps=eps, window=window)
        d = target.final_norm.numel()
        self.token = small(d, d, gain=0.1)
        self.slots = nn.Parameter(torch.randn(block, d) * 0.1)
        self.context_scale = nn.Parameter(torch.ones(d))
        self.layers = nn.ModuleList(BlockLayer(d, intermediate_size, kv_heads) for _ in range(num_layers))

    @property
    def block(self) -> int:
        return len(self.slots)

    def begun(self, fused: Tensor, token_ids: Tensor) -> Tensor:  # [..., D] and [...] to [..., K, D]
        """x before the first layer."""
        token = functional.linear(norm(self.embedding[token_ids], self.eps), self.token)
        return (fused + token)[..., None, :] + self.slots

    def states(self, batch: HeadBatch, num_positions: int) -> list[Tensor]:  # of [B, R, D]
        """As many positions as are asked for and the block has."""
        fused = self.fused(batch.features)
        b, t = fused.shape[:2]
        everywhere = torch.arange(t).expand(b, t)
        is_seen = self.seen_from(batch, everywhere)
        context = norm(fused, self.eps) * self.context_scale
        block = self.begun(rows_at(fused, batch.anchors), batch.fed_tokens(0))
        places = batch.anchors[:, :, None] + 1 + torch.arange(self.block)
        for layer in self.layers:
            assert isinstance(layer, BlockLayer)
            block = layer(block, layer.keys_values(context, everywhere), is_seen, places, self.eps)
        return list(block.unbind(dim=2))[:num_positions]
