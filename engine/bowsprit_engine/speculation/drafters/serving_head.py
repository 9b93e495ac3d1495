"""A trained head in the form in which it serves, by the means that the target's device has.

Decides who computes: the target's own kernels where they multiply with any weight (Triton), one native call for all
drafts on the CPU, torch's operators elsewhere and where there is no native library. Refuses to know files, revisions in
use, and when drafting pays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from bowsprit_engine.core.runner import Runner
from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels import native, native_head
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.head_in_cpp import HeadInCpp
from bowsprit_engine.speculation.drafters.head_in_torch import HeadInTorch, Linear
from bowsprit_engine.training.head import RecurrentHead

logger = logging.getLogger(__name__)


class HeadArithmetic(Protocol):
    """Drafts by a head's weights. A draft depends on its own context alone, not on the others in the call."""

    def draft(self, contexts: Sequence[DraftContext], *, confidence_temperature: float) -> list[Draft]:
        """As many tokens per context as it may take; every context has `hidden`.

        Confidences: the winner's share of softmax(scores / confidence_temperature), 0 where scores aren't finite.
        """


@runtime_checkable
class Multiplies(Protocol):
    """A runner whose own kernels multiply with any weight: the head runs by them, beside its target."""

    def linear(self, weight: Tensor) -> Linear: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingHead:
    """`confidence_temperature`: what scores are divided by before they tell how sure a draft is."""

    revision: str
    arithmetic: HeadArithmetic
    confidence_temperature: float = 1.0

    def draft(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context, each of which has `hidden`."""
        return self.arithmetic.draft(contexts, confidence_temperature=self.confidence_temperature)


def serving_head(
    head: RecurrentHead,
    draft_token_ids: Tensor,  # [V] int64
    runner: Runner,
    *,
    revision: str,
    confidence_temperature: float = 1.0,
) -> ServingHead:
    """Lay out the weights on the target's device."""
    device = runner.final_norm_weight().device
    with torch.no_grad():
        arithmetic = _arithmetic(head.to(device), draft_token_ids.to(device), runner)
    return ServingHead(revision=revision, arithmetic=arithmetic, confidence_temperature=confidence_temperature)


def _arithmetic(head: RecurrentHead, draft_token_ids: Tensor, runner: Runner) -> HeadArithmetic:
    in_torch = partial(HeadInTorch, head, draft_token_ids, embed=runner.embed, vocab_size=runner.config.vocab_size)
    if isinstance(runner, Multiplies):
        return in_torch(linear=runner.linear)
    shape = head.shape
    fits = native_head.fits(hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size)
    if draft_token_ids.device.type == "cpu" and fits and _has_native():
        return HeadInCpp(head, draft_token_ids, embed=runner.embed)
    return in_torch()


@cache
def _has_native() -> bool:
    try:
        native.library()
    except WorldError as error:
        logger.info("the head drafts with torch's operators: %s", error)
        return False
    return True
