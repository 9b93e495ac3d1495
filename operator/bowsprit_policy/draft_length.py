"""Which caps should hold at each batch: K* maximises E / C, and the table moves only for a gain that is real.

Holds rather than guesses when metrics are missing, when the machine was contended, and, unless the gain is clear, while
a new leader's estimates are young. Refuses to know pods, scrapes and revisions of the table.
"""

from __future__ import annotations

from bowsprit_policy import pool, row_choice, table_message
from bowsprit_policy import table as tables
from bowsprit_policy.composition import score
from bowsprit_policy.decision import TableReason
from bowsprit_policy.observation import SpeculationMode
from bowsprit_policy.row_choice import Row
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.table_decision import DraftLengthInputs, RowChange, TableDecision
from bowsprit_policy.wire import TableRow

MISSING_TICKS_BEFORE_SAFE_TABLE = 10


def decide(inputs: DraftLengthInputs) -> TableDecision:
    """The table that should be in force from now on."""
    if not inputs.drafters:
        return _held(inputs, TableReason.NO_PODS, "no engine has reported yet")
    match inputs.settings.mode:
        case SpeculationMode.OFF:
            return _ordered(inputs, {}, TableReason.OFF_BY_SPEC, "speculation is off in the spec")
        case SpeculationMode.FIXED:
            k = min(inputs.settings.fixed_draft_tokens, pool.limit(inputs))
            caps = {view.name: k for view in pool.admitted(inputs)}
            return _ordered(inputs, caps, TableReason.FIXED_BY_SPEC, f"K is fixed at {k} in the spec")
    if inputs.missing_ticks > 0:
        return _without_metrics(inputs)
    times = StepTimes(cost=inputs.cost)
    if not times.is_known:
        return _held(inputs, TableReason.NO_PROFILE, "no step time is known: neither a profile nor measured steps")
    members = pool.of_inputs(inputs, times)
    rows = (Row.of(inputs, members, times, batch=batch) for batch in buckets(times, inputs.max_batch_size))
    return _summed_up(inputs, tuple(map(row_choice.choose, rows)))


def buckets(times: StepTimes, max_batch_size: int) -> list[int]:
    """Batch buckets of a table: those that have figures, and the largest batch; else powers of two."""
    known = [batch for batch in times.batches() if batch < max_batch_size]
    if not known:
        known = [1 << i for i in range(max_batch_size.bit_length()) if 1 << i < max_batch_size]
    return [*known, max_batch_size]


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
    k = min(1, pool.limit(inputs))
    caps = {view.name: k for view in pool.admitted(inputs)}
    if not times.is_known:
        return _ordered(inputs, caps, TableReason.SAFE_TABLE, f"{why}, K {k}")
    members = pool.of_inputs(inputs, times).members
    rows = []
    for batch in buckets(times, inputs.max_batch_size):
        one, none = (score(members, (each,) * len(caps), batch=batch, times=times) for each in (k, 0))
        pays = one.goodput(batch) > none.goodput(batch)
        rows.append((batch, {member.name: k if pays else 0 for member in members}))
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
