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
from bowsprit_engine.training.head import RecurrentHead, TargetRows
from bowsprit_engine.training.objective import FrozenOutput

NOT_DRAFTED = -1
ROWS_MULTIPLE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """`unroll`: draft positions trained. `rows_per_batch`: response tokens of one optimizer step, in whole requests.

    `deadline` is a reading of the clock given to `train`: the learning rate has fallen by then, also where epochs are
    left, since weights trained at a high one gain most by the small steps at the end. `decay`: the loss weight of each
    position relative to the one before it, since a position counts only where all before it matched. `products`: what
    matrix products round their inputs to; weights and the optimizer are float32 all the same.
    """

    unroll: int = 4
    max_epochs: int = 12
    rows_per_batch: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.05
    decay: float = 0.8
    emitted_weight: float = 0.5  # share of the emitted token in what is taught; the rest is the target's distribution
    state_weight: float = 0.1  # weight of the distance between a state and the target's own next state
    validations_per_epoch: int = 1
    patience: int = 4  # validations without a new best before stopping
    deadline: float = math.inf
    seed: int = 0
    products: torch.dtype = torch.float32


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
    draft_index = index_of_tokens(target.draft_token_ids)
    taught = FrozenOutput(target, eps=head.shape.rms_norm_eps, dtype=settings.products)

    best = Checkpoint(step=0, steps=steps, loss=math.nan, acceptance_length=judge(head))
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    checkpoints, losses, since_best, stopped = [best], [], 0, "AllEpochs"
    on_checkpoint(best)
    begin = now = clock()
    for step, batch in enumerate(_batches(requests, settings, generator, steps), start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.products == torch.bfloat16):
            loss = batch_loss(head, batch, taught=taught, embed=embed, draft_index=draft_index, settings=settings)
        for group in optimizer.param_groups:
            done = max((step - 1) / steps, _share_of_time(begin, now, settings.deadline))
            group["lr"] = settings.learning_rate * learning_rate_share(done, settings.warmup_share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            stopped = "Diverged"
            break
        now = clock()
        is_late = now >= settings.deadline
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
    taught: FrozenOutput,
    embed: Callable[[Tensor], Tensor],
    draft_index: Callable[[Tensor], Tensor],
    settings: LoopSettings,
) -> Tensor:  # scalar
    """Mean loss over the unrolled positions; emitted tokens are fed (teacher forcing), as they are at verification.

    A row stands for the token that it emitted; its draft at `position` is judged by the row `position + 1` further on.
    """
    hidden, token_ids, ends = _joined(batch)
    num_rows, places = len(token_ids), torch.arange(len(token_ids))
    true_states = head.start(hidden)
    emitted = draft_index(token_ids)  # [rows]
    directions = taught.directions(hidden, emitted, emitted_weight=settings.emitted_weight)  # [rows, D]
    token_part = head.token_part(embed(token_ids))  # [rows, 2W]

    state = true_states
    total = torch.zeros(())
    weight_sum = 0.0
    for position in range(settings.unroll):
        ahead = position + 1
        state = head.advance(state[: num_rows - ahead], token_part[position : num_rows - 1])
        is_inside = places[ahead:] < ends[: num_rows - ahead]
        if not is_inside.any():
            break
        weight = settings.decay**position
        weight_sum += weight
        distance = functional.smooth_l1_loss(state, true_states[ahead:], beta=1.0, reduction="none").mean(dim=-1)
        scale = weight * settings.state_weight * state.shape[-1] ** 0.5
        total = total + scale * (distance @ _shares(is_inside))
        # A token outside the draft vocabulary can't be drafted: such a row teaches the state only.
        rows, shares = _selected(is_inside & (emitted[ahead:] != NOT_DRAFTED))
        total = total + weight * taught.loss(head.output(state[rows]), directions[ahead:][rows], shares)
    return total / max(weight_sum, 1e-9)


def _joined(batch: Sequence[RequestFeatures]) -> tuple[Tensor, Tensor, Tensor]:
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


def learning_rate_share(done: float, warmup: float) -> float:
    """Of a run of which this share is done: a linear warm-up, then a cosine down to a tenth."""
    if done < warmup:
        return 0.02 + 0.98 * done / warmup
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def _share_of_time(begin: float, now: float, deadline: float) -> float:
    """1 where no time was left to begin with."""
    return (now - begin) / (deadline - begin) if deadline > begin else 1.0
