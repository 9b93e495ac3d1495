"""The drafters that may draft, each with what is known or believed of it: what choices of caps are priced with.

Refuses to know which caps are good.
"""

from __future__ import annotations

from bowsprit_policy.acceptance import AcceptanceState, estimate
from bowsprit_policy.composition import ORDER, Member
from bowsprit_policy.cost import draft_unit_seconds
from bowsprit_policy.step_times import StepTimes
from bowsprit_policy.switching import Pool
from bowsprit_policy.table_decision import DrafterView, DraftLengthInputs


def limit(inputs: DraftLengthInputs) -> int:
    """The largest cap that the spec and the engines allow."""
    return max(0, min(inputs.settings.max_draft_tokens, inputs.draft_tokens_max))


def admitted(inputs: DraftLengthInputs) -> list[DrafterView]:
    """In the order in which the pool asks them."""
    return sorted((view for view in inputs.drafters if view.is_admitted), key=lambda view: ORDER.index(view.type))


def of_inputs(inputs: DraftLengthInputs, times: StepTimes) -> Pool:
    """The admitted drafters. Requires that a step time is known."""
    known = {state.name: state for state in inputs.acceptance}
    one_row = times.seconds(batch=1, rows=1).value
    estimates, members = [], []
    for view in admitted(inputs):
        state = known.get(view.name) or AcceptanceState(name=view.name, type=view.type, revision=None)
        figures = estimate(state, max_draft_tokens=limit(inputs), evaluated=view.evaluated)
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
