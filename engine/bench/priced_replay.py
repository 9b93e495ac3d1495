"""Recorded answers through the pool that serves, with what drafting costs in the bill and in the pool's own prices.

Decides the bill of a step: its seconds by a step-time curve, the processor time of look-up here, and the stated seconds
of a head whose drafts were made beforehand. The pool's clock is made of the same two, so it asks as it would where
those were its times. Refuses to know files and tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.drafter_tournament import VOCAB_SIZE
from bench.head_judging import PricedHead
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.replay import Recording, Replay, StepSeconds

CAP, HEAD_CAP = 16, 4  # most tokens of a draft, and of a head's own


@dataclass(slots=True, kw_only=True)
class Bill:
    """`step_seconds` by the curve; `drafting_seconds`: of look-up here and of the head as stated.

    Of each request: how many steps it took, their seconds, and those with their drafting.
    """

    tokens: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    drafting_seconds: float = 0.0
    turns_of_request: dict[str, float] = field(default_factory=dict)
    steps_of_request: dict[str, float] = field(default_factory=dict)
    seconds_of_request: dict[str, float] = field(default_factory=dict)

    @property
    def acceptance_length(self) -> float:
        return self.tokens / self.steps

    @property
    def seconds(self) -> float:
        return self.step_seconds + self.drafting_seconds


def look_up(*names: str) -> list[Drafter]:
    """New drafters of these names: `ngram`, `suffix`."""
    made: dict[str, Drafter] = {"ngram": NGramDrafter(name="ngram"), "suffix": SuffixDrafter(name="suffix")}
    return [made[name] for name in names]


def replayed(
    recordings: Sequence[Recording],
    drafters: Sequence[Drafter],
    head: PricedHead | None,
    *,
    curve: StepSeconds,
    batch: int = 1,
) -> Bill:
    """Of all steps; recordings that only teach take none."""

    def stated() -> float:
        return 0.0 if head is None else head.stated_seconds

    asked = [*drafters] if head is None else [*drafters, head]
    caps = {drafter.name: CAP for drafter in drafters} | ({} if head is None else {head.name: HEAD_CAP})
    pool = DrafterPool(asked, vocab_size=VOCAB_SIZE, clock=lambda: time.thread_time() + stated())
    bill = Bill()
    before = stated()
    for step in Replay(pool, caps=caps, batch=batch, step_seconds=curve).steps(recordings):
        drafting = step.drafting_seconds + stated() - before
        before = stated()
        seconds = step.seconds or 0.0
        bill.steps += len(step.advances)
        bill.step_seconds += seconds
        bill.drafting_seconds += drafting
        for advance in step.advances:
            bill.tokens += advance.num_emitted
            share = 1 / len(step.advances)
            for known, spent in (
                (bill.turns_of_request, 1.0),
                (bill.steps_of_request, share * seconds),
                (bill.seconds_of_request, share * (seconds + drafting)),
            ):
                known[advance.request_id] = known.get(advance.request_id, 0.0) + spent
    return bill


def plain_seconds(recordings: Sequence[Recording], *, curve: StepSeconds, batch: int = 1) -> float:
    """Of the same requests when nobody drafts."""
    steps = Replay(DrafterPool([], vocab_size=VOCAB_SIZE), caps={}, batch=batch, step_seconds=curve).steps(recordings)
    return sum(step.seconds or 0.0 for step in steps)
