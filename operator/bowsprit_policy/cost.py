"""What a step costs: whole-step seconds per (batch, rows, context) bucket, profiled at start-up and measured since.

Keeps the drafting apart from the rest of a step, since drafters are priced by what they would draft. Steps that were
contended are never in a cell's sums (the engine leaves them out); the quiet steps of a contended tick do teach, else a
machine that is always shared would never adapt. Refuses to know acceptance. The curve through these figures is in
step_times.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bowsprit_policy.counters import CellKey, CounterDelta, key, merged
from bowsprit_policy.wire import COUNT_BASED, DrafterType, Profile, StepCell

HALF_LIFE_STEPS = 2000.0
# A cell with less counts as not measured: one odd step must not outvote the profile.
MIN_MEASURED_STEPS = 8.0
# What pods did before a leader began counts as so many steps per cell, and as so many units of drafting.
HISTORY_STEPS = 64.0
HISTORY_UNITS = 200.0
# Share of contended steps above which a tick holds the table and prices no drafting.
MOSTLY_CONTENDED = 0.5
# Before drafting was ever timed. Head and draft model: share of a one-row step per drafted token, stated for a model of
# a sixth of the target's size; n-gram look-up is nearly free.
PRIOR_DRAFT_SHARE = {
    DrafterType.SUFFIX: 0.01,
    DrafterType.NGRAM: 0.002,
    DrafterType.HEAD: 0.04,
    DrafterType.MODEL: 0.15,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCell:
    """Exponentially weighted sums of one bucket's steps.

    `verify_seconds`: `seconds` without drafting. `squares`: weighted squared deviations of tick means from the mean
    times steps, over `ticks` weighted ticks: from these follows the standard error of the mean.
    """

    batch: int
    rows: int
    context: int
    steps: float
    seconds: float
    verify_seconds: float
    tokens: float
    squares: float
    ticks: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftingCost:
    """Exponentially weighted drafting time of one drafter. `units`: opportunities (look-up) or drafted tokens."""

    name: str
    type: DrafterType
    seconds: float
    units: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostState:
    """All figures on cost. `profile`: cells of all accelerators of the fleet, summed."""

    profile: tuple[StepCell, ...] = ()
    measured: tuple[MeasuredCell, ...] = ()
    drafting: tuple[DraftingCost, ...] = ()


def is_mostly_contended(delta: CounterDelta) -> bool:
    """Were most decode steps of this interval disturbed by something else on the machine?"""
    contended = sum(cell.contended for cell in delta.cells)
    clean = sum(cell.steps for cell in delta.cells)
    return contended > MOSTLY_CONTENDED * (clean + contended)


def profiled(profiles: Sequence[Profile]) -> tuple[StepCell, ...]:
    """One profile of the fleet. A cell without a quiet sample anywhere is the fastest of its contended ones."""
    quiet: dict[CellKey, StepCell] = {}
    stand_ins: dict[CellKey, StepCell] = {}
    for cell in (cell for profile in profiles for cell in profile.cells if cell.seconds > 0):
        at = key(cell)
        if cell.steps > 0:
            quiet[at] = merged(quiet[at], cell) if at in quiet else cell
        elif at not in stand_ins or cell.seconds < stand_ins[at].seconds:
            stand_ins[at] = cell.model_copy(update={"steps": 1})
    cells = stand_ins | quiet
    return tuple(cells[at] for at in sorted(cells))


def update(state: CostState, delta: CounterDelta, *, half_life: float = HALF_LIFE_STEPS) -> CostState:
    """Take in an interval's quiet steps, and its drafting where most steps were quiet: that isn't timed apart."""
    cells = {(cell.batch, cell.rows, cell.context): cell for cell in state.measured}
    drafting_of = _drafting_seconds_per_cell(delta)
    for cell in delta.cells:
        if cell.steps > 0 and cell.seconds > 0:
            at = key(cell)
            cells[at] = _taken_in(cells.get(at), cell, drafting_of.get(at, 0.0), half_life)
    return CostState(
        profile=state.profile,
        measured=tuple(cells[at] for at in sorted(cells)),
        drafting=state.drafting if is_mostly_contended(delta) else _drafting(state.drafting, delta),
    )


def recalled(state: CostState, history: CounterDelta) -> CostState:
    """Where a new leader begins: what steps and drafting took since the pods began, weighing little."""
    seen = update(state, history)
    return CostState(
        profile=seen.profile,
        measured=tuple(_weighing(cell, HISTORY_STEPS) for cell in seen.measured),
        drafting=tuple(_with_units(cost, HISTORY_UNITS) for cost in seen.drafting),
    )


def draft_unit_seconds(state: CostState, *, name: str, type: DrafterType, one_row_step_seconds: float) -> float:
    """Seconds per unit of drafting: per opportunity of a COUNT_BASED drafter, per drafted token of others."""
    for cost in state.drafting:
        if cost.name == name and cost.units >= 1.0:
            return cost.seconds / cost.units
    return PRIOR_DRAFT_SHARE[type] * one_row_step_seconds


def relative_error(cell: MeasuredCell) -> float:
    """Standard error of a cell's mean, relative. A cell seen in one tick only gets a stated 5 % of one step's time."""
    mean = cell.seconds / cell.steps
    variance_of_step = cell.squares / (cell.ticks - 1.0) if cell.ticks >= 1.5 else (0.05 * mean) ** 2
    return max(0.003, math.sqrt(variance_of_step / cell.steps) / mean)


def _taken_in(old: MeasuredCell | None, new: StepCell, drafting: float, half_life: float) -> MeasuredCell:
    # A draft that is dearer than half of the step is a mismatch of buckets, not a figure.
    verify = max(new.seconds - drafting, 0.5 * new.seconds)
    if old is None:
        old = MeasuredCell(
            batch=new.batch,
            rows=new.rows,
            context=new.context,
            steps=0.0,
            seconds=0.0,
            verify_seconds=0.0,
            tokens=0.0,
            squares=0.0,
            ticks=0.0,
        )
    keep = math.exp2(-new.steps / half_life)
    steps = old.steps * keep + new.steps
    seconds = old.seconds * keep + new.seconds
    mean_now, mean_all = new.seconds / new.steps, seconds / steps
    return MeasuredCell(
        batch=new.batch,
        rows=new.rows,
        context=new.context,
        steps=steps,
        seconds=seconds,
        verify_seconds=old.verify_seconds * keep + verify,
        tokens=old.tokens * keep + new.tokens,
        squares=old.squares * keep + new.steps * (mean_now - mean_all) ** 2,
        ticks=old.ticks * keep + 1.0,
    )


def _with_units(cost: DraftingCost, most: float) -> DraftingCost:
    keep = min(1.0, most / max(1.0, cost.units))
    return replace(cost, seconds=cost.seconds * keep, units=cost.units * keep)


def _weighing(cell: MeasuredCell, most: float) -> MeasuredCell:
    keep = min(1.0, most / cell.steps)
    return replace(
        cell,
        steps=cell.steps * keep,
        seconds=cell.seconds * keep,
        verify_seconds=cell.verify_seconds * keep,
        tokens=cell.tokens * keep,
        squares=cell.squares * keep,
    )


def _drafting_seconds_per_cell(delta: CounterDelta) -> dict[CellKey, float]:
    """The interval's drafting time, spread over all steps by their draft rows; of it what the quiet steps took."""
    drafted = {key(cell): max(0, cell.rows - cell.batch) for cell in delta.cells}
    all_rows = sum(drafted[key(cell)] * (cell.steps + cell.contended) for cell in delta.cells)
    seconds = sum(drafter.draft_seconds for drafter in delta.drafters)
    return {key(cell): seconds * drafted[key(cell)] * cell.steps / all_rows for cell in delta.cells} if all_rows else {}


def _drafting(costs: Sequence[DraftingCost], delta: CounterDelta) -> tuple[DraftingCost, ...]:
    known = {cost.name: cost for cost in costs}
    for drafter in delta.drafters:
        units = drafter.opportunities if drafter.type in COUNT_BASED else drafter.drafted_tokens
        keep = math.exp2(-units / HALF_LIFE_STEPS)
        old = known.get(drafter.name)
        known[drafter.name] = DraftingCost(
            name=drafter.name,
            type=drafter.type,
            seconds=(old.seconds * keep if old else 0.0) + drafter.draft_seconds,
            units=(old.units * keep if old else 0.0) + units,
        )
    return tuple(known.values())
