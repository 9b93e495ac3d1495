"""Bugs to plant, one function each: what a careless change to the draw, the masks or the verification would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bowsprit_engine.core.sampling import Draw, Drawn, DrawRows, Sampler
from bowsprit_engine.kernels import native
from bowsprit_engine.speculation.verify import Verdict, judge


def draw_with_keys(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Draw:
    """A draw whose (seeds, positions) are changed first."""

    def draw(logits: Tensor, *arguments: Tensor) -> Tensor:
        *params, seeds, positions = arguments
        return native.draw(logits, *params, *change(seeds, positions))

    return draw


def noise_of_two_positions_is_one(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return seeds, positions // 2 * 2


def noise_of_two_requests_is_one(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return seeds // 2 * 2, positions


def seed_and_position_are_added(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(seeds), seeds + positions


def positions_are_off_by_one(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return seeds, positions + 1


def noise_goes_by_row(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Good draws, but of the row in the step: not of the request."""
    return seeds, positions + 100 * torch.arange(len(positions))


def drafts_are_keyed_one_late(rows: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """An off-by-one that only rows after a draft have. For `sampling._draw_arguments`."""

    def arguments(groups: Sequence[DrawRows]) -> tuple[Tensor, ...]:
        *params, positions = rows(groups)
        late = torch.tensor([int(index > 0) for group in groups for index in range(group.num_rows)])
        return (*params, positions + late)

    return arguments


def mask_after_the_draw(draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
    """Draws from what the model said; what isn't allowed becomes the most likely of what is. For `Sampler.draw`."""

    def masked_later(self: Sampler, logits: Tensor, groups: Sequence[DrawRows]) -> Drawn:
        inner = self._draw

        def draw_first(adjusted: Tensor, *arguments: Tensor) -> Tensor:
            drawn = inner(logits, *arguments)
            is_banned = torch.isneginf(adjusted.gather(1, drawn[:, None])[:, 0])
            return torch.where(is_banned, adjusted.argmax(dim=1), drawn)

        self._draw = draw_first
        try:
            return draw(self, logits, groups)
        finally:
            self._draw = inner

    return masked_later


def only_the_first_row(adjust: Callable[..., object]) -> Callable[..., object]:
    """Rows after a draft go as they are. For `Sampler._penalise` and `Sampler._hold_ends_back`."""

    def adjust_first(self: Sampler, logits: Tensor, group: DrawRows) -> object:
        return adjust(self, logits, dataclasses.replace(group, draft=()))

    return adjust_first


def min_p_then_top_p_then_top_k(
    filtered: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """The other order. For `reference.filtered`."""

    def swapped(scaled: Tensor, *, top_k: int, top_p: float, min_p: float) -> Tensor:
        kept = filtered(scaled, top_k=0, top_p=1.0, min_p=min_p)
        kept = filtered(kept, top_k=0, top_p=top_p, min_p=0.0)
        return filtered(kept, top_k=top_k, top_p=1.0, min_p=0.0)

    return swapped


def the_first_draft_is_taken(**known: object) -> Verdict:
    """Whatever the target drew, impossible tokens too. For `commit.judge`."""
    draft, drawn = known["draft"], known["drawn"]
    return judge(**{**known, "drawn": [*draft[:1], *drawn[len(draft[:1]) :]]})
