"""The recurrent head: an attention-free drafter that continues from the target's own hidden state.

Decides the arithmetic, shared by training and serving. Refuses to know files, traffic and requests.

    s_0     = norm(h)                    h: the target's row that emitted the last token, before its final norm
    s_{i+1} = s_i + down(silu(g) * u),  [g; u] = state_up(norm(s_i) * a) + token_up(norm(embed(token_i)) * b)
    logits  = lm_head[draft vocabulary] (norm(s_{i+1}) * c)

norm(x) = x / rms(x). a, b, c are learned scales; c starts as the target's final norm and lm_head stays the target's, so
an untrained head repeats the target's last distribution. State and token are normed apart, not as one vector (as Hydra
and ReDrafter do): the token's half then depends on the token alone and is a table look-up when serving. There are no
keys and values: nothing goes stale at K = 0, after a preemption or on a prefix hit (Zhang et al., "Recurrent Drafter",
2024; Ankner et al., "Hydra", 2024).

Words: D hidden size of the target, W intermediate size, V draft vocabulary; a `draft index` counts in the latter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """What fixes the size of every tensor of a head."""

    hidden_size: int
    intermediate_size: int
    rms_norm_eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRows:
    """What a head borrows from its target and never trains or stores."""

    draft_token_ids: Tensor  # [V] int64, ascending target ids of the draft vocabulary
    lm_head: Tensor  # [V, D] float32, the target's LM head rows of those
    final_norm: Tensor  # [D] float32


def norm(
    x: Tensor,  # [n, D]
    eps: float,
) -> Tensor:  # [n, D]
    """x / rms(x), without a learned scale."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


class RecurrentHead(nn.Module):
    """The head's weights and its two operations, `advance` and `logits`."""

    def __init__(self, shape: HeadShape, target: TargetRows) -> None:
        super().__init__()
        d, w = shape.hidden_size, shape.intermediate_size
        self.shape = shape
        self.state_scale = nn.Parameter(torch.ones(d))
        self.token_scale = nn.Parameter(torch.ones(d))
        self.output_scale = nn.Parameter(target.final_norm.clone())
        self.state_up = nn.Parameter(torch.randn(2 * w, d) * d**-0.5)
        self.token_up = nn.Parameter(torch.randn(2 * w, d) * d**-0.5)
        self.down = nn.Parameter(torch.randn(d, w) * (0.1 * w**-0.5))
        self.register_buffer("lm_head", target.lm_head, persistent=False)
        self.lm_head: Tensor

    def start(
        self,
        hidden: Tensor,  # [n, D], inputs of the target's final norm
    ) -> Tensor:  # [n, D] states
        """s_0."""
        return norm(hidden, self.shape.rms_norm_eps)

    def token_part(
        self,
        embeddings: Tensor,  # [n, D]
    ) -> Tensor:  # [n, 2W]
        """What a token adds to the MLP's gate and up halves."""
        return functional.linear(norm(embeddings, self.shape.rms_norm_eps) * self.token_scale, self.token_up)

    def advance(
        self,
        state: Tensor,  # [n, D]
        token_part: Tensor,  # [n, 2W]
    ) -> Tensor:  # [n, D]
        """s_{i+1} from s_i and the token that was emitted from s_i."""
        scaled = norm(state, self.shape.rms_norm_eps) * self.state_scale
        gate, up = (functional.linear(scaled, self.state_up) + token_part).chunk(2, dim=-1)
        return state + functional.linear(functional.silu(gate) * up, self.down)

    def output(
        self,
        state: Tensor,  # [n, D]
    ) -> Tensor:  # [n, D]
        """What the LM head reads."""
        return norm(state, self.shape.rms_norm_eps) * self.output_scale

    def logits(
        self,
        state: Tensor,  # [n, D]
    ) -> Tensor:  # [n, V]
        """Logits over the draft vocabulary."""
        return functional.linear(self.output(state), self.lm_head)


def target_logits(
    hidden: Tensor,  # [n, D], inputs of the final norm
    target: TargetRows,
    eps: float,
) -> Tensor:  # [n, V]
    """The target's own logits at these rows, restricted to the draft vocabulary."""
    return functional.linear(norm(hidden, eps) * target.final_norm, target.lm_head)
