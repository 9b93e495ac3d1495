"""The loss of a batch of requests: the unrolled draft positions, all rows of a request at once.

Decides how rows of several requests stand in one batch and which of them teach what. Refuses to know the optimizer, the
order of requests, and how a distribution is taught (objective.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bowsprit_engine.training.data import RequestRows
from bowsprit_engine.training.head import RecurrentHead
from bowsprit_engine.training.objective import FrozenOutput

NOT_DRAFTED = -1
ROWS_MULTIPLE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """`unroll`: draft positions trained. `decay`: the weight of each relative to the one before it, since a position
    counts only where all before it matched.
    """

    unroll: int = 4
    decay: float = 0.8
    emitted: float = 0.5  # share of the emitted token in what is taught; the rest is the target's distribution
    state: float = 0.1  # weight of the distance between a state and the target's own next state


def batch_loss(
    head: RecurrentHead,
    batch: Sequence[RequestRows],
    *,
    taught: FrozenOutput,
    embed: Callable[[Tensor], Tensor],
    draft_index: Callable[[Tensor], Tensor],
    weights: LossWeights,
) -> Tensor:  # scalar
    """Mean loss over the unrolled positions; emitted tokens are fed (teacher forcing), as they are at verification.

    A row stands for the token that it emitted; its draft at `position` is judged by the row `position + 1` further on.
    """
    hidden, token_ids, ends = _joined(batch)
    num_rows, places = len(token_ids), torch.arange(len(token_ids))
    true_states = head.start(hidden)
    emitted = draft_index(token_ids)  # [rows]
    directions = taught.directions(hidden, emitted, emitted_weight=weights.emitted)  # [rows, D]
    token_part = head.token_part(embed(token_ids))  # [rows, 2W]

    state = true_states
    total = torch.zeros(())
    weight_sum = 0.0
    for position in range(weights.unroll):
        ahead = position + 1
        state = head.advance(state[: num_rows - ahead], token_part[position : num_rows - 1])
        is_inside = places[ahead:] < ends[: num_rows - ahead]
        if not is_inside.any():
            break
        weight = weights.decay**position
        weight_sum += weight
        distance = functional.smooth_l1_loss(state, true_states[ahead:], beta=1.0, reduction="none").mean(dim=-1)
        scale = weight * weights.state * state.shape[-1] ** 0.5
        total = total + scale * (distance @ _shares(is_inside))
        # A token outside the draft vocabulary can't be drafted: such a row teaches the state only.
        rows, shares = _selected(is_inside & (emitted[ahead:] != NOT_DRAFTED))
        total = total + weight * taught.loss(head.output(state[rows]), directions[ahead:][rows], shares)
    return total / max(weight_sum, 1e-9)


def _joined(batch: Sequence[RequestRows]) -> tuple[Tensor, Tensor, Tensor]:
    """States [rows, D], tokens [rows] and one past the last row of each row's request [rows].

    Rows that belong to no request (their end is 0) fill up to a multiple: for every number of rows that it hasn't seen
    the library compiles its products anew, which took as long as computing them.
    """
    lengths = torch.tensor([len(request.token_ids) for request in batch])
    num_rows = int(lengths.sum())
    filling = -num_rows % ROWS_MULTIPLE
    hidden = torch.cat([request.hidden for request in batch]).to(torch.float32)
    ends = torch.repeat_interleave(lengths.cumsum(0), lengths)
    return (
        functional.pad(hidden, (0, 0, 0, filling)),
        functional.pad(torch.cat([request.token_ids for request in batch]), (0, filling)),
        functional.pad(ends, (0, filling)),
    )


def _selected(rows: Tensor) -> tuple[Tensor, Tensor]:  # [n] bool to [m] int64, [m] float32
    """Places of the marked rows and each one's share of a mean over them; filled up by first rows of no share."""
    places = rows.nonzero()[:, 0]
    filling = -len(places) % ROWS_MULTIPLE
    shares = torch.full((len(places),), 1 / max(1, len(places)))
    return functional.pad(places, (0, filling)), functional.pad(shares, (0, filling))


def _shares(rows: Tensor) -> Tensor:  # [n] bool to [n] float32
    """Each marked row's share of a mean over them; all 0 where none is marked."""
    return rows.float() / max(1, int(rows.sum()))


def index_of_tokens(
    draft_token_ids: Tensor,  # [V] int64, ascending
) -> Callable[[Tensor], Tensor]:
    """A function from target token ids to draft indices, NOT_DRAFTED where a token isn't in the draft vocabulary."""

    def index(token_ids: Tensor) -> Tensor:
        found = torch.searchsorted(draft_token_ids, token_ids).clamp(max=draft_token_ids.numel() - 1)
        return torch.where(draft_token_ids[found] == token_ids, found, NOT_DRAFTED)

    return index
