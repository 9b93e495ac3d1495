"""What a head learns, which weights are kept, and when training ends."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from bowsprit_engine.training import loop
from bowsprit_engine.training.data import RequestFeatures
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows, target_logits
from bowsprit_engine.training.loop import Checkpoint, LoopSettings, Outcome
from bowsprit_engine.training.loss import NOT_DRAFTED, LossWeights, batch_loss, index_of_tokens
from bowsprit_engine.training.objective import FrozenOutput
from training.learnable import EPS, HIDDEN, VOCAB, LearnableRunner, recorded, states_of, target_rows


@pytest.fixture
def target(runner: LearnableRunner) -> TargetRows:
    return target_rows(runner, torch.arange(VOCAB))


@pytest.fixture
def head(target: TargetRows) -> RecurrentHead:
    torch.manual_seed(0)
    return RecurrentHead(HeadShape(hidden_size=HIDDEN, intermediate_size=64, rms_norm_eps=EPS), target)


@pytest.fixture
def requests(runner: LearnableRunner) -> list[RequestFeatures]:
    return [states_of(runner, request) for request in recorded(runner, 96)]


@torch.no_grad()
def first_draft_accuracy(runner: LearnableRunner, requests: list[RequestFeatures]) -> Callable[[RecurrentHead], float]:
    def judge(head: RecurrentHead) -> float:
        hits = total = 0
        for request in requests:
            part = head.token_part(runner.embed(request.token_ids[:-1]))
            drafted = head.logits(head.advance(head.start(request.hidden[:-1]), part)).argmax(-1)
            hits += int((drafted == request.token_ids[1:]).sum())
            total += drafted.numel()
        return hits / total

    return judge


def train(
    head: RecurrentHead,
    target: TargetRows,
    requests: list[RequestFeatures],
    runner: LearnableRunner,
    judge: Callable[[RecurrentHead], float],
    *,
    clock: Callable[[], float] = lambda: 0.0,
    settings: LoopSettings,
) -> Outcome:
    return loop.train(
        head,
        target=target,
        requests=requests,
        embed=runner.embed,
        judge=judge,
        settings=settings,
        clock=clock,
    )


def test_a_learnable_target_is_learned(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """From chance to nearly always right on requests that it never saw."""
    unseen = [states_of(runner, request) for request in recorded(runner, 40, seed=9)]
    judge = first_draft_accuracy(runner, unseen)
    settings = LoopSettings(
        loss=LossWeights(unroll=2), max_epochs=12, rows_per_batch=96, learning_rate=5e-3, patience=12
    )
    outcome = train(head, target, requests, runner, judge, settings=settings)
    assert outcome.checkpoints[0].acceptance_length < 0.2
    assert outcome.best.acceptance_length > 0.9


def test_an_untrained_head_repeats_the_targets_distribution(
    target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """Its output scale and LM head are the target's own."""
    hidden = requests[0].hidden
    assert torch.allclose(head.logits(head.start(hidden)), target_logits(hidden, target, EPS), atol=1e-4)


def test_the_weights_kept_are_those_with_the_highest_acceptance(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """The loss goes on falling while acceptance, which peaks at the second validation, decides."""
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([1.0, 1.2, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0])

    def judge(judged: RecurrentHead) -> float:
        seen.append({name: value.clone() for name, value in judged.state_dict().items()})
        return next(scores)

    outcome = train(
        head, target, requests, runner, judge, settings=LoopSettings(rows_per_batch=480, max_epochs=7, patience=3)
    )
    assert (outcome.best.acceptance_length, outcome.stopped) == (1.5, "NoBetter")
    assert all(torch.equal(value, seen[2][name]) for name, value in head.state_dict().items())


def test_a_parent_that_training_only_spoils_is_kept(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """The first validation comes before any step."""
    before = {name: value.clone() for name, value in head.state_dict().items()}
    scores = itertools.count(2.0, -0.1)
    outcome = train(head, target, requests, runner, lambda _: next(scores), settings=LoopSettings(patience=2))
    assert outcome.best.step == 0
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_training_ends_at_the_deadline_with_a_last_validation(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """Seconds pass with each step; the third is late."""
    seconds = itertools.count(0.0)
    scores = itertools.count(1.0)
    outcome = train(
        head,
        target,
        requests,
        runner,
        lambda _: next(scores),
        clock=lambda: next(seconds),
        settings=LoopSettings(rows_per_batch=48, deadline=3.0),
    )
    assert (outcome.stopped, outcome.checkpoints[-1].step, outcome.best.step) == ("Deadline", 3, 3)


def test_the_learning_rate_falls_with_the_time_that_is_left(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """A run that its deadline will cut ends with small steps, however many epochs are left."""

    def moved(seconds: list[float], deadline: float) -> float:
        trained, passing, scores = copy.deepcopy(head), iter(seconds), itertools.count(1.0)
        settings = LoopSettings(rows_per_batch=96, max_epochs=1000, deadline=deadline, weight_decay=0.0, warmup_share=0)
        train(
            trained,
            target,
            requests,
            runner,
            lambda _: next(scores),
            clock=lambda: next(passing),
            settings=settings,
        )
        return (trained.down - head.down).norm().item()

    one, early, late = moved([0.0, 9.0], 5.0), moved([0.0, 0.0, 99.0], 10.0), moved([0.0, 9.9, 99.0], 10.0)
    assert late < 1.12 * one
    assert early > 1.25 * one


def test_a_loss_that_is_not_finite_ends_training_with_the_best_weights(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """A diverged run still has its best validation."""
    poisoned = [
        RequestFeatures(
            prompt_token_ids=request.prompt_token_ids,
            token_ids=request.token_ids,
            hidden=torch.full_like(request.hidden, math.nan),
        )
        for request in requests
    ]
    outcome = train(head, target, poisoned, runner, lambda _: 1.0, settings=LoopSettings())
    assert (outcome.stopped, outcome.best.step) == ("Diverged", 0)
    assert all(bool(torch.isfinite(value).all()) for value in head.state_dict().values())


def test_progress_is_told_at_every_validation(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """Twice an epoch of ten steps, and once before the first."""
    told: list[Checkpoint] = []
    scores = itertools.count(1.0)
    loop.train(
        head,
        target=target,
        requests=requests,
        embed=runner.embed,
        judge=lambda _: next(scores),
        settings=LoopSettings(rows_per_batch=96, max_epochs=2, validations_per_epoch=2),
        clock=lambda: 0.0,
        on_checkpoint=told.append,
    )
    assert [(checkpoint.step, checkpoint.steps) for checkpoint in told] == [(n, 20) for n in (0, 5, 10, 15, 20)]


def test_a_trial_tells_seconds_per_token_and_leaves_the_head_alone(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """Of steps of a hundred tokens that take half a second, but for the first ones, which compile."""
    before = {name: value.clone() for name, value in head.state_dict().items()}
    readings = itertools.chain([0.0, 60.0, 60.0, 110.0], (150.0 + 0.5 * number for number in itertools.count()))
    found = loop.seconds_per_token(
        head,
        target=target,
        requests=requests,
        embed=runner.embed,
        settings=LoopSettings(rows_per_batch=100),
        clock=lambda: next(readings),
    )
    assert found == pytest.approx(0.005)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_a_validation_in_the_middle_of_an_epoch_ends_nothing_early(
    runner: LearnableRunner, target: TargetRows, head: RecurrentHead, requests: list[RequestFeatures]
) -> None:
    """Patience counts epochs: the learning rate is high until the end of a long one."""
    scores = itertools.count(2.0, -0.1)
    settings = LoopSettings(rows_per_batch=96, max_epochs=1, patience=1, validations_per_epoch=5)
    outcome = train(head, target, requests, runner, lambda _: next(scores), settings=settings)
    assert (len(outcome.checkpoints), outcome.checkpoints[-1].step, outcome.stopped) == (6, 10, "NoBetter")


def shortened(request: RequestFeatures, length: int) -> RequestFeatures:
    return dataclasses.replace(request, token_ids=request.token_ids[:length], hidden=request.hidden[:length])


def plain_loss(
    head: RecurrentHead,
    batch: list[RequestFeatures],
    target: TargetRows,
    runner: LearnableRunner,
    weights: LossWeights,
) -> torch.Tensor:
    """Request by request and draft by draft."""
    index = index_of_tokens(target.draft_token_ids)
    total, sum_of_weights = torch.zeros(()), 0.0
    for position in range(weights.unroll):
        losses, distances = [], []
        for request in batch:
            for row in range(len(request.token_ids) - position - 1):
                state = head.start(request.hidden[row : row + 1])
                for token in request.token_ids[row : row + position + 1]:
                    state = head.advance(state, head.token_part(runner.embed(token[None])))
                judged = row + position + 1
                there = request.hidden[judged : judged + 1]
                distances.append(functional.smooth_l1_loss(state, head.start(there)) * HIDDEN**0.5)
                emitted = index(request.token_ids[judged : judged + 1])
                if emitted >= 0:
                    wanted = target_logits(there, target, EPS).softmax(-1) * (1 - weights.emitted)
                    wanted[0, emitted] += weights.emitted
                    losses.append(functional.cross_entropy(head.logits(state), wanted))
        weight = weights.decay**position
        sum_of_weights += weight
        total = total + weight * (torch.stack(losses).mean() + weights.state * torch.stack(distances).mean())
    return total / sum_of_weights


def test_the_loss_is_the_mean_over_all_drafts_that_an_answer_could_judge(
    runner: LearnableRunner, requests: list[RequestFeatures]
) -> None:
    """In value and gradient; tokens that can't be drafted teach the state alone, and no draft reaches a neighbour."""
    target = target_rows(runner, torch.arange(0, VOCAB, 2))
    torch.manual_seed(0)
    head = RecurrentHead(HeadShape(hidden_size=HIDDEN, intermediate_size=64, rms_norm_eps=EPS), target)
    batch = [requests[0], shortened(requests[1], 2), requests[2], shortened(requests[3], 3)]
    weights = LossWeights(unroll=3, emitted=0.3)
    gradients = []
    for loss in (
        batch_loss(
            head,
            batch,
            taught=FrozenOutput(target, eps=EPS),
            embed=runner.embed,
            draft_index=index_of_tokens(target.draft_token_ids),
            weights=weights,
        ),
        plain_loss(head, batch, target, runner, weights),
    ):
        head.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([loss.detach(), *(weight.grad for weight in head.parameters())])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_tokens_outside_the_draft_vocabulary_have_no_draft_index() -> None:
    """Also beyond its last token."""
    index = index_of_tokens(torch.tensor([3, 5, 9]))
    assert index(torch.tensor([3, 4, 9, 0, 50])).tolist() == [0, NOT_DRAFTED, 2, NOT_DRAFTED, NOT_DRAFTED]
