"""The target's token at every row of a step: penalties and bias of the row's own context, then the keyed draw.

Decides by (logits, the tokens before the row, sampling parameters, seed, position). A draft row's context includes the
drafts before it, so every logits processor holds at every draft position. Where a grammar refuses what was drawn
(core/constraint.py), the row is drawn again under its mask. Knows nothing of acceptance.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bowsprit_engine.core import grammar
from bowsprit_engine.core.constraint import ConstrainedRows, Refused
from bowsprit_engine.core.draw_params import DrawParams, Unfiltered, draw_tensors
from bowsprit_engine.core.request import Request, SamplingParams, TokenLogprob
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.core.token_counts import TokenCounts
from bowsprit_engine.errors import CallerError, WorldError
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


NOT_FINITE = Fault(message="the model's logits are not finite", code="logits_not_finite")


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
        """One token per row. A row's sum is finite iff the row is: no finite logits overflow it.

        In a constrained sequence, rows after a draft that isn't the token of its row mean nothing. A row that isn't
        finite is that and no failure of its grammar, which was asked about a token that nobody chose. Nothing is read
        before all is asked for: a device computes the logits while the host prepares the draw.
        """
        is_finite = torch.isfinite(logits.sum(dim=-1))
        adjusted = [group for group in groups if _needs_adjusting(group.sequence)]
        if adjusted:
            logits = logits.clone()
            for group in adjusted:
                self._penalise(logits, group)
                self._hold_ends_back(logits, group)
        token_ids: list[int] = self._draw(logits, *_draw_arguments(groups)).tolist()
        faults = {row: NOT_FINITE for row, is_good in enumerate(is_finite.tolist()) if not is_good}
        return Drawn(token_ids=token_ids, faults={**self._constrain(logits, groups, token_ids), **faults})

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

    def _hold_ends_back(self, logits: Tensor, group: DrawRows) -> None:
        """No end before min_tokens in free text; what keeps to a grammar ends as that says (core/constraint.py)."""
        sequence = group.sequence
        num_early = min(group.num_rows, sequence.request.sampling.min_tokens - sequence.num_emitted)
        if sequence.grammar is None and num_early > 0:
            # a model's own end token may lie beyond its logits: then nothing needs a ban
            ends = [token for token in self.stop_token_ids(sequence.request) if token < logits.shape[1]]
            logits[group.first_row : group.first_row + num_early, ends] = -torch.inf

    def _constrain(self, logits: Tensor, groups: Sequence[DrawRows], token_ids: list[int]) -> Mapping[int, Fault]:
        """Draw again, in `token_ids`, what grammars refuse, until they refuse nothing of what is reached."""
        faults: dict[int, Fault] = {}
        walks = [
            (group, self._walk(logits, group, token_ids)) for group in groups if group.sequence.grammar is not None
        ]
        while walks:
            refused: list[tuple[DrawRows, ConstrainedRows, Refused]] = []
            for group, walk in walks:
                end = group.first_row + group.num_rows
                try:
                    found = walk.refused(token_ids[group.first_row : end])
                except CallerError as error:
                    faults[group.first_row + walk.row] = Fault(message=str(error), code=grammar.FAILED)
                    continue
                if found is not None:
                    refused.append((group, walk, found))
            self._draw_again(logits, [(group, one) for group, _, one in refused], token_ids)
            walks = [(group, walk) for group, walk, _ in refused]
        return faults

    def _draw_again(self, logits: Tensor, refused: Sequence[tuple[DrawRows, Refused]], token_ids: list[int]) -> None:
        drawn: list[tuple[DrawRows, Refused]] = []
        for group, one in refused:
            if one.only is None:
                drawn.append((group, one))
            else:
                token_ids[group.first_row + one.row] = one.only
        if not drawn:
            return
        rows = [group.first_row + one.row for group, one in drawn]
        banned = torch.from_numpy(~np.stack([one.allowed for _, one in drawn])).to(logits.device)
        masked = logits[rows].masked_fill_(banned, -torch.inf)
        params = [group.sequence.request.sampling for group, _ in drawn]
        positions = [len(group.sequence.token_ids) + one.row for group, one in drawn]
        for row, token in zip(rows, self._draw(masked, *draw_tensors(params, positions)).tolist(), strict=True):
            token_ids[row] = token

    def _walk(self, logits: Tensor, group: DrawRows, token_ids: Sequence[int]) -> ConstrainedRows:
        sequence, rows = group.sequence, slice(group.first_row, group.first_row + group.num_rows)
        assert sequence.grammar is not None
        is_sure = [True] * group.num_rows
        if _has_filters(sequence.request.sampling):
            own = logits[rows]
            chosen = own[torch.arange(group.num_rows), torch.tensor(token_ids[rows])]
            is_sure = (chosen == own.amax(dim=-1)).tolist()
        return ConstrainedRows(
            sequence,
            sequence.grammar,
            group.draft,
            end_token_ids=self.stop_token_ids(sequence.request),
            is_sure=is_sure,
        )


def _counts(sequence: LiveSequence) -> TokenCounts:
    if sequence.counts is None:
        sequence.counts = TokenCounts(sequence.request.prompt_token_ids)
    sequence.counts.catch_up(sequence.token_ids[sequence.num_prompt_tokens :])
    return sequence.counts


def _has_penalties(sampling: SamplingParams) -> bool:
    return (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)


def _needs_adjusting(sequence: LiveSequence) -> bool:
    sampling = sequence.request.sampling
    is_held_back = sequence.grammar is None and sequence.num_emitted < sampling.min_tokens
    return _has_penalties(sampling) or bool(sampling.logit_bias) or is_held_back


def _has_filters(sampling: SamplingParams) -> bool:
    return sampling.temperature > 0.0 and (sampling.top_k, sampling.top_p, sampling.min_p) != (0, 1.0, 0.0)


def _penalise(row: Tensor, context: TokenCounts, sampling: SamplingParams) -> None:
    """Repetition counts prompt and output; presence and frequency the output only (as OpenAI and vLLM do)."""
    seen = torch.from_numpy(context.token_ids).to(row.device)
    counts = torch.from_numpy(context.counts).to(row.device)
    values = row[seen]
    penalty = sampling.repetition_penalty
    values = torch.where(values > 0, values / penalty, values * penalty)
    values = values - sampling.frequency_penalty * counts
    row[seen] = values - sampling.presence_penalty * (counts > 0)


def _draw_arguments(groups: Sequence[DrawRows]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    params = [params for group in groups for params in [_first_params(group.sequence)] * group.num_rows]
    positions = [len(group.sequence.token_ids) + index for group in groups for index in range(group.num_rows)]
    return draw_tensors(params, positions)


def _first_params(sequence: LiveSequence) -> DrawParams:
    """Filters go by what a grammar leaves, which isn't known when its sequence is first drawn."""
    sampling = sequence.request.sampling
    if sequence.grammar is None:
        return sampling
    return Unfiltered(temperature=sampling.temperature, seed=sampling.seed)


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
