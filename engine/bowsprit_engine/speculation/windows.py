"""How many of its drafted tokens each sequence may have verified: a step's rows, shared among sequences by their gain.

Decides by survival probabilities and the step-time curve alone: of all drafted tokens the likeliest n are verified, for
the n with the most tokens per second. The curve has steps, so every n is looked at (never hill-climbed). Pure;
refuses to know who drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter

ROWS_PRICED = 4  # drafted rows of each sequence, among which the price of one is found


def windows(
    survivals: Sequence[Sequence[float]],  # per sequence: P(tokens 0..i all match), falling with i
    curve: Sequence[float],  # seconds of a step with 0, 1, 2, … of these tokens as rows; noisy
    *,
    sure_tokens: float,  # what the step emits anyway: one per sequence, and drafts that aren't up for choice
) -> list[int]:
    """Tokens per sequence. Rows beyond the end of the curve aren't drafted.

    A measured curve that falls is noise, so each n costs at least what fewer rows cost.
    """
    rows = [list(accumulate(of_sequence, min)) for of_sequence in survivals]
    longest = max(map(len, rows), default=0)
    # By position, then by sequence: a stable sort keeps that order among equals.
    flat = [(row[at], index) for at in range(longest) for index, row in enumerate(rows) if at < len(row)]
    flat.sort(key=itemgetter(0), reverse=True)
    del flat[max(0, len(curve) - 1) :]
    expected, best, num_best = sure_tokens, sure_tokens / curve[0] if curve else 0.0, 0
    seconds = accumulate(curve, max)
    next(seconds, None)
    for n, ((survival, _), at_least) in enumerate(zip(flat, seconds, strict=False), start=1):
        expected += survival
        if expected / at_least > best:
            best, num_best = expected / at_least, n
    lengths = [0] * len(rows)
    for _, index in flat[:num_best]:
        lengths[index] += 1
    return lengths


def row_share(curve: Sequence[float], *, batch: int) -> float:
    """Of a step without drafts, what one row more takes where rows are taken as many at once as are cheapest.

    At least one for each of `batch` sequences, and at most as many as the curve has: it has steps, of which a single
    row may be on the flat. 0 where it is unknown. `curve`: seconds with 0, 1, 2, … drafted rows; noisy.
    """
    shares = [(seconds / curve[0] - 1.0) / n for n, seconds in enumerate(curve) if n >= batch]
    return max(0.0, min(shares, default=0.0))
