"""Which drafters the engine holds at 0 where the table would let them draft, since that surely loses, and until when.

Decides per batch bucket, by a drafter's recent drafts against the measured slow-down of steps with that many. Refuses
to know tables and probes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bowsprit_engine.speculation.acceptance import LEAST_DRAFTS_TO_LOWER, AcceptanceWindow
from bowsprit_engine.speculation.costs import batch_bucket
from bowsprit_engine.speculation.time_sources import TimeSources
from bowsprit_policy.wire import LoweredDrafter

logger = logging.getLogger(__name__)

STEPS_PER_JUDGEMENT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one draft."""

    drafter: str
    num_drafted: int
    num_accepted: int


@dataclass(slots=True, kw_only=True)
class _Bucket:
    windows: dict[str, AcceptanceWindow] = field(default_factory=dict)
    lowered: dict[str, str] = field(default_factory=dict)  # drafter -> message
    steps_to_judgement: int = STEPS_PER_JUDGEMENT

    def add(self, outcome: Outcome, *, cap: int) -> None:
        """Tokens beyond the cap don't count: who is judged is the drafter as the table lets it draft."""
        window = self.windows.setdefault(outcome.drafter, AcceptanceWindow())
        window.add(drafted=min(outcome.num_drafted, cap), accepted=min(outcome.num_accepted, cap))


class Lowering:
    """What is remembered of drafts, per batch bucket. `lowered` may be read by any thread."""

    def __init__(self, times: TimeSources) -> None:
        self._times = times
        self._buckets: dict[int, _Bucket] = {}
        self.lowered: tuple[LoweredDrafter, ...] = ()

    def names(self, batch: int) -> frozenset[str]:
        """Who is held at 0 in steps of `batch` sequences."""
        return frozenset(self._bucket(batch).lowered)

    def gain(self, *, batch: int, context: float) -> float | None:
        """What drafting gains, in steps without: by the drafter that drafted most here. None where nothing is known."""
        window = max(self._bucket(batch).windows.values(), key=lambda window: window.drafts, default=None)
        rows = batch * (1 + window.mean_drafted) if window else batch
        slowdown = self._times.slowdown(batch=batch, rows=rows, context=context)
        return window.acceptance_length / slowdown - 1 if window and slowdown else None

    def observe(self, outcomes: Iterable[tuple[Outcome, int]], *, batch: int, context: float) -> bool:
        """Take in a step's drafts, each with its drafter's cap; whether somebody was lowered by them."""
        bucket = self._bucket(batch)
        touched = set()
        for outcome, cap in outcomes:
            bucket.add(outcome, cap=cap)
            touched.add(outcome.drafter)
        bucket.steps_to_judgement -= 1
        is_due = bucket.steps_to_judgement <= 0
        if is_due:
            bucket.steps_to_judgement = STEPS_PER_JUDGEMENT
        names = sorted(touched if is_due else touched & bucket.lowered.keys())
        were_lowered = [self._judge(name, bucket, batch=batch, context=context) for name in names]
        return any(were_lowered)

    def observe_watched(
        self,
        outcomes: Iterable[Outcome],
        caps: Mapping[str, int],  # of the table: without them nobody is restored
        *,
        batch: int,
        context: float,
    ) -> None:
        """Take in what drafters that are held at 0 would have got: one that the engine lowered is restored by it."""
        bucket = self._bucket(batch)
        for outcome in outcomes:
            cap = caps.get(outcome.drafter, 0)
            if outcome.drafter not in bucket.lowered or cap == 0:
                continue
            bucket.add(outcome, cap=cap)
            if bucket.windows[outcome.drafter].drafts >= LEAST_DRAFTS_TO_LOWER:
                self._judge(outcome.drafter, bucket, batch=batch, context=context)

    def forget(self, name: str) -> None:
        """A drafter was swapped: what is remembered of it is void."""
        for bucket in self._buckets.values():
            bucket.windows.pop(name, None)
            bucket.lowered.pop(name, None)
        self._publish()

    def _bucket(self, batch: int) -> _Bucket:
        return self._buckets.setdefault(batch_bucket(batch), _Bucket())

    def _judge(self, name: str, bucket: _Bucket, *, batch: int, context: float) -> bool:
        """Whether it was lowered now."""
        window = bucket.windows[name]
        slowdown = self._times.slowdown(batch=batch, rows=batch * (1 + window.mean_drafted), context=context)
        if slowdown is None:
            return False
        figures = (
            f"batch {batch_bucket(batch)}: {window.acceptance_length:.2f} tokens per step in {slowdown:.2f} times "
            f"the time of a step without drafts"
        )
        if name not in bucket.lowered and window.loses(slowdown):
            bucket.lowered[name] = figures
            bucket.windows[name] = AcceptanceWindow()
            logger.info("LowAcceptance: %s lowered to 0 at %s", name, figures)
            self._publish()
            return True
        if name in bucket.lowered and window.wins(slowdown):
            del bucket.lowered[name]
            logger.info("restored %s at %s", name, figures)
            self._publish()
        return False

    def _publish(self) -> None:
        messages: dict[str, dict[int, str]] = {}
        for batch, bucket in sorted(self._buckets.items()):
            for name, message in bucket.lowered.items():
                messages.setdefault(name, {})[batch] = message
        self.lowered = tuple(
            LoweredDrafter(
                name=name,
                draft_tokens=0,
                batches=tuple(by_batch),
                reason="LowAcceptance",
                message="; ".join(by_batch.values()),
            )
            for name, by_batch in sorted(messages.items())
        )
