"""Random weights for a given shape (`load_format="dummy"`): a checkpoint that needs no weight files.

The same seed, config and kind of device give the same tensors. Used to measure speed and to test without a download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.models.checkpoint import tensor_shapes

STANDARD_DEVIATION = 0.04
CPU = torch.device("cpu")


class RandomCheckpoint:
    """A `Checkpoint` of normally distributed weights; norms are near 1, so that activations stay in range."""

    def __init__(self, path: Path, config: ModelConfig, *, seed: int = 0, device: torch.device = CPU) -> None:
        """`device`: where tensors are drawn; eight billion weights take a minute on a CPU and a second on a GPU."""
        self.path = path
        self.config = config
        self._seed, self._device = seed, device
        self._shapes = tensor_shapes(config)

    def names(self) -> Collection[str]:
        return self._shapes.keys()

    def tensor(self, name: str) -> Tensor:
        """Each tensor has a generator of its own, so that the order of reading doesn't matter."""
        digest = hashlib.sha256(f"{self._seed}:{name}".encode()).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(digest[:7], "little"))
        values = torch.randn(self._shapes[name], generator=generator, device=self._device) * STANDARD_DEVIATION
        return values + 1.0 if "norm" in name else values
