"""Which caps should hold at each batch: K* maximises E / C, and the table moves only for a gain that is real.

Holds rather than guesses when metrics are missing, when the machine was contended, and, unless the gain is clear, while
a new leader's estimates are young. Refuses to know pods, scrapes and revisions of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bowsprit_policy import table as tables
from bowsprit_policy import table_message
from bowsprit_policy.acceptance import AcceptanceState, Estimate, estimate
from bowsprit_policy.composition import ORDER, Member, Score, score
from bowsprit_policy.cost import draft_unit_seconds
from bowsprit_policy.decision import Alternative, TableReason
from bowsprit_policy.observation import SpeculationMode
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.switching import MIN_GAIN, Pool, enumerated, gain, is_real
from bowsprit_policy.table_decision import (
    DrafterView,
    DraftLengthInputs,
    RowChange,
    TableDecision,
    standard_errors_needed,
)
from bowsprit_policy.wire import DrafterState, TableRow

MISSING_TICKS_BEFORE_SAFE_TABLE = 10
# So long a contended machine holds the table; afterwards it moves on what was measured in quiet steps.
MAX_CONTENDED_HOLD_TICKS = 4
NUM_ALTERNATIVES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Another choice and its gain over the one in force."""

    other: Score
    gain: Estimate


def decide(inputs: DraftLengthInputs) -> TableDecision:
    """The table that should be in force from now on."""
    if not inputs.drafters:
        return _held(inputs, TableReason.NO_PODS, "no engine has reported yet")
    match inputs.settings.mode:
        case SpeculationMode.OFF:
            return _ordered(inputs, {}, TableReason.OFF_BY_SPEC, "speculation is off in the spec")
        case SpeculationMode.FIXED:
            k = min(inputs.settings.fixed_draft_tokens, _limit(inputs))
            caps = {view.name: k for view in _admitted(inputs)}
            return _ordered(inputs, caps, TableReason.FIXED_BY_SPEC, f"K is fixed at {k} in the spec")
    if inputs.missing_ticks > 0:
        return _without_metrics(inputs)
    times = StepTimes(cost=inputs.cost)
    if not times.is_known:
        return _held(inputs, TableReason.NO_PROFILE, "no step time is known: neither a profile nor measured steps")
    pool = _pool(inputs, times)
    rows = tuple(_row(inputs, pool, times, batch) for batch in buckets(times, inputs.max_batch_size))
    return _summed_up(inputs, rows)


def buckets(times: StepTimes, max_batch_size: int) -> list[int]:
    """Batch buckets of a table: those that have figures, and the largest batch; else powers of two."""
    known = [batch for batch in times.batches() if batch < max_batch_size]
    if not known:
        known = [1 << i for i in range(max_batch_size.bit_length()) if 1 << i < max_batch_size]
    return [*known, max_batch_size]


def _row(inputs: DraftLengthInputs, pool: Pool, times: StepTimes, batch: int) -> RowChange:
    names = [member.name for member in pool.members]
    limit, least = _limit(inputs), max(1, inputs.settings.min_draft_tokens)
    options = [0, *range(min(least, limit), limit + 1)] if limit > 0 else [0]
    ranked = enumerated(pool, [options] * len(names), batch=batch, times=times)
    plain = next(other for other in ranked if not any(other.caps))
    before = tables.caps_at(inputs.table, batch) if inputs.table is not None else {}
    forced = _forced(inputs, before, names, options)

    def row(chosen: Score, reason: TableReason, current: Score | None, considered: Compared | None) -> RowChange:
        return RowChange(
            batch=batch,
            before=before,
            after=dict(zip(names, chosen.caps, strict=True)),
            reason=reason,
            current=_alternative(names, current, batch) if current else None,
            chosen=_alternative(names, chosen, batch),
            plain=_alternative(names, plain, batch),
            considered=_alternative(names, considered.other, batch) if considered else None,
            gain=considered.gain if considered else None,
            alternatives=tuple(_alternative(names, other, batch) for other in ranked[:NUM_ALTERNATIVES]),
        )

    if forced is not None:
        return row(ranked[0], forced, None, None)
    current = score(pool.members, tuple(before[name] for name in names), batch=batch, times=times)
    considered = _considered(pool, current, ranked[:NUM_ALTERNATIVES], batch, times)
    if considered is None:
        return row(current, TableReason.TABLE_IS_BEST, current, None)
    hold = _reason_to_hold(inputs, considered.gain, batch)
    if hold is not None:
        return row(current, hold, current, considered)
    best = considered.other
    if not any(best.caps):
        return row(best, TableReason.SPECULATION_LOSES, current, considered)
    if not any(current.caps):
        return row(best, TableReason.SPECULATION_PAYS_AGAIN, current, considered)
    return row(best, TableReason.GOODPUT_GAIN, current, considered)


def _considered(pool: Pool, current: Score, ranked: Sequence[Score], batch: int, times: StepTimes) -> Compared | None:
    """The best-ranked choice whose gain is real, else the best-ranked one; None when nothing beats the current."""
    better = [other for other in ranked if other.goodput(batch) > current.goodput(batch)]
    compared = (
        Compared(other=other, gain=gain(pool, current=current, other=other, batch=batch, times=times))
        for other in better
    )
    first = next(compared, None)
    if first is None or is_real(first.gain) or first.gain.value <= MIN_GAIN:
        return first
    return next((one for one in compared if is_real(one.gain)), first)


def _reason_to_hold(inputs: DraftLengthInputs, compared: Estimate, batch: int) -> TableReason | None:
    if compared.value <= MIN_GAIN:
        return TableReason.GAIN_TOO_SMALL
    if not is_real(compared):
        return TableReason.GAIN_WITHIN_NOISE
    if compared.value <= standard_errors_needed(inputs.drafts) * compared.error:
        return TableReason.WARMING_UP
    if 0 < inputs.contended_ticks <= MAX_CONTENDED_HOLD_TICKS:
        return TableReason.CONTENDED
    switched_at = inputs.switched_at.get(batch)
    if switched_at is not None and inputs.now - switched_at < inputs.settings.dwell_seconds:
        return TableReason.DWELL_TIME
    return None


def _forced(
    inputs: DraftLengthInputs, before: Mapping[str, int], names: Sequence[str], options: Sequence[int]
) -> TableReason | None:
    """Why the row in force can't stay, whatever it gains."""
    if inputs.table is None:
        return TableReason.FIRST_TABLE
    states = {view.name: view.state for view in inputs.drafters}
    gone = [name for name in before if name not in names]
    if any(states.get(name) is DrafterState.BROKEN for name in gone):
        return TableReason.DRAFTER_BROKEN
    if any(name in states for name in gone):
        return TableReason.DRAFTER_UNAVAILABLE
    if gone:
        return TableReason.LIMITS_CHANGED
    if any(name not in before for name in names):
        return TableReason.DRAFTER_ADMITTED
    return TableReason.LIMITS_CHANGED if any(k not in options for k in before.values()) else None


def _summed_up(inputs: DraftLengthInputs, rows: tuple[RowChange, ...]) -> TableDecision:
    in_use = next((row for row in rows if inputs.batch_in_use <= row.batch), rows[-1])
    changed = [row for row in rows if row.is_changed]
    if not changed and inputs.table is not None:
        return TableDecision(
            table=None,
            reason=in_use.reason,
            message=table_message.hold(inputs, in_use),
            before=tables.text(in_use.before),
            after=tables.text(in_use.after),
            rows=rows,
        )
    principal = (
        in_use
        if in_use.is_changed
        else max(changed, key=lambda row: row.gain.value if row.gain else 0.0, default=in_use)
    )
    others = [row for row in changed if row is not principal]
    message = table_message.change(inputs, principal)
    if others:
        message += "; also " + "; ".join(
            f"{tables.change_text(row.before, row.after)} at batch ≤ {row.batch}" for row in others
        )
    return TableDecision(
        table=tables.composed([(row.batch, row.after) for row in rows]),
        reason=principal.reason,
        message=message,
        before=tables.text(principal.before),
        after=tables.text(principal.after),
        rows=rows,
    )


def _without_metrics(inputs: DraftLengthInputs) -> TableDecision:
    ticks = inputs.missing_ticks
    if ticks < MISSING_TICKS_BEFORE_SAFE_TABLE:
        return _held(inputs, TableReason.METRICS_MISSING, f"no engine has answered for {ticks} ticks")
    times = StepTimes(cost=inputs.cost)
    why = f"no engine has answered for {ticks} ticks: the safe table"
    k = min(1, _limit(inputs))
    caps = {view.name: k for view in _admitted(inputs)}
    if not times.is_known:
        return _ordered(inputs, caps, TableReason.SAFE_TABLE, f"{why}, K {k}")
    pool = _pool(inputs, times)
    rows = []
    for batch in buckets(times, inputs.max_batch_size):
        one, none = (score(pool.members, (each,) * len(caps), batch=batch, times=times) for each in (k, 0))
        pays = one.goodput(batch) > none.goodput(batch)
        rows.append((batch, {member.name: k if pays else 0 for member in pool.members}))
    return _replaced(inputs, tables.composed(rows), TableReason.SAFE_TABLE, f"{why}, K {k} where it pays")


def _ordered(inputs: DraftLengthInputs, caps: dict[str, int], reason: TableReason, message: str) -> TableDecision:
    return _replaced(inputs, tables.composed([(inputs.max_batch_size, caps)]), reason, message)


def _replaced(
    inputs: DraftLengthInputs, table: tuple[TableRow, ...], reason: TableReason, message: str
) -> TableDecision:
    before = tables.text(tables.caps_at(inputs.table or (), inputs.batch_in_use))
    after = tables.text(tables.caps_at(table, inputs.batch_in_use))
    changed = None if table == inputs.table else table
    return TableDecision(table=changed, reason=reason, message=message, before=before, after=after)


def _held(inputs: DraftLengthInputs, reason: TableReason, message: str) -> TableDecision:
    now = tables.text(tables.caps_at(inputs.table or (), inputs.batch_in_use))
    return TableDecision(table=None, reason=reason, message=message, before=now, after=now)


def _admitted(inputs: DraftLengthInputs) -> list[DrafterView]:
    """In the order in which the pool asks them."""
    return sorted((view for view in inputs.drafters if view.is_admitted), key=lambda view: ORDER.index(view.type))


def _pool(inputs: DraftLengthInputs, times: StepTimes) -> Pool:
    known = {state.name: state for state in inputs.acceptance}
    one_row = times.seconds(batch=1, rows=1).value
    estimates, members = [], []
    for view in _admitted(inputs):
        state = known.get(view.name) or AcceptanceState(name=view.name, type=view.type, revision=None)
        figures = estimate(state, max_draft_tokens=_limit(inputs), evaluated=view.evaluated)
        estimates.append(figures)
        members.append(
            Member(
                name=view.name,
                type=view.type,
                share=figures.share.value,
                positions=tuple(position.value for position in figures.positions),
                lengths=figures.lengths,
                unit_seconds=draft_unit_seconds(
                    inputs.cost, name=view.name, type=view.type, one_row_step_seconds=one_row
                ),
            )
        )
    return Pool(members=tuple(members), estimates=tuple(estimates))


def _limit(inputs: DraftLengthInputs) -> int:
    return max(0, min(inputs.settings.max_draft_tokens, inputs.draft_tokens_max))


def _alternative(names: Sequence[str], of: Score, batch: int) -> Alternative:
    return Alternative(
        choice=tables.text(dict(zip(names, of.caps, strict=True))),
        acceptance_length=of.acceptance_length,
        step_seconds=of.step_seconds,
        goodput=of.goodput(batch),
    )
