"""Several documents as one padded batch, and what is asked of a head at every place of an answer.

Words: an `anchor` is a row of the target (place i of a document) from which a draft begins: token i + 1 is emitted
already, the draft's position j stands for token i + 2 + j. In training and judging emitted tokens are fed (teacher
forcing): a position counts only where all before it matched, and there the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.head_states import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadBatch:
    """Padded with zeros at the end. B documents, T the longest, R the most anchors."""

    tokens: Tensor  # [B, T] int64
    features: Tensor  # [B, T - 1, 3, D] float32
    lengths: Tensor  # [B] int64
    anchors: Tensor  # [B, R] int64, places of rows; 0 where there is none
    is_anchor: Tensor  # [B, R] bool

    def drafted_places(self, position: int) -> Tensor:  # [B, R] int64
        """Where the token of a draft position is, the last place of the batch beyond the end."""
        return (self.anchors + 2 + position).clamp(max=self.tokens.shape[1] - 1)

    def is_drafted(self, position: int) -> Tensor:  # [B, R] bool
        """Whether the document goes on as far as that."""
        return self.is_anchor & (self.anchors + 2 + position < self.lengths[:, None])

    def fed_tokens(self, position: int) -> Tensor:  # [B, R] int64
        """The token before a draft position."""
        return self.tokens.gather(1, (self.anchors + 1 + position).clamp(max=self.tokens.shape[1] - 1))


def batch_of(documents: Sequence[Document]) -> HeadBatch:
    """Every row of every answer is an anchor, but for the answer's first token, which no draft can be."""
    counts = [document.num_answer - 1 for document in documents]
    anchors = [torch.arange(d.num_prompt - 1, d.num_prompt - 1 + n) for d, n in zip(documents, counts, strict=True)]
    return HeadBatch(
        tokens=pad_sequence([document.tokens for document in documents], batch_first=True),
        features=pad_sequence([document.features.float() for document in documents], batch_first=True),
        lengths=torch.tensor([len(document.tokens) for document in documents]),
        anchors=pad_sequence(anchors, batch_first=True),
        is_anchor=pad_sequence([torch.ones(n, dtype=torch.bool) for n in counts], batch_first=True),
    )


def rows_at(
    values: Tensor,  # [B, T, ...]
    places: Tensor,  # [B, R] int64
) -> Tensor:  # [B, R, ...]
    """Each document's own rows."""
    return values[torch.arange(len(places))[:, None], places]
