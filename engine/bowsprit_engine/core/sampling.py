"""The target's token at every row of a step: penalties, bias and masks of the row's own context, then the keyed draw.

Decides by (logits, the tokens before the row, sampling parameters, seed, position). A draft row's context includes the
drafts before it, so every logits processor holds at every draft position. Knows nothing of acceptance.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bowsprit_engine.core.request import SamplingParams, TokenLogprob
from bowsprit_engine.core.sequence import LiveSequence
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
class Drawn:
    """Per logit row: the target's token, and whether the logits it was drawn from were all finite."""

    token_ids: Sequence[int]
    is_finite: Sequence[bool]


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

    def stop_token_ids(self, sampling: SamplingParams) -> frozenset[int]:
        """Tokens that end a sequence."""
        return sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | self._eos

    def draw(
        self,
        logits: Tensor,  # [rows, vocab] float32
        groups: Sequence[DrawRows],  # in row order, covering every row
    ) -> Drawn:
        """One token per row. A row's sum is finite iff the row is: no finite logits overflow it."""
        is_finite = torch.isfinite(logits.sum(dim=-1)).tolist()
        adjusted = [group for group in groups if _needs_adjusting(group.sequence.request.sampling, group.sequence)]
        if adjusted:
            logits = logits.clone()
            for group in adjusted:
                self._adjust(logits, group)
        return Drawn(token_ids=self._draw(logits, *_draw_arguments(groups)).tolist(), is_finite=is_finite)

    def _adjust(self, logits: Tensor, group: DrawRows) -> None:
        sampling = group.sequence.request.sampling
        context = _ContextCounts(group.sequence)
        for index in range(group.num_rows):
            if index:
                context.append(group.draft[index - 1])
            row = logits[group.first_row + index]
            _penalise(row, context, sampling)
            if sampling.logit_bias:
                biased = torch.tensor(list(sampling.logit_bias), dtype=torch.int64, device=row.device)
                row[biased] += torch.tensor(list(sampling.logit_bias.values()), dtype=row.dtype, device=row.device)
            if group.sequence.num_emitted + index < sampling.min_tokens:
                # a model's own end token may lie beyond its logits: then nothing needs a mask
                row[[token for token in self.stop_token_ids(sampling) if token < row.numel()]] = -torch.inf


class _ContextCounts:
    """Tokens before a row: how often each was emitted, and the prompt's (with count 0 unless emitted)."""

    def __init__(self, sequence: LiveSequence) -> None:
        self.emitted: dict[int, int] = dict.fromkeys(sequence.request.prompt_token_ids, 0)
        for token in sequence.token_ids[sequence.num_prompt_tokens :]:
            self.append(token)

    def append(self, token: int) -> None:
        self.emitted[token] = self.emitted.get(token, 0) + 1


def _needs_adjusting(sampling: SamplingParams, sequence: LiveSequence) -> bool:
    return (
        sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.repetition_penalty != 1.0
        or bool(sampling.logit_bias)
        or sequence.num_emitted < sampling.min_tokens
    )


def _penalise(row: Tensor, context: _ContextCounts, sampling: SamplingParams) -> None:
    """Repetition counts prompt and output; presence and frequency the output only (as OpenAI and vLLM do)."""
    if (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1.0, 0.0, 0.0):
        return
    seen = torch.tensor(list(context.emitted), dtype=torch.int64, device=row.device)
    counts = torch.tensor(list(context.emitted.values()), dtype=row.dtype, device=row.device)
    values = row[seen]
    penalty = sampling.repetition_penalty
    values = torch.where(values > 0, values / penalty, values * penalty)
    values = values - sampling.frequency_penalty * counts
    row[seen] = values - sampling.presence_penalty * (counts > 0)


def _draw_arguments(groups: Sequence[DrawRows]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Per row: temperature, top_k, top_p, min_p, seed (its 64 bits as int64), position of the drawn token."""
    params = [group.sequence.request.sampling for group in groups for _ in range(group.num_rows)]
    positions = [len(group.sequence.token_ids) + index for group in groups for index in range(group.num_rows)]
    return (
        torch.tensor([p.temperature for p in params], dtype=torch.float32),
        torch.tensor([p.top_k for p in params], dtype=torch.int32),
        torch.tensor([p.top_p for p in params], dtype=torch.float32),
        torch.tensor([p.min_p for p in params], dtype=torch.float32),
        torch.tensor([reference.as_int64(p.seed) for p in params], dtype=torch.int64),
        torch.tensor(positions, dtype=torch.int64),
    )


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
