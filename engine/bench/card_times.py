"""What a step takes on a card, as `make gpu-check` measured it there: replays are priced by it where no card is.

NVIDIA H200, 2026-11-27, Llama 3.1 8B's shape in bfloat16, context 1,024, torch 2.11, Triton 3.6; the host's part of a
step is in it. Decides how it is read between and beyond what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bowsprit_engine.speculation.costs import batch_bucket

NAME = "an NVIDIA H200, an 8B model"
# By sequences: steps of 1, 2, … 16 rows of each.
MILLISECONDS: Mapping[int, tuple[float, ...]] = {
    1: (4.92, 4.95, 5.05, 4.99, 5.05, 5.07, 5.09, 5.04, 5.20, 5.21, 5.20, 5.19, 5.22, 5.20, 5.21, 5.17),
    2: (4.94, 5.06, 5.04, 5.10, 5.19, 5.15, 5.22, 5.18, 5.34, 5.32, 5.33, 5.30, 5.41, 5.43, 5.43, 5.37),
    4: (5.06, 5.14, 5.12, 5.20, 5.37, 5.35, 5.45, 5.44, 5.84, 5.83, 5.83, 5.82, 6.07, 6.04, 6.06, 6.03),
    8: (5.20, 5.28, 5.38, 5.48, 5.93, 5.91, 6.16, 6.16, 7.11, 7.17, 7.21, 7.16, 7.59, 7.62, 7.64, 7.72),
    16: (5.74, 5.92, 6.30, 6.55, 7.47, 7.46, 8.02, 7.93, 10.67, 10.67, 10.62, 10.62, 11.12, 11.14, 11.26, 11.34),
    32: (6.57, 7.24, 8.21, 8.65, 10.92, 10.86, 11.41, 11.53, 17.32, 17.37, 17.59, 17.52, 18.70, 19.19, 19.13, 19.16),
}


def card(batch: int, rows: int) -> float:
    """Seconds of a step; a batch between two that were measured is priced as the larger one.

    Beyond 16 rows a sequence it is a step of as many rows of more sequences. Raises ValueError beyond 32 sequences and
    512 rows.
    """
    bucket = batch_bucket(batch)
    while bucket in MILLISECONDS and rows > bucket * len(MILLISECONDS[bucket]):
        bucket *= 2
    if bucket not in MILLISECONDS:
        raise ValueError(f"a step of {batch} sequences and {rows} rows: at most 32 and 512 were measured on {NAME}")
    known = MILLISECONDS[bucket]
    return 1e-3 * float(np.interp(rows, [bucket * n for n in range(1, len(known) + 1)], known))
