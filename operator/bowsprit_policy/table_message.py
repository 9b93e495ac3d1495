"""A decision on draft lengths in one sentence with its numbers, for status, events and logs.

Decides nothing.
"""

from __future__ import annotations

from bowsprit_policy import table as tables
from bowsprit_policy.acceptance import Estimate
from bowsprit_policy.decision import TableReason
from bowsprit_policy.switching import MIN_GAIN, MIN_STANDARD_ERRORS
from bowsprit_policy.table_decision import MIN_DRAFTS, DraftLengthInputs, RowChange, standard_errors_needed


def change(inputs: DraftLengthInputs, row: RowChange) -> str:
    what = f"{tables.change_text(row.before, row.after)} at batch ≤ {row.batch}"
    chosen = row.chosen
    if row.current is None or row.gain is None:
        figures = (
            f"expected E {chosen.acceptance_length:.2f}, step {_ms(chosen.step_seconds)} ms "
            f"against {_ms(row.plain.step_seconds)} ms at K 0"
        )
        return f"{_cause(inputs, row)}: {what}: {figures}"
    return (
        f"{what}: E {row.current.acceptance_length:.2f} → {chosen.acceptance_length:.2f}, "
        f"step {_ms(row.current.step_seconds)} → {_ms(chosen.step_seconds)} ms, goodput {_percent(row.gain)}"
    )


def _cause(inputs: DraftLengthInputs, row: RowChange) -> str:
    if row.reason is TableReason.FIRST_TABLE:
        return "first table, from the profile and what is known of the drafters"
    if row.reason is TableReason.DRAFTER_ADMITTED:
        return f"{', '.join(name for name in row.after if name not in row.before)} may draft now"
    if row.reason in (TableReason.DRAFTER_BROKEN, TableReason.DRAFTER_UNAVAILABLE):
        gone = [view for view in inputs.drafters if view.name in row.before and not view.is_admitted]
        return "; ".join(f"{view.name} is {view.state}: {view.reason or 'no reason given'}" for view in gone)
    return "the spec's limits or drafters changed"


def hold(inputs: DraftLengthInputs, row: RowChange) -> str:
    at = f"K {tables.text(row.before)} stays at batch ≤ {row.batch}"
    if row.gain is None or row.considered is None:
        return (
            f"{at}: nothing gives more, E {row.chosen.acceptance_length:.2f}, "
            f"step {_ms(row.chosen.step_seconds)} ms against {_ms(row.plain.step_seconds)} ms at K 0"
        )
    why = {
        TableReason.GAIN_TOO_SMALL: f"under {MIN_GAIN:.0%}",
        TableReason.GAIN_WITHIN_NOISE: "within two standard errors",
        TableReason.WARMING_UP: (
            f"but only {inputs.drafts} of {MIN_DRAFTS} drafts seen since this leader began, which takes "
            f"{standard_errors_needed(inputs.drafts):.1f} standard errors"
        ),
        TableReason.CONTENDED: "but most steps were contended",
        TableReason.DWELL_TIME: f"but the last switch is younger than {inputs.settings.dwell_seconds:g} s",
    }[row.reason]
    return f"{at}: K {row.considered.choice} would gain {_percent(row.gain)}, {why}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _percent(of: Estimate) -> str:
    """With two standard errors, as the switching rule counts them."""
    return f"{of.value * 100:+.1f} % ± {MIN_STANDARD_ERRORS * of.error * 100:.1f} %"
