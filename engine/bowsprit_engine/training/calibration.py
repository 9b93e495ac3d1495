"""How sure a head may say it is: one temperature for its logits, fitted on validation requests when it is made.

Decides what a draft's outcome is and which temperature explains the outcomes best (Guo et al., "On Calibration of
Modern Neural Networks", 2017). Refuses to know training and the pool, which goes on to correct by live outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.serving_head import ServingHead
from bowsprit_engine.training.data import RequestRows
from bowsprit_engine.training.evaluate import decode_rows

MAX_ROWS = 512  # decode positions that are drafted for, evenly spread
TEMPERATURES: tuple[float, ...] = tuple(2.0 ** (quarter / 4) for quarter in range(-8, 13))  # 0.25 to 8
LEAST_DOUBT = 1e-4  # one confident miss must not outweigh every other outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Drafted tokens whose predecessors all matched: how sure the head was of each, and whether it matched."""

    confidences: Tensor  # [m] float32
    matched: Tensor  # [m] bool


def fit_temperature(
    head: ServingHead,
    requests: Sequence[RequestRows],
    *,
    num_draft_tokens: int,
) -> float:
    """The temperature under which what the head says of its greedy drafts has the least log loss; 1 without rows."""
    asked = _asked(requests, num_draft_tokens=num_draft_tokens)
    losses = {
        temperature: _log_loss(_told(replace(head, confidence_temperature=temperature), *asked))
        for temperature in sorted(TEMPERATURES, key=lambda temperature: abs(temperature - 1.0))
    }
    return min(losses, key=losses.__getitem__)


def outcomes(
    head: ServingHead,
    requests: Sequence[RequestRows],
    *,
    num_draft_tokens: int,
) -> Outcomes:
    """Drafts at up to MAX_ROWS decode positions of the requests, compared with what was emitted there."""
    return _told(head, *_asked(requests, num_draft_tokens=num_draft_tokens))


def _asked(requests: Sequence[RequestRows], *, num_draft_tokens: int) -> tuple[list[DraftContext], list[list[int]]]:
    positions = sum(max(0, len(request.token_ids) - 1) for request in requests)
    return decode_rows(requests, draft_tokens=num_draft_tokens, every=-(-positions // MAX_ROWS) or 1)


def _told(head: ServingHead, contexts: Sequence[DraftContext], continuations: Sequence[list[int]]) -> Outcomes:
    if not contexts:
        return Outcomes(confidences=torch.empty(0), matched=torch.empty(0, dtype=torch.bool))
    confidences: list[float] = []
    matched: list[bool] = []
    for draft, emitted in zip(head.draft(contexts), continuations, strict=True):
        sure = draft.confidences or ()
        for token, confidence, wanted in zip(draft.token_ids, sure, emitted, strict=False):  # an answer may end before
            confidences.append(confidence)
            matched.append(token == wanted)
            if token != wanted:
                break
    return Outcomes(confidences=torch.tensor(confidences), matched=torch.tensor(matched))


def _log_loss(found: Outcomes) -> float:
    if not found.matched.numel():
        return 0.0
    sure = found.confidences.clamp(LEAST_DOUBT, 1 - LEAST_DOUBT)
    return functional.binary_cross_entropy(sure, found.matched.float()).item()
