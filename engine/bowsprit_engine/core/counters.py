"""Everything the engine counts, behind one lock: the engine's thread adds, any thread takes a snapshot.

Decides which steps may judge (pure decode steps on uncontended cores) and refuses to know what is done with the counts.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bowsprit_engine.speculation.costs import CellKey
from bowsprit_engine.speculation.drafters.base import CachingDrafter, Drafter
from bowsprit_engine.speculation.proposal import Turn
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_policy.wire import DrafterStats, StepCell


@dataclass(slots=True, kw_only=True)
class DrafterCounts:
    """What one revision of one drafter did."""

    revision: str | None = None
    opportunities: int = 0
    proposed: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reached: list[int] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)
    extendable: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class CellSums:
    """Sums over the steps of one bucket."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    contended: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The counts at one moment."""

    prompt_tokens: int
    generation_tokens: int
    sequence_steps: int
    probe_steps: int
    prefill_steps: int
    errors: int
    corrupted_requests: int
    preemptions: int
    finished: Mapping[str, int]
    cells: tuple[StepCell, ...]


class Counters:
    """Counters since this engine began. They only grow, but for a drafter's when its revision changes."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self.boot_id = uuid.uuid4().hex
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._drafters = {drafter.name: DrafterCounts(revision=drafter.revision) for drafter in drafters}
        self._cells: dict[CellKey, CellSums] = {}
        self._finished: dict[str, int] = {}
        self._totals = {
            "prompt_tokens": 0,
            "generation_tokens": 0,
            "sequence_steps": 0,
            "probe_steps": 0,
            "prefill_steps": 0,
            "errors": 0,
            "corrupted_requests": 0,
            "preemptions": 0,
        }

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._begin

    def add(self, **counts: int) -> None:
        """Add to the totals, by name."""
        with self._lock:
            for name, count in counts.items():
                self._totals[name] += count

    def add_finished(self, reason: str) -> None:
        with self._lock:
            self._finished[reason] = self._finished.get(reason, 0) + 1

    def add_drafting(
        self, *, asked: Mapping[str, int], proposed: Mapping[str, int], seconds: Mapping[str, float]
    ) -> None:
        """One step's drafting, by drafter name."""
        with self._lock:
            for name, count in asked.items():
                counts = self._drafters[name]
                counts.opportunities += count
                counts.proposed += proposed[name]
                counts.seconds += seconds[name]

    def add_turns(self, turns: Sequence[Turn]) -> None:
        """What a step's verification said of drafters. Most turns of a batch are alike: nobody drafted anything."""
        with self._lock:
            for turn, times in Counter(turns).items():
                counts = self._drafters[turn.drafter]
                _add(counts.extendable, turn.begin, turn.limit, times=times)
                _add(counts.reached, turn.begin, min(turn.limit, turn.num_judged), times=times)
                if turn.end > turn.begin:
                    counts.drafted_tokens += turn.num_drafted * times
                    counts.accepted_tokens += turn.num_drafted_accepted * times
                    _add(counts.drafted, turn.begin, turn.end, times=times)
                    for of in (counts.matched, counts.accepted):
                        _add(of, turn.begin, min(turn.end, turn.num_accepted), times=times)

    def add_watched(self, watched: Sequence[Watched]) -> None:
        """What drafters that are held at 0 would have got: nothing of it was verified, nor counts as drafted."""
        with self._lock:
            for entry in watched:
                counts = self._drafters[entry.drafter]
                counts.opportunities += 1
                counts.proposed += int(entry.num_drafted > 0)
                _add(counts.reached, 0, min(max(1, entry.num_drafted), entry.num_matched + 1))
                _add(counts.matched, 0, entry.num_matched)
                # Present, if 0: readers must not take this for an engine that doesn't tell lengths.
                counts.extendable.extend([0] * (len(counts.reached) - len(counts.extendable)))

    def add_step(self, key: CellKey, *, seconds: float, tokens: int, is_contended: bool) -> None:
        """One pure decode step. A contended one is only counted, since on shared cores its time says nothing."""
        with self._lock:
            sums = self._cells.setdefault(key, CellSums())
            if is_contended:
                sums.contended += 1
                return
            sums.steps += 1
            sums.seconds += seconds
            sums.tokens += tokens

    def begin_revision(self, drafter: str, revision: str | None) -> None:
        """A drafter's figures begin again with its new revision."""
        with self._lock:
            self._drafters[drafter] = DrafterCounts(revision=revision)

    def cells(self) -> tuple[StepCell, ...]:
        with self._lock:
            return self._cells_now()

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(**self._totals, finished=dict(self._finished), cells=self._cells_now())

    def drafter_stats(self, drafter: Drafter) -> DrafterStats:
        """The drafter's own words about itself and its counts."""
        with self._lock:
            counts = self._drafters[drafter.name]
            return DrafterStats(
                name=drafter.name,
                type=drafter.type,
                state=drafter.state,
                reason=drafter.reason,
                revision=drafter.revision,
                opportunities=counts.opportunities,
                proposed=counts.proposed,
                drafted_tokens=counts.drafted_tokens,
                accepted_tokens=counts.accepted_tokens,
                reached=tuple(counts.reached),
                matched=tuple(counts.matched),
                extendable=tuple(counts.extendable),
                drafted=tuple(counts.drafted),
                accepted=tuple(counts.accepted),
                draft_seconds=counts.seconds,
                kv_lag_tokens=drafter.kv_lag_tokens if isinstance(drafter, CachingDrafter) else 0,
                not_finite=drafter.num_not_finite if isinstance(drafter, CachingDrafter) else 0,
            )

    def _cells_now(self) -> tuple[StepCell, ...]:
        return tuple(
            StepCell(
                batch=key.batch,
                rows=key.rows,
                context=key.context,
                steps=sums.steps,
                seconds=sums.seconds,
                tokens=sums.tokens,
                contended=sums.contended,
            )
            for key, sums in self._cells.items()
        )


def _add(counts: list[int], begin: int, end: int, *, times: int = 1) -> None:
    """So many more at each of these positions."""
    counts.extend([0] * (end - len(counts)))
    for position in range(begin, end):
        counts[position] += times
