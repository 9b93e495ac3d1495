"""In which order requests are learned from, and which of them share a step of the optimizer.

Decides chance and sizes. Requests whose states are on a disk are asked for in an order that no disk likes, so each is
announced READ_AHEAD requests before its turn: the disk works while others are computed with. Refuses to know losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bowsprit_engine.training.data import RequestRows

READ_AHEAD = 64  # requests: some 7,000 rows of chat, a few seconds of training


def batches_per_epoch(requests: Sequence[RequestRows], *, rows_per_batch: int) -> int:
    """How many steps see every request once, give or take a few: another order makes other batches.

    Whole requests make a batch longer than `rows_per_batch`: of 110 tokens each, 256 rows are 330.
    """
    rows = full = 0
    for request in requests:
        rows += len(request.token_ids)
        if rows >= rows_per_batch:
            rows, full = 0, full + 1
    return max(1, full + round(rows / rows_per_batch))


def batches(
    requests: Sequence[RequestRows], *, rows_per_batch: int, steps: int, generator: torch.Generator
) -> Iterator[list[RequestRows]]:
    """`steps` batches of whole requests, of at least `rows_per_batch` rows where there are as many."""
    least = min(rows_per_batch, sum(len(request.token_ids) for request in requests))
    done = rows = 0
    batch: list[RequestRows] = []
    for request in _announced(requests, generator):
        batch.append(request)
        rows += len(request.token_ids)
        if rows >= least:
            yield batch
            batch, rows, done = [], 0, done + 1
            if done == steps:
                return


def _announced(requests: Sequence[RequestRows], generator: torch.Generator) -> Iterator[RequestRows]:
    """In a new order every epoch, without end."""
    while True:
        order = torch.randperm(len(requests), generator=generator).tolist()
        for index in order[:READ_AHEAD]:
            requests[index].will_read()
        for place, index in enumerate(order):
            for ahead in order[place + READ_AHEAD : place + READ_AHEAD + 1]:
                requests[ahead].will_read()
            yield requests[index]
