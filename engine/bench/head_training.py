"""Training of every compared design alike: the same documents in the same order, the same loss, the same optimizer.

    loss = sum over positions of 0.8^j * cross-entropy to (the target's distribution + the emitted token) / 2

with the gradient of training/loop.py; the distance to the target's own next state is weighed in for designs whose
states stand for it (`state_weight`). Products run in bfloat16 (autocast), weights and optimizer are float32. Decides
nothing about designs; the budget is a number of emitted tokens seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.head_batch import HeadBatch, batch_of
from bench.head_states import Document
from bowsprit_engine.training.head import TargetRows, norm, target_logits
from bowsprit_engine.training.loop import learning_rate_share
from bowsprit_engine.training.loss import NOT_DRAFTED, index_of_tokens

SORTED_TOGETHER = 64  # documents among which those of similar length share a batch


class DraftDesign(Protocol):
    """What is compared. A module."""

    def states(self, batch: HeadBatch, num_positions: int) -> list[Tensor]: ...

    def logits(self, state: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`tokens`: emitted tokens seen in all, repetitions included."""

    tokens: int
    positions: int = 4
    rows_per_batch: int = 1024
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.05
    decay: float = 0.8
    state_weight: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Processor seconds are of all threads."""

    tokens: int
    steps: int
    last_loss: float
    cpu_seconds: float


def train(
    design: DraftDesign,
    documents: Sequence[Document],
    target: TargetRows,
    eps: float,
    budget: Budget,
    *,
    on_step: Callable[[int, int, float], None] = lambda tokens, steps, loss: None,
) -> Spent:
    """In place; the learning rate rises linearly and falls as a cosine to a tenth over the budget."""
    optimizer = torch.optim.AdamW(
        design.parameters(), lr=budget.learning_rate, weight_decay=budget.weight_decay, betas=(0.9, 0.98)
    )
    draft_index = index_of_tokens(target.draft_token_ids)
    seen, steps, loss = 0, 0, math.nan
    begin = time.process_time()
    for batch in batches(documents, budget):
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * learning_rate_share(seen / budget.tokens, budget.warmup_share)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = batch_loss(design, batch, target, eps, draft_index, budget)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(design.parameters(), 1.0)
        optimizer.step()
        seen, steps, loss = seen + int(batch.is_anchor.sum()), steps + 1, value.item()
        on_step(seen, steps, loss)
    return Spent(tokens=seen, steps=steps, last_loss=loss, cpu_seconds=time.process_time() - begin)


def batches(documents: Sequence[Document], budget: Budget) -> Iterator[HeadBatch]:
    """Until the budget's tokens are seen; a new order every epoch, the same for every design."""
    generator = torch.Generator().manual_seed(budget.seed)
    left = budget.tokens
    while True:
        order = torch.randperm(len(documents), generator=generator).tolist()
        for begin in range(0, len(order), SORTED_TOGETHER):
            near = sorted((documents[i] for i in order[begin : begin + SORTED_TOGETHER]), key=lambda d: len(d.tokens))
            batch: list[Document] = []
            for document in near:
                batch.append(document)
                if sum(d.num_answer for d in batch) >= budget.rows_per_batch or document is near[-1]:
                    made = batch_of(batch)
                    yield made
                    left -= int(made.is_anchor.sum())
                    batch = []
                    if left <= 0:
                        return


def batch_loss(
    design: DraftDesign,
    batch: HeadBatch,
    target: TargetRows,
    eps: float,
    draft_index: Callable[[Tensor], Tensor],
    budget: Budget,
) -> Tensor:  # scalar
    """Mean over the batch's anchors of each position, weighted by decay. None beyond a block's end."""
    emitted = draft_index(batch.tokens)  # [B, T]
    last = batch.features[:, :, -1]
    documents = torch.arange(len(batch.tokens))[:, None]
    with torch.no_grad():
        probs = functional.softmax(target_logits(last, target, eps).float(), dim=-1)  # [B, T - 1, V]
        true_states = norm(last, eps)
    total, weights = torch.zeros(()), 0.0
    for position, states in enumerate(design.states(batch, budget.positions)):
        rows = batch.is_drafted(position)
        places = batch.drafted_places(position)
        judging = (documents.expand_as(places)[rows], places[rows])
        if not len(judging[0]):
            break
        weight = budget.decay**position
        weights += weight
        reached = states[rows]
        true_rows = (judging[0], judging[1] - 1)
        if budget.state_weight:
            distance = functional.smooth_l1_loss(reached.float(), true_states[true_rows])
            total = total + weight * budget.state_weight * distance * reached.shape[-1] ** 0.5
        can_hit = emitted[judging] != NOT_DRAFTED
        if can_hit.any():
            wanted = probs[true_rows][can_hit] * 0.5
            wanted[torch.arange(len(wanted)), emitted[judging][can_hit]] += 0.5
            logits = design.logits(reached[can_hit]).float()
            total = total + weight * functional.cross_entropy(logits, wanted)
    return total / max(weights, 1e-9)
