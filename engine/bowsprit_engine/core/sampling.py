"""The target's token at every row of a step: penalties, bias and masks of the row's own context, then the keyed draw.

Decides by (logits, the tokens before the row, sampling parameters, seed, position). A draft row's context includes the
drafts before it, so every logits processor holds at every draft position. Knows nothing of acceptance.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bowsprit_engine.core import grammar
from bowsprit_engine.core.request import Request, SamplingParams, TokenLogprob
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.core.token_counts import TokenCounts
from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels import native, reference

Draw = Callable[..., Tensor]  # the signature of kernels.reference.draw

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRows:
    """The logit rows of one sequence: `first_row`, then one more per draft token."""

    sequence: LiveSequence
    draft: tuple[int, ...]
    first_row: int

    @property
    def num_rows(self) -> int:
        return len(self.draft) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why the token drawn at a row means nothing. `code`: grammar.FAILED where the request's own grammar is why."""

    message: str
    code: str | None = None


NOT_FINITE = Fault(message="the model's logits are not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Per logit row the target's token, and the rows that have none."""

    token_ids: Sequence[int]
    faults: Mapping[int, Fault]


def choose_draw(device: torch.device) -> Draw:
    """The fastest keyed draw for logits on this device: native on a CPU that has it, Triton on a GPU, else torch."""
    if device.type == "cuda":
        triton_draw: Draw = importlib.import_module("bowsprit_engine.kernels.verify").draw
        return triton_draw
    if device.type != "cpu":
        return reference.draw
    try:
        native.library()
    except WorldError as error:
        logger.warning("tokens are drawn by torch, slowly at temperatures above 0: %s", error)
        return reference.draw
    return native.draw


class Sampler:
    """Draws for all rows of a step. Row by row the result is the same whatever else is in the step."""

    def __init__(self, *, eos_token_ids: Sequence[int], draw: Draw) -> None:
        self._eos = frozenset(eos_token_ids)
        self._draw = draw

    def stop_token_ids(self, request: Request) -> frozenset[int]:
        """Tokens that end a sequence."""
        sampling = request.sampling
        is_endless = sampling.ignore_eos and request.grammar is None
        return sampling.stop_token_ids if is_endless else sampling.stop_token_ids | self._eos

    def draw(
        self,
        logits: Tensor,  # [rows, vocab] float32
        groups: Sequence[DrawRows],  # in row order, covering every row
    ) -> Drawn:
        """One token per row. A row's sum is finite iff the row is: no finite logits overflow it."""
        is_finite = torch.isfinite(logits.sum(dim=-1)).tolist()
        faults = {row: NOT_FINITE for row, is_good in enumerate(is_finite) if not is_good}
        adjusted = [group for group in groups if _needs_adjusting(group.sequence)]
        if adjusted:
            logits = logits.clone()
            for group in adjusted:
                self._penalise(logits, group)
                faults |= self._constrain(logits, group)
        return Drawn(token_ids=self._draw(logits, *_draw_arguments(groups)).tolist(), faults=faults)

    def _penalise(self, logits: Tensor, group: DrawRows) -> None:
        """Penalties and bias of each row's own context."""
        sampling = group.sequence.request.sampling
        counts = _counts(group.sequence) if _has_penalties(sampling) else None
        if counts is not None:
            with counts.drafting():
                for index in range(group.num_rows):
                    if index:
                        counts.append_draft(group.draft[index - 1])
                    _penalise(logits[group.first_row + index], counts, sampling)
        if sampling.logit_bias:
            rows = logits[group.first_row : group.first_row + group.num_rows]
            biased = torch.tensor(list(sampling.logit_bias), dtype=torch.int64, device=rows.device)
            rows[:, biased] += torch.tensor(list(sampling.logit_bias.values()), dtype=rows.dtype, device=rows.device)

    def _constrain(self, logits: Tensor, group: DrawRows) -> Mapping[int, Fault]:
        """Tokens that a row may not draw: ends before min_tokens, and what the grammar doesn't allow, which goes first.

        A grammar that is at its end allows nothing but an end, min_tokens or not.
        """
        sequence = group.sequence
        masks = grammar.Masks(allowed=()) if sequence.grammar is None else sequence.grammar.masks(group.draft)
        for index in range(group.num_rows):
            row = logits[group.first_row + index]
            is_early = sequence.num_emitted + index < sequence.request.sampling.min_tokens
            # a model's own end token may lie beyond its logits: then nothing needs a mask
            ends = [token for token in self.stop_token_ids(sequence.request) if token < row.numel()] if is_early else []
            if index < len(masks.allowed):
                allowed = torch.from_numpy(masks.allowed[index])
                unended = allowed.index_fill(0, torch.tensor(ends, dtype=torch.int64), False)
                banned = ~(unended if bool(unended.any()) else allowed)
                row.masked_fill_(banned.to(row.device), -torch.inf)
            else:
                row[ends] = -torch.inf
        num_masks = len(masks.allowed)
        if sequence.grammar is None or num_masks == group.num_rows:
            return {}
        # the row after them is reached only where a draft was possible when it was cut and isn't now
        message = masks.failure or f"the grammar has masks for {num_masks} of {group.num_rows} rows"
        return {group.first_row + num_masks: Fault(message=message, code=grammar.FAILED)}


def _counts(sequence: LiveSequence) -> TokenCounts:
    if sequence.counts is None:
        sequence.counts = TokenCounts(sequence.request.prompt_token_ids)
    sequence.counts.catch_up(sequence.token_ids[sequence.num_prompt_tokens :])
    return sequence.counts


def _has_penalties(sampling: SamplingParams) -> bool:
    return (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)


def _needs_adjusting(sequence: LiveSequence) -> bool:
    sampling = sequence.request.sampling
    return (
        sequence.grammar is not None
        or _has_penalties(sampling)
        or bool(sampling.logit_bias)
        or sequence.num_emitted < sampling.min_tokens
    )


def _penalise(row: Tensor, context: TokenCounts, sampling: SamplingParams) -> None:
    """Repetition counts prompt and output; presence and frequency the output only (as OpenAI and vLLM do)."""
    seen = torch.from_numpy(context.token_ids).to(row.device)
    counts = torch.from_numpy(context.counts).to(row.device)
    values = row[seen]
    penalty = sampling.repetition_penalty
    values = torch.where(values > 0, values / penalty, values * penalty)
    values = values - sampling.frequency_penalty * counts
    row[seen] = values - sampling.presence_penalty * (counts > 0)


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


def _draw_arguments(groups: Sequence[DrawRows]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    params = [group.sequence.request.sampling for group in groups for _ in range(group.num_rows)]
    positions = [len(group.sequence.token_ids) + index for group in groups for index in range(group.num_rows)]
    return draw_tensors(params, positions)


def target_logprobs(
    logits: Tensor,  # [rows, vocab] float32, as the target gave them
    *,
    first_row: int,
    token_ids: Sequence[int],
    num_top: int,
) -> tuple[TokenLogprob, ...]:
    """The target's own log-probabilities (before penalties and temperature) of consecutive emitted tokens."""
    rows = torch.log_softmax(logits[first_row : first_row + len(token_ids)], dim=-1)
    chosen = rows[torch.arange(len(token_ids)), torch.tensor(token_ids)].tolist()
    if num_top == 0:
        return tuple(TokenLogprob(token_id=t, logprob=p) for t, p in zip(token_ids, chosen, strict=True))
    values, ids = torch.topk(rows, num_top, dim=-1)
    return tuple(
        TokenLogprob(token_id=token, logprob=logprob, top=tuple(zip(top_ids, top_values, strict=True)))
        for token, logprob, top_ids, top_values in zip(token_ids, chosen, ids.tolist(), values.tolist(), strict=True)
    )
