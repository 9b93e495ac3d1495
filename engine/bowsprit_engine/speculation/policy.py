"""How many tokens each drafter may propose in this step: the pushed table, executed, and what keeps it honest.

Decides by the row of the current batch; lowers a drafter to 0 at once when its recent acceptance surely loses against
the measured step without drafts; probes. A probe is either a whole step at K=0 (so that the no-speculation baseline
stays measured) or one sequence drafted by one drafter alone up to its limit (fresh acceptance at far positions and of
drafters that the table or the engine holds at 0). Each comes at an interval that keeps its cost under half a percent.
Refuses to know what the drafters are and how the operator decides. Never raises K above the table but for a probe.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bowsprit_engine.speculation.acceptance import LEAST_DRAFTS_TO_LOWER, AcceptanceWindow
from bowsprit_engine.speculation.costs import StepTimes, batch_bucket, context_bucket, curve_of
from bowsprit_engine.speculation.table import SpeculationMode, TableInForce
from bowsprit_policy.wire import DrafterType, LoweredDrafter, PolicyStatus, PolicyTable

logger = logging.getLogger(__name__)

PROBE_COST = 0.005
SHORTEST_INTERVAL = 64
LONGEST_INTERVAL = 2048
UNKNOWN_INTERVAL = 256
FIRST_BASELINE_PROBE = 16
STEPS_PER_JUDGEMENT = 16
STEPS_PER_CURVE = 32  # step times are copied under a lock
STEPS_TO_NEXT_TRY = 4  # after a probe for which the drafter had no proposal: it cost nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCaps:
    """`by_drafter`: most draft tokens per sequence. `probe`: for one sequence instead. `is_baseline`: a K=0 probe.

    `watch`: draft tokens for which a count-based drafter that is held at 0 is scored on the emitted text.
    `has_windows`: caps are upper bounds, and each sequence's window is chosen within them.
    """

    by_drafter: Mapping[str, int] = field(default_factory=dict)
    probe: Mapping[str, int] | None = None
    is_baseline: bool = False
    watch: int = 0
    has_windows: bool = False

    @property
    def is_probe(self) -> bool:
        return self.is_baseline or self.probe is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one draft."""

    drafter: str
    num_drafted: int
    num_accepted: int


@dataclass(slots=True, kw_only=True)
class Bucket:
    """What is remembered per batch bucket."""

    windows: dict[str, AcceptanceWindow] = field(default_factory=dict)
    lowered: dict[str, str] = field(default_factory=dict)  # drafter -> message
    steps_to_baseline: int = FIRST_BASELINE_PROBE
    steps_to_probe: int = UNKNOWN_INTERVAL
    steps_to_judgement: int = STEPS_PER_JUDGEMENT
    num_probes: int = 0
    probed: str | None = None  # the drafter that the step under way probes

    def add(self, outcome: Outcome, *, cap: int) -> None:
        """Tokens beyond the cap don't count: who is judged is the drafter as the table lets it draft."""
        window = self.windows.setdefault(outcome.drafter, AcceptanceWindow())
        window.add(drafted=min(outcome.num_drafted, cap), accepted=min(outcome.num_accepted, cap))


class PolicyExecutor:
    """Holds the table in force. `set_table` and `status` may be called from any thread."""

    def __init__(
        self,
        *,
        mode: SpeculationMode,
        drafter_types: Mapping[str, DrafterType],
        draft_tokens_max: int,
        is_usable: Callable[[str], bool],  # whether a drafter could propose at all now
        times: Callable[[], Sequence[StepTimes]],  # sources of step times, the best first
    ) -> None:
        self._mode = mode
        self._names = tuple(drafter_types)
        self._max = draft_tokens_max
        self._is_usable = is_usable
        self._times = times
        self._table = TableInForce(mode=mode, drafter_types=drafter_types, draft_tokens_max=draft_tokens_max)
        self._buckets: dict[int, Bucket] = {}
        self._lowered: tuple[LoweredDrafter, ...] = ()
        self._recent_times: Sequence[StepTimes] = ()
        self._steps_to_times = 0
        self._curves: dict[tuple[int, int, int, int], tuple[float, ...]] = {}

    def status(self) -> PolicyStatus:
        """The rows that steps obey, and which drafters the engine holds below them."""
        table = self._table.in_force
        return PolicyStatus(revision=table.revision, table=table.table, lowered=self._lowered)

    @property
    def revision(self) -> int:
        return self._table.in_force.revision

    @property
    def lowered(self) -> tuple[LoweredDrafter, ...]:
        return self._lowered

    def set_table(self, table: PolicyTable) -> PolicyStatus:
        """Put a newer table in force. Raises StalePolicyError for an older one, CallerError for a malformed one."""
        self._table.push(table)
        return self.status()

    def caps(self, *, batch: int, context: float) -> StepCaps:
        """The caps of the step that is about to run with `batch` decoding sequences."""
        if self._mode == "off" or batch == 0:
            return StepCaps()
        allowed = self._table.caps(batch)
        if self._mode != "auto":
            return StepCaps(by_drafter=allowed)
        bucket = self._buckets.setdefault(batch_bucket(batch), Bucket())
        by_drafter = {name: cap for name, cap in allowed.items() if name not in bucket.lowered}
        if any(by_drafter.values()) and self._baseline_is_due(bucket, batch=batch, context=context):
            return StepCaps(is_baseline=True)
        probe = self._due_probe(bucket, allowed, batch=batch, context=context)
        return StepCaps(by_drafter=by_drafter, probe=probe, watch=self._max, has_windows=True)

    def curve(self, *, batch: int, rows: int, most: int, context: float) -> tuple[float, ...]:
        """Seconds of a step of `batch` sequences with `rows`, `rows` + 1, … up to `most` more rows; () where unknown.

        One source's figures, the first that knows both ends; what it doesn't know between them ends the curve.
        """
        key = (batch, rows, most, context_bucket(context))
        times = self._cached_times()
        if key not in self._curves:
            self._curves[key] = next(filter(None, (curve_of(source, *key) for source in times)), ())
        return self._curves[key]

    def observe(self, outcomes: Iterable[Outcome], *, batch: int, context: float) -> None:
        """Take in what became of a step's drafts, and lower or restore drafters by it."""
        if self._mode != "auto" or batch == 0:
            return
        bucket = self._buckets.setdefault(batch_bucket(batch), Bucket())
        allowed = self._table.caps(batch)
        touched = set()
        for outcome in outcomes:
            cap = allowed.get(outcome.drafter) or self._max
            bucket.add(outcome, cap=cap)
            touched.add(outcome.drafter)
        if bucket.probed is not None and bucket.probed not in touched:
            bucket.steps_to_probe = STEPS_TO_NEXT_TRY
        bucket.probed = None
        bucket.steps_to_judgement -= 1
        is_due = bucket.steps_to_judgement <= 0
        if is_due:
            bucket.steps_to_judgement = STEPS_PER_JUDGEMENT
        for name in sorted(touched if is_due else touched & bucket.lowered.keys()):
            self._judge(name, bucket, batch=batch, context=context)

    def observe_watched(self, outcomes: Iterable[Outcome], *, batch: int, context: float) -> None:
        """Take in what drafters that are held at 0 would have got: one that the engine lowered is restored by it."""
        if self._mode != "auto" or batch == 0:
            return
        bucket = self._buckets.setdefault(batch_bucket(batch), Bucket())
        allowed = self._table.caps(batch)
        for outcome in outcomes:
            cap = allowed.get(outcome.drafter, 0)
            if outcome.drafter not in bucket.lowered or cap == 0:
                continue
            bucket.add(outcome, cap=cap)
            if bucket.windows[outcome.drafter].drafts >= LEAST_DRAFTS_TO_LOWER:
                self._judge(outcome.drafter, bucket, batch=batch, context=context)

    def begin_revision(self, name: str) -> None:
        """A drafter was swapped: what is remembered of it is void."""
        for bucket in self._buckets.values():
            bucket.windows.pop(name, None)
            bucket.lowered.pop(name, None)
            bucket.steps_to_probe = min(bucket.steps_to_probe, SHORTEST_INTERVAL)
        self._publish_lowered()

    def _slowdown(self, *, batch: int, rows: float, context: float) -> float | None:
        for times in self._times():
            slowdown = times.slowdown(batch=batch, rows=rows, context=context)
            if slowdown is not None:
                return slowdown
        return None

    def _cached_times(self) -> Sequence[StepTimes]:
        self._steps_to_times -= 1
        if self._steps_to_times <= 0:
            self._steps_to_times = STEPS_PER_CURVE
            self._recent_times = self._times()
            self._curves.clear()
        return self._recent_times

    def _judge(self, name: str, bucket: Bucket, *, batch: int, context: float) -> None:
        window = bucket.windows[name]
        slowdown = self._slowdown(batch=batch, rows=batch * (1 + window.mean_drafted), context=context)
        if slowdown is None:
            return
        figures = (
            f"batch {batch_bucket(batch)}: {window.acceptance_length:.2f} tokens per step in {slowdown:.2f} times "
            f"the time of a step without drafts"
        )
        if name not in bucket.lowered and window.loses(slowdown):
            bucket.lowered[name] = figures
            bucket.windows[name] = AcceptanceWindow()
            bucket.steps_to_probe = SHORTEST_INTERVAL
            logger.info("LowAcceptance: %s lowered to 0 at %s", name, figures)
            self._publish_lowered()
        elif name in bucket.lowered and window.wins(slowdown):
            del bucket.lowered[name]
            logger.info("restored %s at %s", name, figures)
            self._publish_lowered()

    def _publish_lowered(self) -> None:
        messages: dict[str, dict[int, str]] = {}
        for batch, bucket in sorted(self._buckets.items()):
            for name, message in bucket.lowered.items():
                messages.setdefault(name, {})[batch] = message
        self._lowered = tuple(
            LoweredDrafter(
                name=name,
                draft_tokens=0,
                batches=tuple(by_batch),
                reason="LowAcceptance",
                message="; ".join(by_batch.values()),
            )
            for name, by_batch in sorted(messages.items())
        )

    def _baseline_is_due(self, bucket: Bucket, *, batch: int, context: float) -> bool:
        bucket.steps_to_baseline -= 1
        if bucket.steps_to_baseline > 0:
            return False
        window = max(bucket.windows.values(), key=lambda window: window.drafts, default=None)
        rows = batch * (1 + window.mean_drafted) if window else batch
        slowdown = self._slowdown(batch=batch, rows=rows, context=context)
        gain = window.acceptance_length / slowdown - 1 if window and slowdown else None
        bucket.steps_to_baseline = _interval(gain)
        return True

    def _due_probe(
        self, bucket: Bucket, allowed: Mapping[str, int], *, batch: int, context: float
    ) -> Mapping[str, int] | None:
        bucket.steps_to_probe -= 1
        candidates = [name for name in self._names if self._is_usable(name)]
        if bucket.steps_to_probe > 0 or not candidates or self._max == 0:
            return None
        name = candidates[bucket.num_probes % len(candidates)]
        bucket.num_probes += 1
        bucket.probed = name
        draft_tokens = allowed.get(name) or self._max if name in bucket.lowered else self._max
        slowdown = self._slowdown(batch=batch, rows=batch + draft_tokens, context=context)
        bucket.steps_to_probe = _interval(slowdown - 1 if slowdown is not None else None)
        return {name: draft_tokens}


def _interval(cost: float | None) -> int:
    """Steps between probes of which each costs `cost` steps."""
    if cost is None:
        return UNKNOWN_INTERVAL
    return min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, math.ceil(cost / PROBE_COST)))
