"""The pool on synthetic streams: nearly as good as who knows the best drafter of each request, harmless without any.

Time is that of a stated step-time curve, so nothing is measured; drafting itself is free here.
"""

from __future__ import annotations

import random

import pytest

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.windows import windows
from bowsprit_policy.wire import DrafterState, DrafterType

CAP = 6
LENGTH = 160
CURVES = {
    "steep": [1.0 + 0.11 * n for n in range(3 * CAP + 1)],  # T(9) / T(1) = 1.9, as on two cores
    "flat": [1.0 + 0.01 * n for n in range(3 * CAP + 1)],
}
# P(right) of each drafter by kind of request
MIXED = {
    "two": {"a": {"code": 0.9, "chat": 0.2}, "b": {"code": 0.3, "chat": 0.75}},
    "three": {
        "a": {"code": 0.92, "chat": 0.1, "tools": 0.3},
        "b": {"code": 0.3, "chat": 0.7, "tools": 0.3},
        "c": {"code": 0.2, "chat": 0.2, "tools": 0.95},
    },
}


class NoisyDrafter:
    """Knows the text, and says another token where its dice say so: the same at a position however often it's asked."""

    type = DrafterType.NGRAM
    reason = ""
    revision = None

    def __init__(self, name, quality, texts, boast=None):
        self.name, self.quality, self.texts, self.boast = name, quality, texts, boast
        self.state = DrafterState.ACTIVE
        self.said = {request_id: self._said(request_id, *of) for request_id, of in texts.items()}

    def _said(self, request_id, kind, text):
        dice = random.Random(f"{self.name} {request_id}")
        return [token if dice.random() < self.quality[kind] else (token + 1) % 50 for token in text]

    def propose(self, contexts):
        return [self._one(context) for context in contexts]

    def _one(self, context):
        begin = len(context.token_ids)
        tokens = tuple(self.said[context.request_id][begin : begin + context.max_draft_tokens])
        return Draft(token_ids=tokens, confidences=None if self.boast is None else (self.boast,) * len(tokens))

    def forget(self, request_id):
        pass


def stream(kinds, *, requests):
    dice = random.Random(7)
    return {f"{i}": (kinds[i % len(kinds)], [dice.randrange(50) for _ in range(LENGTH)]) for i in range(requests)}


def live_sequence(name, text):
    return LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=tuple(text[:2]),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
        )
    )


def seconds(qualities, texts, curve, *, boast=None):
    """Seconds of each request, one after another, with these drafters and a pool that remembers."""
    drafters = [NoisyDrafter(name, quality, texts, boast) for name, quality in qualities.items()]
    pool = DrafterPool(drafters, vocab_size=50)
    taken = {}
    for name, (_, text) in texts.items():
        live = live_sequence(name, text)
        taken[name] = 0.0
        while len(live.token_ids) < LENGTH:
            (proposal,) = pool.draft([live], [dict.fromkeys(qualities, CAP)]).proposals
            (window,) = windows([proposal.survivals], curve, sure_tokens=1)
            taken[name] += curve[window]
            for token in (*proposal.token_ids[:window], None):
                truth = text[len(live.token_ids)]
                live.token_ids.append(truth)
                if token != truth or len(live.token_ids) == LENGTH:
                    break
            pool.learn(live)
        pool.forget(live)
    return taken


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("mix", MIXED)
def test_the_pool_is_within_three_percent_of_the_best_drafter_of_each_request(mix, curve):
    """In hindsight, each with windows of its own; and better than every single one."""
    qualities = MIXED[mix]
    texts = stream(list(next(iter(qualities.values()))), requests=24)
    together = sum(seconds(qualities, texts, CURVES[curve]).values())
    alone = [seconds({name: quality}, texts, CURVES[curve]) for name, quality in qualities.items()]
    oracle = sum(min(taken[name] for taken in alone) for name in texts)

    assert oracle / together >= 0.97
    assert together < min(sum(taken.values()) for taken in alone)


class HopelessHead(NoisyDrafter):
    """Never right, each token as sure as its dice say."""

    type = DrafterType.HEAD

    def _one(self, context):
        dice = random.Random(f"{context.request_id} {len(context.token_ids)}")
        tokens = super()._one(context).token_ids
        return Draft(token_ids=tokens, confidences=tuple(dice.random() for _ in tokens))


def test_a_new_pool_stops_paying_for_a_head_that_is_never_right_within_its_first_drafts():
    """A batch of eight, from the first token on: few rows are verified until its word is known to be worth nothing."""
    texts = stream(["random"], requests=8)
    head = HopelessHead("head", {"random": 0.0}, texts)
    pool = DrafterPool([head], vocab_size=50, clock=lambda: 0.0)
    lives = [live_sequence(name, text) for name, (_, text) in texts.items()]
    row_share, rows = 0.04, 0  # of a step without drafts
    for position in range(2, 66):
        proposals = pool.draft(lives, [{"head": 4}] * 8, row_share=row_share).proposals
        curve = [1.0 + row_share * n for n in range(33)]
        granted = windows([proposal.survivals for proposal in proposals], curve, sure_tokens=8)
        pool.grant(lives, [proposal.cut(n) for proposal, n in zip(proposals, granted, strict=True)])
        rows += sum(granted)
        for live in lives:
            live.token_ids.append(texts[live.request_id][1][position])
            pool.learn(live)
        pool.note_step(0.01)

    assert 0 < rows <= 8  # of 2,048 that might have been drafted; 64 steps of 8


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("boast", [None, 0.95])
def test_drafters_that_are_always_wrong_cost_less_than_three_percent(boast, curve):
    """From the first token on, however sure they say that they are."""
    texts = stream(["random"], requests=24)
    taken = sum(seconds({"a": {"random": 0.02}, "b": {"random": 0.02}}, texts, CURVES[curve], boast=boast).values())
    plain = len(texts) * (LENGTH - 2) * CURVES[curve][0]

    assert plain / taken >= 0.97
