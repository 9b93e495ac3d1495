"""What the compared heads with attention share: what they begin from, rotated queries and keys, two sets of keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.head_batch import HeadBatch
from bench.head_states import NUM_LAYERS_KEPT
from bowsprit_engine.training.head import TargetRows, norm

HEAD_DIM = 64
ROPE_THETA = 10_000.0


class FusedHead(nn.Module):
    """A head that begins from the target's states of three layers and attends to earlier rows of them.

    `fuse` begins as the last layer's state, so an untrained head repeats the target's last distribution. `window`:
    verified rows that are attended to, None for all.
    """

    def __init__(
        self,
        target: TargetRows,
        embedding: Tensor,  # [vocabulary, D]
        *,
        eps: float,
        window: int | None,
    ) -> None:
        super().__init__()
        d = target.final_norm.numel()
        self.eps, self.window = eps, window
        self.fuse = nn.Parameter(
            torch.cat([torch.zeros(d, d * (NUM_LAYERS_KEPT - 1)), torch.eye(d)], dim=1).contiguous()
        )
        self.output_scale = nn.Parameter(target.final_norm.clone())
        self.register_buffer("lm_head", target.lm_head, persistent=False)
        self.register_buffer("embedding", embedding, persistent=False)
        self.lm_head: Tensor
        self.embedding: Tensor

    def fused(
        self,
        features: Tensor,  # [..., 3, D]
    ) -> Tensor:  # [..., D]
        """g."""
        return functional.linear(norm(features, self.eps).flatten(-2), self.fuse)

    def seen_from(
        self,
        batch: HeadBatch,
        everywhere: Tensor,  # [B, T] places of the rows
    ) -> Tensor:  # [B, R, T] bool
        """Which verified rows each anchor attends to."""
        is_seen = everywhere[:, None, :] <= batch.anchors[:, :, None]
        if self.window is None:
            return is_seen
        return is_seen & (everywhere[:, None, :] > batch.anchors[:, :, None] - self.window)

    def logits(self, state: Tensor) -> Tensor:
        """Over the draft vocabulary."""
        return functional.linear(norm(state, self.eps) * self.output_scale, self.lm_head)


def rotated(
    x: Tensor,  # [..., heads, HEAD_DIM]
    places: Tensor,  # [...] int64
) -> Tensor:
    """Rotary embedding, halves paired as in Llama."""
    frequencies = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = places[..., None, None].float() * frequencies  # [..., 1, HEAD_DIM / 2]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def attended(
    queries: Tensor,  # [B, R, Q, heads, HEAD_DIM], Q of each anchor
    context: tuple[Tensor, Tensor],  # keys and values, [B, T, kv_heads, HEAD_DIM]
    is_seen: Tensor,  # [B, R, T] bool
    own: tuple[Tensor, Tensor],  # each anchor's own keys and values, [B, R, S, kv_heads, HEAD_DIM]
) -> Tensor:  # [B, R, Q, heads * HEAD_DIM]
    """Softmax over the context's keys that an anchor sees and all of its own."""
    keys, values = context
    own_keys, own_values = own
    b, r, q, heads, _ = queries.shape
    kv_heads = keys.shape[2]
    grouped = queries.view(b, r, q, kv_heads, heads // kv_heads, HEAD_DIM) * HEAD_DIM**-0.5
    to_context = torch.einsum("brqkgd,btkd->brqkgt", grouped, keys)
    to_context = to_context.masked_fill(~is_seen[:, :, None, None, None, :], -math.inf)
    to_own = torch.einsum("brqkgd,brskd->brqkgs", grouped, own_keys)
    shares = functional.softmax(torch.cat([to_context, to_own], dim=-1), dim=-1)
    context_shares, own_shares = shares[..., : keys.shape[1]], shares[..., keys.shape[1] :]
    mixed = torch.einsum("brqkgt,btkd->brqkgd", context_shares, values)
    mixed = mixed + torch.einsum("brqkgs,brskd->brqkgd", own_shares, own_values)
    return mixed.reshape(b, r, q, heads * HEAD_DIM)


def small(rows: int, columns: int, *, gain: float = 1.0) -> nn.Parameter:
    """A matrix that keeps its input's scale, times `gain`."""
    return nn.Parameter(torch.randn(rows, columns) * (gain * columns**-0.5))


class Mlp(nn.Module):
    """down(silu(gate) * up), nearly zero at first."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = small(2 * intermediate_size, hidden_size)
        self.down = small(hidden_size, intermediate_size, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = functional.linear(x, self.gate_up).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, self.down)


def by_head(
    x: Tensor,  # [..., heads * HEAD_DIM]
) -> Tensor:  # [..., heads, HEAD_DIM]
    """One row of numbers per attention head."""
    return x.reshape(*x.shape[:-1], -1, HEAD_DIM)
