"""The keyed noise of chosen tokens, quick for a handful of them: numpy, where torch's overhead per operator would cost
more than the draft.

`kernels/reference.py` defines it; this computes the same bits for the few candidates that a stochastic drafter weighs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bowsprit_engine.kernels.reference import (
    MASK_32,
    PHILOX_KEY_A,
    PHILOX_KEY_B,
    PHILOX_ROUND_A,
    PHILOX_ROUND_B,
    PHILOX_ROUNDS,
)

_SHIFT = np.uint64(32)
_MASK = np.uint64(MASK_32)
_ROUND_A, _ROUND_B = np.uint64(PHILOX_ROUND_A), np.uint64(PHILOX_ROUND_B)


def gumbel_of(
    *,
    seeds: Sequence[int],
    positions: Sequence[int],
    token_ids: NDArray[np.int64],  # [n, candidates]
) -> NDArray[np.float32]:  # [n, candidates]
    """Gumbel noise of each candidate of row i, keyed by (seeds[i], token id, positions[i])."""
    words = _philox(seeds=seeds, positions=positions, token_ids=token_ids.astype(np.uint64))
    uniform = ((words >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    noise: NDArray[np.float32] = -np.log(-np.log(uniform))
    return noise


def _philox(
    *, seeds: Sequence[int], positions: Sequence[int], token_ids: NDArray[np.uint64]
) -> NDArray[np.uint64]:  # [n, candidates], the first output word
    key_a = np.array([[seed & MASK_32] for seed in seeds], dtype=np.uint64)
    key_b = np.array([[(seed >> 32) & MASK_32] for seed in seeds], dtype=np.uint64)
    c0, c1 = token_ids, np.array([[position & MASK_32] for position in positions], dtype=np.uint64)
    c2 = c3 = np.zeros((1, 1), dtype=np.uint64)
    for round_number in range(PHILOX_ROUNDS):
        product_a, product_b = c0 * _ROUND_A, c2 * _ROUND_B
        round_a = (key_a + np.uint64(round_number * PHILOX_KEY_A)) & _MASK
        round_b = (key_b + np.uint64(round_number * PHILOX_KEY_B)) & _MASK
        c0, c1, c2, c3 = (
            (product_b >> _SHIFT) ^ c1 ^ round_a,
            product_b & _MASK,
            (product_a >> _SHIFT) ^ c3 ^ round_b,
            product_a & _MASK,
        )
    return c0
