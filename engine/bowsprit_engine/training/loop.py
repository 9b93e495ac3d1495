"""Training of a head: the unrolled steps, the optimizer, and which weights are kept.

Decides the loss, the learning rate and when to stop. The weights kept are those with the highest acceptance length of
the pool on validation requests, never those with the lowest loss: a head over-trains while its loss falls. Refuses to
know where features come from and where weights go; the clock is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bowsprit_engine.training.data import RequestFeatures
from bowsprit_engine.training.head import RecurrentHead, TargetRows, target_logits

NOT_DRAFTED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """`unroll`: draft positions trained. `rows_per_batch`: response tokens of one optimizer step, in whole requests.

    `deadline` is a reading of the clock given to `train`; `decay`: the loss weight of each position relative to the one
    before it, since a position counts only where all before it matched.
    """

    unroll: int = 4
    max_epochs: int = 12
    rows_per_batch: int = 768
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.05
    decay: float = 0.8
    emitted_weight: float = (
        0.5  # share of cross-entropy to the emitted token; the rest is KL to the target's distribution
    )
    state_weight: float = 0.1  # weight of the distance between a state and the target's own next state
    validations_per_epoch: int = 1
    patience: int = 4  # validations without a new best before stopping
    deadline: float = math.inf
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A validation: optimizer steps done, of how many, the mean loss since the last one, acceptance length."""

    step: int
    steps: int
    loss: float
    acceptance_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The best validation and all of them, the first one before any training. `stopped`: why the loop ended."""

    best: Checkpoint
    checkpoints: tuple[Checkpoint, ...]
    stopped: str


def train(
    head: RecurrentHead,
    *,
    target: TargetRows,
    requests: Sequence[RequestFeatures],
    embed: Callable[[Tensor], Tensor],
    judge: Callable[[RecurrentHead], float],
    settings: LoopSettings,
    clock: Callable[[], float],
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Outcome:
    """Train `head` in place and leave in it the weights that `judge` (acceptance length of the pool) rates highest."""
    generator = torch.Generator().manual_seed(settings.seed)
    per_epoch = max(1, round(sum(len(request.token_ids) for request in requests) / settings.rows_per_batch))
    steps = per_epoch * settings.max_epochs
    interval = max(1, per_epoch // settings.validations_per_epoch)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps, settings))
    draft_index = index_of_tokens(target.draft_token_ids)

    best = Checkpoint(step=0, steps=steps, loss=math.nan, acceptance_length=judge(head))
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    checkpoints, losses, since_best, stopped = [best], [], 0, "AllEpochs"
    on_checkpoint(best)
    for step, batch in enumerate(_batches(requests, settings, generator, steps), start=1):
        loss = batch_loss(head, batch, target=target, embed=embed, draft_index=draft_index, settings=settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            stopped = "Diverged"
            break
        is_late = clock() >= settings.deadline
        if step % interval and step != steps and not is_late:
            continue
        checkpoint = Checkpoint(step=step, steps=steps, loss=sum(losses) / len(losses), acceptance_length=judge(head))
        checkpoints.append(checkpoint)
        losses = []
        on_checkpoint(checkpoint)
        since_best += 1
        if checkpoint.acceptance_length > best.acceptance_length:
            best, since_best = checkpoint, 0
            kept = {name: value.clone() for name, value in head.state_dict().items()}
        if is_late or since_best >= settings.patience:
            stopped = "Deadline" if is_late else "NoBetter"
            break
    head.load_state_dict(kept)
    return Outcome(best=best, checkpoints=tuple(checkpoints), stopped=stopped)


def batch_loss(
    head: RecurrentHead,
    batch: Sequence[RequestFeatures],
    *,
    target: TargetRows,
    embed: Callable[[Tensor], Tensor],
    draft_index: Callable[[Tensor], Tensor],
    settings: LoopSettings,
) -> Tensor:  # scalar
    """Mean loss over the unrolled positions; emitted tokens are fed (teacher forcing), as they are at verification."""
    eps = head.shape.rms_norm_eps
    hidden = torch.cat([request.hidden for request in batch]).to(torch.float32)  # [rows, D]
    token_ids = torch.cat([request.token_ids for request in batch])  # [rows]
    lengths = torch.tensor([len(request.token_ids) for request in batch])
    ends = torch.repeat_interleave(lengths.cumsum(0), lengths)  # [rows], one past the request's last row
    with torch.no_grad():
        true_states = head.start(hidden)
        log_probs = functional.log_softmax(target_logits(hidden, target, eps), dim=-1)  # [rows, V]
        probs = log_probs.exp()
        emitted = draft_index(token_ids)  # [rows]
    token_part = head.token_part(embed(token_ids))  # [rows, 2W]

    rows = torch.arange(len(token_ids))
    state = true_states
    total = torch.zeros(())
    weight_sum = 0.0
    for position in range(settings.unroll):
        is_inside = rows + position + 1 < ends[rows]
        rows, state = rows[is_inside], state[is_inside]
        if not len(rows):
            break
        state = head.advance(state, token_part[rows + position])
        judged = rows + position + 1
        # A token outside the draft vocabulary can't be drafted: such a row teaches the state only.
        can_hit = emitted[judged] != NOT_DRAFTED
        draft = functional.log_softmax(head.logits(state[can_hit]), dim=-1)
        hit_rows = judged[can_hit]
        divergence = (probs[hit_rows] * (log_probs[hit_rows] - draft)).sum(-1).mean()
        to_emitted = functional.nll_loss(draft, emitted[hit_rows])
        distance = functional.smooth_l1_loss(state, true_states[judged], beta=1.0) * state.shape[-1] ** 0.5
        weight = settings.decay**position
        if can_hit.any():
            mixed = (1 - settings.emitted_weight) * divergence + settings.emitted_weight * to_emitted
            total = total + weight * mixed
        total = total + weight * settings.state_weight * distance
        weight_sum += weight
    return total / max(weight_sum, 1e-9)


def index_of_tokens(
    draft_token_ids: Tensor,  # [V] int64, ascending
) -> Callable[[Tensor], Tensor]:
    """A function from target token ids to draft indices, NOT_DRAFTED where a token isn't in the draft vocabulary."""

    def index(token_ids: Tensor) -> Tensor:
        found = torch.searchsorted(draft_token_ids, token_ids).clamp(max=draft_token_ids.numel() - 1)
        return torch.where(draft_token_ids[found] == token_ids, found, NOT_DRAFTED)

    return index


def _batches(
    requests: Sequence[RequestFeatures], settings: LoopSettings, generator: torch.Generator, steps: int
) -> Iterator[list[RequestFeatures]]:
    """`steps` batches of whole requests in a new order every epoch."""
    done = 0
    batch: list[RequestFeatures] = []
    rows = 0
    while True:
        for index in torch.randperm(len(requests), generator=generator).tolist():
            batch.append(requests[index])
            rows += len(requests[index].token_ids)
            if rows >= settings.rows_per_batch:
                yield batch
                batch, rows, done = [], 0, done + 1
                if done == steps:
                    return
        if batch and done == 0:  # fewer rows in all than one batch
            yield batch
            batch, rows, done = [], 0, done + 1
            if done == steps:
                return


def _learning_rate_share(step: int, steps: int, settings: LoopSettings) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, round(steps * settings.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
