"""Training of a head: the optimizer, its learning rate, how long, and which weights are kept.

Decides when to stop. The weights kept are those with the highest acceptance length of the pool on validation requests,
never those with the lowest loss: a head over-trains while its loss falls. Refuses to know what the loss is (loss.py),
where features come from and where weights go; the clock is an argument.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

from bowsprit_engine.training.batches import batches, batches_per_epoch
from bowsprit_engine.training.data import RequestRows
from bowsprit_engine.training.head import RecurrentHead, TargetRows
from bowsprit_engine.training.loss import LossWeights, batch_loss, index_of_tokens
from bowsprit_engine.training.objective import FrozenOutput

TRIAL_STEPS = 12  # the first ones compile products for their numbers of rows: the median doesn't see them


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """`rows_per_batch`: response tokens of one optimizer step, in whole requests.

    `deadline` is a reading of the clock given to `train`: the learning rate has fallen by then, also where epochs are
    left, since weights trained at a high one gain most by the small steps at the end. `products`: what matrix products
    round their inputs to; weights and the optimizer are float32 all the same.
    """

    loss: LossWeights = field(default_factory=LossWeights)
    max_epochs: int = 12
    rows_per_batch: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.05
    validations_per_epoch: int = 1
    patience: int = 4  # epochs without a new best before stopping
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


class HeadOptimizer:
    """A head, what teaches it, and AdamW."""

    def __init__(
        self, head: RecurrentHead, *, target: TargetRows, embed: Callable[[Tensor], Tensor], settings: LoopSettings
    ) -> None:
        self._head = head
        self._settings = settings
        self._embed = embed
        self._draft_index = index_of_tokens(target.draft_token_ids)
        self._taught = FrozenOutput(target, eps=head.shape.rms_norm_eps, dtype=settings.products)
        self._optimizer = torch.optim.AdamW(
            head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def step(self, batch: Sequence[RequestRows], *, done: float) -> float:
        """One step in place; `done`: the share of the run before it. Returns the loss."""
        settings = self._settings
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.products == torch.bfloat16):
            loss = batch_loss(
                self._head,
                batch,
                taught=self._taught,
                embed=self._embed,
                draft_index=self._draft_index,
                weights=settings.loss,
            )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_share(done, settings.warmup_share)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._head.parameters(), 1.0)
        self._optimizer.step()
        return loss.item()


def train(
    head: RecurrentHead,
    *,
    target: TargetRows,
    requests: Sequence[RequestRows],
    embed: Callable[[Tensor], Tensor],
    judge: Callable[[RecurrentHead], float],
    settings: LoopSettings,
    clock: Callable[[], float],
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Outcome:
    """Train `head` in place and leave in it the weights that `judge` (acceptance length of the pool) rates highest."""
    generator = torch.Generator().manual_seed(settings.seed)
    per_epoch = batches_per_epoch(requests, rows_per_batch=settings.rows_per_batch)
    steps = per_epoch * settings.max_epochs
    interval = max(1, per_epoch // settings.validations_per_epoch)
    patience = settings.patience * settings.validations_per_epoch
    optimizer = HeadOptimizer(head, target=target, embed=embed, settings=settings)

    best = Checkpoint(step=0, steps=steps, loss=math.nan, acceptance_length=judge(head))
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    checkpoints, losses, since_best, stopped = [best], [], 0, "AllEpochs"
    on_checkpoint(best)
    begin = now = clock()
    order = batches(requests, rows_per_batch=settings.rows_per_batch, steps=steps, generator=generator)
    for step, batch in enumerate(order, start=1):
        losses.append(
            optimizer.step(batch, done=max((step - 1) / steps, _share_of_time(begin, now, settings.deadline)))
        )
        on_step(step, steps)
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
        if is_late or since_best >= patience:
            stopped = "Deadline" if is_late else "NoBetter"
            break
    head.load_state_dict(kept)
    return Outcome(best=best, checkpoints=tuple(checkpoints), stopped=stopped)


def seconds_per_token(
    head: RecurrentHead,
    *,
    target: TargetRows,
    requests: Sequence[RequestRows],
    embed: Callable[[Tensor], Tensor],
    settings: LoopSettings,
    clock: Callable[[], float],
) -> float:
    """What learning from one emitted token takes by `clock`, tried on a copy of `head`."""
    optimizer = HeadOptimizer(copy.deepcopy(head), target=target, embed=embed, settings=settings)
    generator = torch.Generator().manual_seed(settings.seed)
    taken = []
    for batch in batches(requests, rows_per_batch=settings.rows_per_batch, steps=TRIAL_STEPS, generator=generator):
        begin = clock()
        optimizer.step(batch, done=0.0)
        taken.append((clock() - begin) / sum(len(request.token_ids) for request in batch))
    return median(taken)


def learning_rate_share(done: float, warmup: float) -> float:
    """Of a run of which this share is done: a linear warm-up, then a cosine down to a tenth."""
    if done < warmup:
        return 0.02 + 0.98 * done / warmup
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def _share_of_time(begin: float, now: float, deadline: float) -> float:
    """1 where no time was left to begin with."""
    return (now - begin) / (deadline - begin) if deadline > begin else 1.0
