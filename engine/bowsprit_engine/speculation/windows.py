"""How many of its drafted tokens each sequence may have verified: a step's rows, shared among sequences by their gain.

Decides by survival probabilities and the step-time curve alone: of all drafted tokens the likeliest n are verified, for
the n with the most tokens per second. The curve has steps, so every n is looked at (never hill-climbed). Pure;
refuses to know who drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def windows(
    survivals: Sequence[Sequence[float]],  # per sequence: P(tokens 0..i all match), falling with i
    curve: Sequence[float],  # seconds of a step with 0, 1, 2, … of these tokens as rows; noisy
    *,
    sure_tokens: float,  # what the step emits anyway: one per sequence, and drafts that aren't up for choice
) -> list[int]:
    """Tokens per sequence. Rows beyond the end of the curve aren't drafted.

    A measured curve that falls is noise, so each n costs at least what fewer rows cost.
    """
    ranked = sorted(
        (-survival, position, index)
        for index, of_sequence in enumerate(survivals)
        for position, survival in enumerate(accumulate(of_sequence, min))
    )[: max(0, len(curve) - 1)]
    seconds = list(accumulate(curve, max))
    expected, best, num_best = sure_tokens, sure_tokens / seconds[0] if seconds else 0.0, 0
    for n, (negative_survival, _, _) in enumerate(ranked, start=1):
        expected -= negative_survival
        if expected / seconds[n] > best:
            best, num_best = expected / seconds[n], n
    lengths = [0] * len(survivals)
    for _, _, index in ranked[:num_best]:
        lengths[index] += 1
    return lengths
