"""What happened between two scrapes: differences of an engine's counters, summed over the fleet.

A counter that began again (another boot id, another revision of a drafter, or simply a smaller number) counts from
zero: everything since then is new. Refuses to judge the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bowsprit_policy.wire import DrafterState, DrafterStats, DrafterType, EngineStats, StepCell

CellKey = tuple[int, int, int]  # batch, rows, context


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterDelta:
    """What one drafter in one revision did. Fields as in wire.DrafterStats, over an interval.

    `extendable` is () from an engine of the previous version: it counts positions as reached only where they were
    drafted, and says nothing of how long drafts were.
    """

    name: str
    type: DrafterType
    revision: str | None
    opportunities: int = 0
    proposed: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reached: tuple[int, ...] = ()
    matched: tuple[int, ...] = ()
    extendable: tuple[int, ...] = ()
    drafted: tuple[int, ...] = ()
    draft_seconds: float = 0.0

    @property
    def num_scored(self) -> int:
        """Drafts that say something: those verified, or scored on emitted text."""
        return max(self.proposed, self.reached[0] if self.reached else 0)

    @property
    def has_lengths(self) -> bool:
        """Does its engine say how long drafts were?"""
        return bool(self.extendable)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterDelta:
    """What one engine, or the fleet, did in an interval. `tokens_per_second` adds up over engines."""

    drafters: tuple[DrafterDelta, ...] = ()
    cells: tuple[StepCell, ...] = ()
    generation_tokens: int = 0
    sequence_steps: int = 0
    captured_tokens: int = 0
    captured_requests: int = 0
    tokens_per_second: float = 0.0


def key(cell: StepCell) -> CellKey:
    """What identifies a cell."""
    return (cell.batch, cell.rows, cell.context)


def delta(before: EngineStats | None, after: EngineStats) -> CounterDelta:
    """What an engine did since `before`; since its start when there is no `before` or the engine was restarted."""
    start = before if before is not None and before.boot_id == after.boot_id else None
    known_drafters = {drafter.name: drafter for drafter in start.drafters} if start else {}
    known_cells = {key(cell): cell for cell in start.cells} if start else {}
    generated = _grown(start.generation_tokens if start else 0, after.generation_tokens)
    seconds = after.uptime_seconds - (start.uptime_seconds if start else 0.0)
    return CounterDelta(
        drafters=tuple(
            _drafter_delta(known_drafters.get(drafter.name), drafter)
            for drafter in after.drafters
            if drafter.state is not DrafterState.EMPTY
        ),
        cells=tuple(_cell_delta(known_cells.get(key(cell)), cell) for cell in after.cells),
        generation_tokens=generated,
        sequence_steps=_grown(start.sequence_steps if start else 0, after.sequence_steps),
        captured_tokens=_grown(start.capture.tokens if start else 0, after.capture.tokens),
        captured_requests=_grown(start.capture.requests if start else 0, after.capture.requests),
        tokens_per_second=generated / seconds if seconds > 0 else 0.0,
    )


def total(deltas: Sequence[CounterDelta]) -> CounterDelta:
    """The fleet's sum. Drafters stay apart by revision, and by the version that their engines count in."""
    drafters: dict[tuple[str, str | None, bool], DrafterDelta] = {}
    cells: dict[CellKey, StepCell] = {}
    for one in deltas:
        for drafter in one.drafters:
            identity = (drafter.name, drafter.revision, drafter.has_lengths)
            drafters[identity] = _sum(drafters[identity], drafter) if identity in drafters else drafter
        for cell in one.cells:
            cells[key(cell)] = merged(cells[key(cell)], cell) if key(cell) in cells else cell
    return CounterDelta(
        drafters=tuple(drafters.values()),
        cells=tuple(cells.values()),
        generation_tokens=sum(one.generation_tokens for one in deltas),
        sequence_steps=sum(one.sequence_steps for one in deltas),
        captured_tokens=sum(one.captured_tokens for one in deltas),
        captured_requests=sum(one.captured_requests for one in deltas),
        tokens_per_second=sum(one.tokens_per_second for one in deltas),
    )


def merged(a: StepCell, b: StepCell) -> StepCell:
    """Two sums over the same bucket."""
    return StepCell(
        batch=a.batch,
        rows=a.rows,
        context=a.context,
        steps=a.steps + b.steps,
        seconds=a.seconds + b.seconds,
        tokens=a.tokens + b.tokens,
        contended=a.contended + b.contended,
    )


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after


def _drafter_delta(before: DrafterStats | None, after: DrafterStats) -> DrafterDelta:
    if before is None or before.revision != after.revision or before.opportunities > after.opportunities:
        before = DrafterStats(name=after.name, type=after.type, state=after.state)
    return DrafterDelta(
        name=after.name,
        type=after.type,
        revision=after.revision,
        opportunities=_grown(before.opportunities, after.opportunities),
        proposed=_grown(before.proposed, after.proposed),
        drafted_tokens=_grown(before.drafted_tokens, after.drafted_tokens),
        accepted_tokens=_grown(before.accepted_tokens, after.accepted_tokens),
        reached=_each_grown(before.reached, after.reached),
        matched=_each_grown(before.matched, after.matched),
        extendable=_each_grown(before.extendable, after.extendable),
        drafted=_each_grown(before.drafted, after.drafted),
        draft_seconds=max(0.0, after.draft_seconds - before.draft_seconds),
    )


def _each_grown(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    pairs = zip_longest(before, after, fillvalue=0)
    return tuple(_grown(old, new) for old, new in pairs)


def _cell_delta(before: StepCell | None, after: StepCell) -> StepCell:
    if before is None or before.steps > after.steps or before.seconds > after.seconds:
        return after
    return StepCell(
        batch=after.batch,
        rows=after.rows,
        context=after.context,
        steps=after.steps - before.steps,
        seconds=after.seconds - before.seconds,
        tokens=_grown(before.tokens, after.tokens),
        contended=_grown(before.contended, after.contended),
    )


def _sum(a: DrafterDelta, b: DrafterDelta) -> DrafterDelta:
    return DrafterDelta(
        name=a.name,
        type=a.type,
        revision=a.revision,
        opportunities=a.opportunities + b.opportunities,
        proposed=a.proposed + b.proposed,
        drafted_tokens=a.drafted_tokens + b.drafted_tokens,
        accepted_tokens=a.accepted_tokens + b.accepted_tokens,
        reached=_added(a.reached, b.reached),
        matched=_added(a.matched, b.matched),
        extendable=_added(a.extendable, b.extendable),
        drafted=_added(a.drafted, b.drafted),
        draft_seconds=a.draft_seconds + b.draft_seconds,
    )


def _added(a: Iterable[int], b: Iterable[int]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))
