"""Sequences without a model, and drafters that say what they are told to."""

from __future__ import annotations

from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_policy.wire import DrafterType
from fakes import FakeDrafter


def sequence(name, tenant=""):
    return LiveSequence.begin(
        Request(
            request_id=name,
            prompt_token_ids=(1, 2),
            sampling=SamplingParams(seed=0),
            speculation=SpeculationParams(),
            on_output=lambda _: None,
            tenant=tenant,
        )
    )


def counts(known, name="counts"):
    """A count-based drafter that knows some sequences; it proposes nothing after another's tokens."""
    return FakeDrafter(
        name=name,
        type=DrafterType.NGRAM,
        draft=lambda context: () if context.ahead else known.get(context.request_id, ()),
    )


def head():
    return FakeDrafter(name="head", draft=lambda _: [7, 7, 7, 7])


def emit(pool, live, *token_ids):
    live.token_ids.extend(token_ids)
    return pool.learn(live)
