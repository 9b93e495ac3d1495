"""A trained head's drafts by torch's operators, on any device: the definition of what the native kernels compute.

Decides how a draft is drawn where noise for the whole vocabulary would cost more than the draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.keyed_noise import gumbel_of
from bowsprit_engine.training.head import RecurrentHead, norm

Linear = Callable[[Tensor], Tensor]  # [n, K] to [n, N], by a weight [N, K]

NOISY_CANDIDATES = 64  # at temperature > 0 the most likely draft tokens compete; the rest hold next to no probability


def by_torch(
    weight: Tensor,  # [N, K] float32
) -> Linear:
    """x @ weight.T in float32."""
    return partial(functional.linear, weight=weight.contiguous())


class HeadInTorch:
    """A `HeadArithmetic`: learned scales folded into the matrices, the tokens' part a table."""

    def __init__(
        self,
        head: RecurrentHead,
        draft_token_ids: Tensor,
        *,
        embed: Callable[[Tensor], Tensor],  # [n] int64 to [n, D]
        vocab_size: int,
        linear: Callable[[Tensor], Linear] = by_torch,
    ) -> None:
        """On the device where the head is. `vocab_size`: the target's. `linear`: who multiplies with a weight."""
        self._embed, self._eps = embed, head.shape.rms_norm_eps
        self._draft_token_ids = draft_token_ids
        self._draft_index = torch.full((vocab_size,), -1, dtype=torch.int64, device=draft_token_ids.device)
        self._draft_index[draft_token_ids] = torch.arange(draft_token_ids.numel(), device=draft_token_ids.device)
        self._token_table = head.token_part(embed(draft_token_ids)).detach()  # [V, 2W]
        self._token_up = linear((head.token_up * head.token_scale).detach())  # D to 2W
        self._state_up = linear((head.state_up * head.state_scale).detach())  # D to 2W
        self._down = linear(head.down.detach().clone())  # W to D
        self._lm_head = linear((head.lm_head * head.output_scale).detach())  # D to V

    @torch.inference_mode()
    def draft(self, contexts: Sequence[DraftContext], *, confidence_temperature: float) -> list[Draft]:
        device = self._token_table.device
        last_tokens = torch.tensor([context.token_ids[-1] for context in contexts], device=device)
        hidden = torch.stack([cast("Tensor", context.hidden) for context in contexts]).to(device)
        state = norm(hidden, self._eps)
        token_part = self._token_part(last_tokens)
        steps: list[Tensor] = []
        sure: list[Tensor] = []
        for step in range(max(context.max_draft_tokens for context in contexts)):
            gate, up = (self._state_up(norm(state, self._eps)) + token_part).chunk(2, dim=-1)
            state = state + self._down(functional.silu(gate) * up)
            logits = self._lm_head(norm(state, self._eps))
            drawn, confidence = self._draw(logits, contexts, step, confidence_temperature)
            steps.append(self._draft_token_ids[drawn])
            sure.append(confidence)
            token_part = self._token_table[drawn]
        tokens, confidences = torch.stack(steps, dim=1).tolist(), torch.stack(sure, dim=1).tolist()
        return [
            Draft(token_ids=tuple(ids[: context.max_draft_tokens]), confidences=tuple(by[: context.max_draft_tokens]))
            for context, ids, by in zip(contexts, tokens, confidences, strict=True)
        ]

    def _token_part(self, token_ids: Tensor) -> Tensor:
        """From the table; computed where the last token isn't in the draft vocabulary."""
        indices = self._draft_index[token_ids]
        part = self._token_table[indices.clamp(min=0)]
        outside = (indices < 0).nonzero()[:, 0]
        if outside.numel():
            part[outside] = self._token_up(norm(self._embed(token_ids[outside]), self._eps))
        return part

    def _draw(
        self, logits: Tensor, contexts: Sequence[DraftContext], step: int, confidence_temperature: float
    ) -> tuple[Tensor, Tensor]:  # [n] draft indices, [n] confidences
        """argmax; with the keyed noise of the position being drafted where the temperature is above 0.

        Sure is who wins by far: the target draws with the same noise, so only its logits can differ. The winner's share
        is softmax of what was compared (logits + temperature * noise), which at temperature 0 is its probability.
        """
        drawn = logits.argmax(dim=-1)
        confidence = _share_of_best(logits, confidence_temperature)
        noisy = [index for index, context in enumerate(contexts) if context.temperature > 0]
        if not noisy:
            return drawn, confidence
        values, candidates = logits[noisy].topk(min(NOISY_CANDIDATES, logits.shape[-1]), dim=-1)
        temperatures = torch.tensor([contexts[index].temperature for index in noisy], device=logits.device)[:, None]
        noise = gumbel_of(
            seeds=[contexts[index].seed for index in noisy],
            positions=[len(contexts[index].token_ids) + step for index in noisy],
            token_ids=self._draft_token_ids[candidates].cpu().numpy(),
        )
        scores = values / temperatures + torch.from_numpy(noise).to(logits.device)
        drawn[noisy] = candidates.gather(1, scores.argmax(dim=-1, keepdim=True))[:, 0]
        confidence[noisy] = _share_of_best((scores * temperatures).to(logits.dtype), confidence_temperature)
        return drawn, confidence


def _share_of_best(scores: Tensor, temperature: float) -> Tensor:  # [n, V] -> [n]; 0 where scores aren't finite
    behind = scores - scores.amax(dim=-1, keepdim=True)
    return torch.nan_to_num(1 / (behind / temperature).exp().sum(dim=-1), nan=0.0)
