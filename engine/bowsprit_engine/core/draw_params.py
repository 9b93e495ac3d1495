"""What a keyed draw depends on beside logits, as the tensors that kernels/reference.draw and its kin take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bowsprit_engine.kernels import reference


class DrawParams(Protocol):
    """What a keyed draw depends on, but for logits and position: a request's, as the target and its drafters see it."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfiltered:
    """A draw among all tokens."""

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def draw_tensors(
    params: Sequence[DrawParams], positions: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Per row: temperature, top_k, top_p, min_p, seed (its 64 bits as int64), position of the drawn token."""
    return (
        torch.tensor([p.temperature for p in params], dtype=torch.float32),
        torch.tensor([p.top_k for p in params], dtype=torch.int32),
        torch.tensor([p.top_p for p in params], dtype=torch.float32),
        torch.tensor([p.min_p for p in params], dtype=torch.float32),
        torch.tensor([reference.as_int64(p.seed) for p in params], dtype=torch.int64),
        torch.tensor(positions, dtype=torch.int64),
    )
