"""A trained head's drafts by the native kernels: contexts in, one call for all of them, drafts out.

Decides what C++ is told of a context. The arithmetic is native/head.cpp's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from bowsprit_engine.kernels.native_head import HeadRow, HeadWeights, NativeHead
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.training.head import RecurrentHead


class HeadInCpp:
    """A `HeadArithmetic` on the CPU. All tokens compete at temperature > 0."""

    def __init__(self, head: RecurrentHead, draft_token_ids: Tensor, *, embed: Callable[[Tensor], Tensor]) -> None:
        self._embed = embed
        self._table_rows = {token: row for row, token in enumerate(draft_token_ids.tolist())}
        self._native = NativeHead(
            HeadWeights(
                token_up=head.token_up,
                state_up=head.state_up,
                down=head.down,
                lm_head=head.lm_head,
                token_scale=head.token_scale,
                state_scale=head.state_scale,
                output_scale=head.output_scale,
                token_table=head.token_part(embed(draft_token_ids)),
                token_ids=draft_token_ids,
                rms_norm_eps=head.shape.rms_norm_eps,
            )
        )

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        return self._native.num_bytes

    def draft(self, contexts: Sequence[DraftContext], *, confidence_temperature: float) -> list[Draft]:
        drafted = self._native.draft(
            [self._row(context) for context in contexts], confidence_temperature=confidence_temperature
        )
        return [Draft(token_ids=tuple(tokens), confidences=tuple(sure)) for tokens, sure in drafted]

    def _row(self, context: DraftContext) -> HeadRow:
        last_token = context.token_ids[-1]
        table_row = self._table_rows.get(last_token)
        hidden = cast("Tensor", context.hidden)
        return HeadRow(
            hidden=hidden.to(device="cpu", dtype=torch.float32).contiguous(),
            embedding=self._embed(torch.tensor([last_token]))[0] if table_row is None else None,
            table_row=0 if table_row is None else table_row,
            num_tokens=context.max_draft_tokens,
            temperature=context.temperature,
            seed=context.seed,
            position=len(context.token_ids),
        )
