"""How much faster than without drafts, from the live step times: a gauge for people, and no input of any decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bowsprit_policy.wire import StepCell

LEAST_STEPS = 8  # K=0 steps of a bucket, fewer say nothing


def estimated_speedups(cells: Iterable[StepCell]) -> Mapping[int, float]:
    """By batch bucket: seconds that its tokens would have taken in steps without drafts, over those that they took.

    The steps without drafts are the measured ones of the same batch and context (rows = batch); too few give no figure.
    """
    known = [cell for cell in cells if cell.steps and cell.tokens]
    plain = {
        (cell.batch, cell.context): cell.seconds / cell.tokens
        for cell in known
        if cell.rows == cell.batch and cell.steps >= LEAST_STEPS
    }
    spent: dict[int, float] = {}
    without: dict[int, float] = {}
    for cell in known:
        seconds_per_token = plain.get((cell.batch, cell.context))
        if seconds_per_token is not None:
            spent[cell.batch] = spent.get(cell.batch, 0.0) + cell.seconds
            without[cell.batch] = without.get(cell.batch, 0.0) + cell.tokens * seconds_per_token
    return {batch: without[batch] / seconds for batch, seconds in spent.items() if seconds > 0}
