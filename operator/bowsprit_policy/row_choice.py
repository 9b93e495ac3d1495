"""Which caps hold at one batch bucket: those in force, until others are better for real or they can't stay.

A row that can't stay (a drafter broke, was loaded or removed; limits changed) moves at once. Then whoever may stay
keeps its cap: lowering it is a move like any other, for a gain that is real. Refuses to know the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bowsprit_policy import newcomers, pool, switching
from bowsprit_policy import table as tables
from bowsprit_policy.acceptance import Estimate
from bowsprit_policy.composition import Score, score
from bowsprit_policy.decision import Alternative, TableReason
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.switching import MIN_DRAFTS, MIN_GAIN, Pool, enumerated, is_real, standard_errors_needed
from bowsprit_policy.table_decision import DraftLengthInputs, RowChange
from bowsprit_policy.wire import DrafterState

# So long a contended machine holds the table; afterwards it moves on what was measured in quiet steps.
MAX_CONTENDED_HOLD_TICKS = 4
NUM_ALTERNATIVES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Another choice and its gain over the one in force; `cautious`: where who has few drafts is doubted."""

    other: Score
    gain: Estimate
    cautious: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is chosen from at one batch bucket: `options` are the caps that any drafter may have.

    `ranked`: every choice, best first.
    """

    inputs: DraftLengthInputs
    pool: Pool
    times: StepTimes
    batch: int
    before: Mapping[str, int]
    options: tuple[int, ...]
    ranked: tuple[Score, ...]

    @classmethod
    def of(cls, inputs: DraftLengthInputs, of: Pool, times: StepTimes, *, batch: int) -> Row:
        limit, least = pool.limit(inputs), max(1, inputs.settings.min_draft_tokens)
        options = (0, *range(min(least, limit), limit + 1)) if limit > 0 else (0,)
        return cls(
            inputs=inputs,
            pool=of,
            times=times,
            batch=batch,
            before=tables.caps_at(inputs.table, batch) if inputs.table is not None else {},
            options=options,
            ranked=tuple(enumerated(of, [options] * len(of.members), batch=batch, times=times)),
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.pool.members)

    def priced(self, caps: Mapping[str, int]) -> Score:
        """A drafter that isn't named has 0."""
        wanted = tuple(caps.get(name, 0) for name in self.names)
        return score(self.pool.members, wanted, batch=self.batch, times=self.times)

    def compared(self, current: Score, other: Score) -> Compared:
        gain = cautious = self._gain(self.pool, current, other)
        doubted = newcomers.doubted(self.pool, before=current.caps, after=other.caps)
        if doubted is not self.pool:
            cautious = self._gain(doubted, current, other)
        return Compared(other=other, gain=gain, cautious=cautious)

    def change(
        self, chosen: Score, reason: TableReason, *, current: Score | None = None, compared: Compared | None = None
    ) -> RowChange:
        plain = next(other for other in self.ranked if not any(other.caps))
        return RowChange(
            batch=self.batch,
            before=dict(self.before),
            after=dict(zip(self.names, chosen.caps, strict=True)),
            reason=reason,
            current=self._alternative(current) if current else None,
            chosen=self._alternative(chosen),
            plain=self._alternative(plain),
            considered=self._alternative(compared.other) if compared else None,
            gain=compared.gain if compared else None,
            alternatives=tuple(self._alternative(other) for other in self.ranked[:NUM_ALTERNATIVES]),
        )

    def _gain(self, by: Pool, current: Score, other: Score) -> Estimate:
        return switching.gain(by, current=current, other=other, batch=self.batch, times=self.times)

    def _alternative(self, of: Score) -> Alternative:
        return Alternative(
            choice=tables.text(dict(zip(self.names, of.caps, strict=True))),
            acceptance_length=of.acceptance_length,
            step_seconds=of.step_seconds,
            goodput=of.goodput(self.batch),
        )


def choose(row: Row) -> RowChange:
    """The caps that should hold from now on, changed or not, and why."""
    forced = _forced(row)
    if forced is TableReason.DRAFTER_ADMITTED:
        return _admitted(row, {name for name in row.names if name not in row.before})
    if forced is not None:
        return row.change(_best_beside(row, _left_open(row, forced)), forced)
    current = row.priced(row.before)
    swapped = _newcomers_at_0(row)
    if swapped:
        admission = _admitted(row, swapped)
        if admission.is_changed:
            return admission
    return _moved(row, current)


def _moved(row: Row, current: Score) -> RowChange:
    """What is in force may stay: it moves for a gain that is real."""
    considered = _considered(row, current)
    if considered is None:
        return row.change(current, TableReason.TABLE_IS_BEST, current=current)
    hold = _reason_to_hold(row, considered)
    if hold is not None:
        return row.change(current, hold, current=current, compared=considered)
    best, reason = considered.other, TableReason.GOODPUT_GAIN
    if not any(best.caps):
        reason = TableReason.SPECULATION_LOSES
    elif not any(current.caps):
        reason = TableReason.SPECULATION_PAYS_AGAIN
    return row.change(best, reason, current=current, compared=considered)


def _considered(row: Row, current: Score) -> Compared | None:
    """The best-ranked choice whose gain is real, else the best-ranked one; None when nothing beats the current."""
    candidates = row.ranked[:NUM_ALTERNATIVES]
    if not all(newcomers.is_measured(estimate.drafts) for estimate in row.pool.estimates):
        candidates += tuple(_lowering_nobody(row, current))
    better = {other.caps: other for other in candidates if other.goodput(row.batch) > current.goodput(row.batch)}
    compared = (row.compared(current, other) for other in better.values())
    first = next(compared, None)
    if first is None or is_real(first.cautious) or first.gain.value <= MIN_GAIN:
        return first
    return next((one for one in compared if is_real(one.cautious)), first)


def _lowering_nobody(row: Row, current: Score) -> Sequence[Score]:
    """The best-ranked of those choices: all that is better may lower somebody, for figures that are doubted."""
    options = [[k for k in row.options if k >= cap] for cap in current.caps]
    return enumerated(row.pool, options, batch=row.batch, times=row.times)[:NUM_ALTERNATIVES]


def _reason_to_hold(row: Row, considered: Compared) -> TableReason | None:
    inputs, gain = row.inputs, considered.gain
    if gain.value <= MIN_GAIN:
        return TableReason.GAIN_TOO_SMALL
    if not is_real(gain):
        return TableReason.GAIN_WITHIN_NOISE
    if not is_real(considered.cautious):
        return TableReason.NOT_YET_MEASURED
    if gain.value <= standard_errors_needed(inputs.drafts) * gain.error:
        return TableReason.WARMING_UP
    if 0 < inputs.contended_ticks <= MAX_CONTENDED_HOLD_TICKS:
        return TableReason.CONTENDED
    switched_at = inputs.switched_at.get(row.batch)
    if switched_at is not None and inputs.now - switched_at < inputs.settings.dwell_seconds:
        return TableReason.DWELL_TIME
    return None


def _forced(row: Row) -> TableReason | None:
    """Why the row in force can't stay, whatever it gains."""
    if row.inputs.table is None:
        return TableReason.FIRST_TABLE
    states = {view.name: view.state for view in row.inputs.drafters}
    gone = [name for name in row.before if name not in row.names]
    if any(states.get(name) is DrafterState.BROKEN for name in gone):
        return TableReason.DRAFTER_BROKEN
    if any(name in states for name in gone):
        return TableReason.DRAFTER_UNAVAILABLE
    if gone:
        return TableReason.LIMITS_CHANGED
    if any(name not in row.before for name in row.names):
        return TableReason.DRAFTER_ADMITTED
    return TableReason.LIMITS_CHANGED if any(k not in row.options for k in row.before.values()) else None


def _newcomers_at_0(row: Row) -> set[str]:
    """Whose revision was swapped while its cap was 0, say: what that cap rests on is no longer there.

    A new leader waits: it may only be that pods have counted nothing yet.
    """
    if row.inputs.drafts < MIN_DRAFTS:
        return set()
    return {one.name for one in row.pool.estimates if newcomers.is_new(one) and row.before.get(one.name) == 0}


def _admitted(row: Row, who: set[str]) -> RowChange:
    """Caps for them beside the others', which stay as they are."""
    stay = {name: _nearest(row.options, cap) for name, cap in row.before.items() if name not in who}
    options = [row.options if name in who else (stay[name],) for name in row.names]
    chosen, current = _best_beside(row, options), row.priced(stay)
    compared = row.compared(current, chosen) if chosen.caps != current.caps else None
    return row.change(chosen, TableReason.DRAFTER_ADMITTED, current=current, compared=compared)


def _left_open(row: Row, reason: TableReason) -> list[Sequence[int]]:
    """Of each drafter the caps that a forced move may give it: one that was in force is not lowered, but for limits."""
    if reason is TableReason.FIRST_TABLE:
        return [row.options] * len(row.names)
    least = {name: _nearest(row.options, cap) for name, cap in row.before.items()}
    return [tuple(k for k in row.options if k >= least.get(name, 0)) for name in row.names]


def _nearest(options: Sequence[int], cap: int) -> int:
    """The least allowed cap that isn't lower, else the largest."""
    return next((k for k in options if k >= cap), options[-1])


def _best_beside(row: Row, options: Sequence[Sequence[int]]) -> Score:
    return newcomers.best_beside(row.pool, options, batch=row.batch, times=row.times)
