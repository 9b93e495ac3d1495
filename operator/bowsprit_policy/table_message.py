"""A decision on draft lengths in one sentence with its numbers, for status, events and logs.

Decides nothing.
"""

from __future__ import annotations

from bowsprit_policy import table as tables
from bowsprit_policy.acceptance import Estimate
from bowsprit_policy.decision import TableReason
from bowsprit_policy.newcomers import is_measured
from bowsprit_policy.switching import (
    MIN_DRAFTS,
    MIN_GAIN,
    MIN_STANDARD_ERRORS,
    standard_errors_needed,
)
from bowsprit_policy.table_decision import DraftLengthInputs, RowChange


def change(inputs: DraftLengthInputs, row: RowChange) -> str:
    """What moved at the principal row, and what it is expected to give."""
    what = f"{tables.change_text(row.before, row.after)} at batch ≤ {row.batch}"
    if row.reason is TableReason.DRAFTER_ADMITTED:
        return _admission(inputs, row, what)
    if row.current is None or row.gain is None:
        figures = (
            f"expected E {row.chosen.acceptance_length:.2f}, step {_ms(row.chosen.step_seconds)} ms "
            f"against {_ms(row.plain.step_seconds)} ms at K 0"
        )
        return f"{_cause(inputs, row)}: {what}: {figures}"
    return f"{what}: {_figures(row)}"


def hold(inputs: DraftLengthInputs, row: RowChange) -> str:
    """Why the table stays as it is."""
    at = f"K {tables.text(row.before)} stays at batch ≤ {row.batch}"
    if row.gain is None or row.considered is None:
        return (
            f"{at}: nothing gives more, E {row.chosen.acceptance_length:.2f}, "
            f"step {_ms(row.chosen.step_seconds)} ms against {_ms(row.plain.step_seconds)} ms at K 0"
        )
    return f"{at}: K {row.considered.choice} would gain {_percent(row.gain)}, {_why_held(inputs, row.reason)}"


def _admission(inputs: DraftLengthInputs, row: RowChange, what: str) -> str:
    """Whose caps are new, what they are expected to give, and what was not taken from others for it."""
    revisions = {state.name: state.revision for state in inputs.acceptance}
    new = [name for name, cap in row.after.items() if row.before.get(name) != cap]
    who = ", ".join(name if revisions.get(name) is None else f"{name} ({revisions[name]})" for name in new)
    said = f"{who} may draft now: {what}"
    if row.gain is None:
        said += ": it isn't expected to pay, and is measured by probes"
    else:
        said += f": expected {_figures(row)}"
        said += ", which isn't much, but so it is measured" if row.gain.value <= MIN_GAIN else ""
    best, others = row.alternatives[0], [name for name in row.before if name not in new]
    if others and best.choice != row.chosen.choice and best.goodput > row.chosen.goodput:
        said += f"; K {best.choice} is expected to give more, but for that nothing is taken from {', '.join(others)}"
        said += " before it is measured"
    return said


def _figures(row: RowChange) -> str:
    if row.current is None or row.gain is None:
        return ""
    return (
        f"E {row.current.acceptance_length:.2f} → {row.chosen.acceptance_length:.2f}, "
        f"step {_ms(row.current.step_seconds)} → {_ms(row.chosen.step_seconds)} ms, goodput {_percent(row.gain)}"
    )


def _cause(inputs: DraftLengthInputs, row: RowChange) -> str:
    if row.reason is TableReason.FIRST_TABLE:
        return "first table, from the profile and what is known of the drafters"
    if row.reason in (TableReason.DRAFTER_BROKEN, TableReason.DRAFTER_UNAVAILABLE):
        gone = [view for view in inputs.drafters if view.name in row.before and not view.is_admitted]
        return "; ".join(f"{view.name} is {view.state}: {view.reason or 'no reason given'}" for view in gone)
    return "the spec's limits or drafters changed"


def _why_held(inputs: DraftLengthInputs, reason: TableReason) -> str:
    match reason:
        case TableReason.GAIN_TOO_SMALL:
            return f"under {MIN_GAIN:.0%}"
        case TableReason.GAIN_WITHIN_NOISE:
            return "within two standard errors"
        case TableReason.NOT_YET_MEASURED:
            return f"but lowers a drafter for what few drafts say: {_few_drafts(inputs)}"
        case TableReason.WARMING_UP:
            return (
                f"but only {inputs.drafts} of {MIN_DRAFTS} drafts seen since this leader began, which takes "
                f"{standard_errors_needed(inputs.drafts):.1f} standard errors"
            )
        case TableReason.CONTENDED:
            return "but most steps were contended"
        case TableReason.DWELL_TIME:
            return f"but the last switch is younger than {inputs.settings.dwell_seconds:g} s"
    raise ValueError(f"{reason} is no reason to hold a table against a gain")


def _few_drafts(inputs: DraftLengthInputs) -> str:
    """Of every admitted drafter that has few."""
    seen = {state.name: state.num_scored for state in inputs.acceptance}
    drafts = {view.name: seen.get(view.name, 0.0) for view in inputs.drafters if view.is_admitted}
    return ", ".join(f"{name} has {n:.0f}" for name, n in drafts.items() if not is_measured(n))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _percent(of: Estimate) -> str:
    """With two standard errors, as the switching rule counts them."""
    return f"{of.value * 100:+.1f} % ± {MIN_STANDARD_ERRORS * of.error * 100:.1f} %"
